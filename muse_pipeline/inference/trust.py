"""The judgement of the numbers of a slide, which all outputs read.

A finding that shows a number to be wrong leaves it out of totals, plots and tests; one that leaves
it unproven marks it. ``find`` lists the findings about a slide, and ``RULES`` states what each of
them means for every quantity. A new finding is a line in both, and text in ``report.notices``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from muse_pipeline.cohort.layout import CohortFiles, SlideFiles
from muse_pipeline.core.files import find_json
from muse_pipeline.core.provenance import (
    EOSIN,
    FLAGGED,
    NO_BROWN,
    NOT_KNOWN,
    OF_CELLS,
    OTHER_STAIN,
    STATED_IHC,
    Provenance,
    Regions,
)
from muse_pipeline.core.specimen import name_organ
from muse_pipeline.core.text import count_noun
from muse_pipeline.core.types import ARTEFACTS, FROM_NUCLEI, TISSUES
from muse_pipeline.nuclei.parquet import read_provenance
from muse_pipeline.slides.mpp import DOUBT as MPP_DOUBT
from muse_pipeline.slides.mpp import describe_implausible, is_of_scanner
from muse_pipeline.slides.tiff_pictures import SEVERAL
from muse_pipeline.tissue.find import DOUBT as TISSUE_DOUBT
from muse_pipeline.tissue.stain import NOT_FOUND

USE, MARK, LEAVE_OUT = "use", "mark", "leave out"
# Quantities of a slide; those of a single class are named by ``of_class``.
NUCLEI, CLASSES, POSITIVE, REGIONS = QUANTITIES = ("nuclei", "classes", "positive", "regions")


class Rule(NamedTuple):
    """The meaning of a finding: its name in a few words, what to do about it, and what becomes of
    every quantity.
    """

    word: str
    remedy: str
    nuclei: str = USE
    classes: str = USE
    positive: str = USE
    regions: str = USE


_WRONG, _UNPROVEN = (LEAVE_OUT,) * 4, (MARK,) * 4
RULES = {
    "stain": Rule("other stain", "use a model for this stain", *_WRONG),
    "scale": Rule("doubtful scale", "correct the pixel size", *_WRONG),
    "same": Rule("same picture twice", "remove one of the two from the sheet", *_WRONG),
    "classes": Rule("doubtful classes", "do not use the classes", USE, LEAVE_OUT, USE, LEAVE_OUT),
    "regions": Rule("doubtful regions", "check regions.png", regions=LEAVE_OUT),
    "membranes": Rule(
        "membrane marker", "use the scores of membranes, from --cells", positive=LEAVE_OUT
    ),
    "gaps": Rule("gaps", "run the slide again", *_UNPROVEN),
    "ihc": Rule("check stain", "state the stain", *_UNPROVEN),
    "unlike": Rule("unlike training", "check the overlays", *_UNPROVEN),
    "unknown": Rule("not compared with training", "check the overlays", *_UNPROVEN),
    "mpp": Rule("check mpp", "check the pixel size", *_UNPROVEN),
    "tissue": Rule("check tissue", "check tissue.png", *_UNPROVEN),
    "picture": Rule("check picture", "check that the right picture was read", *_UNPROVEN),
    "artefacts": Rule("artefacts", "check the outlined artefacts", *_UNPROVEN),
    "organ": Rule("", "check the classes on the overlays", USE, MARK, USE, MARK),
    "no_organ": Rule("", "state the organ with --organ or in the sheet", USE, MARK, USE, MARK),
    "third_stain": Rule("no third stain", "check the positive nuclei", positive=MARK),
    "unmapped": Rule("no regions", "run the slide again"),
    "partner": Rule("no partner", "correct the partner in the sheet"),
}
OF_ORGAN = ("organ", "no_organ")  # findings about those classes that the card does not list
OF_CLASSES = ("classes", *OF_ORGAN)  # findings about regions only if these come from the classes
OF_RUN = (*OF_ORGAN, "unknown")  # findings that are described once for all slides

# share of judged nuclei in tissue of another kind; by outlines of pathologists it is 0.04 to 0.08
MAX_UNLIKE, LEAST_JUDGED = 0.15, 100
MUCH = 0.01  # share of nuclei in artefacts from which they are a finding
MUCH_POSITIVE = 10.0  # percentage of positive nuclei above which their brown would be recognised
BARE_MM2 = 0.05  # tissue of at least this area should have a nucleus


def of_class(name: str) -> str:
    """The quantity that is the count of one class."""
    return f"nuclei_{name}"


@dataclass(frozen=True)
class Trust:
    """The verdicts on the numbers of a slide, and the findings behind them."""

    findings: Mapping[str, str]  # reason of each finding, in the order of ``RULES``
    # quantities that the slide has -> findings that mark them or leave them out
    effects: Mapping[str, Mapping[str, str]]
    provenance: Provenance | None = None  # None for a failed slide, which has no numbers

    def verdict(self, quantity: str) -> str:
        """``USE``, ``MARK`` or ``LEAVE_OUT``."""
        verdicts = self.effects.get(quantity, {}).values()
        return LEAVE_OUT if LEAVE_OUT in verdicts else MARK if verdicts else USE

    def kinds(self, quantity: str, verdict: str) -> list[str]:
        """The findings behind the verdict on a quantity; empty if its verdict is another."""
        own = self.effects.get(quantity, {}).items()
        return [kind for kind, one in own if one == verdict == self.verdict(quantity)]

    def words(self, quantity: str, verdict: str) -> list[str]:
        """The same in a few words each."""
        return [RULES[kind].word or self.findings[kind] for kind in self.kinds(quantity, verdict)]

    def own_words(self, quantity: str, verdict: str) -> list[str]:
        """Those that do not concern all nuclei."""
        of_all = [] if quantity == NUCLEI else self.words(NUCLEI, verdict)
        return [word for word in self.words(quantity, verdict) if word not in of_all]

    def left_out(self, quantity: str) -> str:
        """The gravest reason to leave out a quantity, in a few words; "" if it is not left out."""
        return next(iter(self.words(quantity, LEAVE_OUT)), "")

    def marks(self, quantity: str) -> str:
        """The reasons for a mark of a quantity alone, in a few words; "" if it has none."""
        return ", ".join(self.own_words(quantity, MARK))

    def classes_with(self, kind: str) -> list[str]:
        """Names of the classes whose counts a finding marks or leaves out."""
        start = of_class("")
        own = [name for name, kinds in self.effects.items() if kind in kinds]
        return [name.removeprefix(start) for name in own if name.startswith(start)]

    def describe(self, verdict: str) -> str:
        """The quantities with a verdict and the findings behind it, as in "regions: check tissue";
        "" if there are none.
        """
        start, parts = of_class(""), {}
        for quantity in self.effects:
            if words := self.own_words(quantity, verdict):
                parts.setdefault(", ".join(words), []).append(quantity)
        every_class = {name for name in self.effects if name.startswith(start)}
        texts = []
        for words, names in parts.items():
            dropped = every_class if every_class <= set(names) else {CLASSES}
            shown = [name.removeprefix(start) for name in names if name not in dropped]
            texts.append(f"{', '.join(shown)}: {words}")
        return "; ".join(texts)

    def to_json(self) -> dict[str, dict[str, str]]:
        """The findings and the verdict on every quantity, for ``summary.json``."""
        verdicts = {name: self.verdict(name) for name in self.effects}
        return {"findings": dict(self.findings), "verdicts": verdicts}

    def add(self, kind: str, reason: str, included: Sequence[str] = ()) -> Trust:
        """The same with a finding about all quantities of the slide."""
        effects = {
            name: {kind: verdict, **kinds} if (verdict := _rule(kind, name, included)) else kinds
            for name, kinds in self.effects.items()
        }
        return replace(self, findings={kind: reason, **self.findings}, effects=effects)


def _rule(kind: str, quantity: str, included: Sequence[str]) -> str:
    """The effect of a finding on a quantity: ``MARK``, ``LEAVE_OUT`` or ""."""
    verdict = getattr(RULES[kind], quantity if quantity in QUANTITIES else CLASSES)
    return "" if verdict == USE else MARK if kind in included else verdict


def judge(
    provenance: Provenance,
    organ: str | None = None,
    warnings: Sequence[str] = (),
    tissue_mm2: float = 0.0,
    included: Sequence[str] = (),
) -> Trust:
    """Judge the numbers of a slide.

    Args:
        provenance: provenance of its nuclei.
        organ: its organ in the sheet, "" if not stated; None to leave the organ out of account.
        warnings: warnings about its file and its tissue.
        tissue_mm2: area of its tissue.
        included: findings that only mark what they would leave out, because the user includes them.
    """
    findings = find(provenance, warnings, tissue_mm2)
    names = provenance.class_names if has_classes(provenance) else []
    unmeasured = [] if organ is None else list_unmeasured(provenance, organ)
    if unmeasured and not name_organ(organ) and any(provenance.organs.values()):
        findings["no_organ"] = "organ not stated"
    elif unmeasured:
        findings["organ"] = f"accuracy not measured in {name_organ(organ) or 'any organ'}"
    findings = {kind: findings[kind] for kind in RULES if kind in findings}
    regions = provenance.regions if provenance.regions and provenance.regions.classes else None
    quantities = [NUCLEI, *([CLASSES] if names else []), *map(of_class, names)]
    quantities += [POSITIVE] if provenance.positive_od is not None else []
    quantities += [REGIONS] if regions else []

    def concerns(kind: str, quantity: str) -> bool:
        if quantity == REGIONS and kind in OF_CLASSES:
            is_inside = kind not in OF_ORGAN or _are_inside(regions, unmeasured)
            return regions.source == FROM_NUCLEI and is_inside
        concerned = [*QUANTITIES, *map(of_class, unmeasured)]
        return kind not in OF_ORGAN or quantity in concerned

    effects = {
        quantity: {
            kind: verdict
            for kind in findings
            if concerns(kind, quantity) and (verdict := _rule(kind, quantity, included))
        }
        for quantity in quantities
    }
    return Trust(findings, effects, provenance)


def _are_inside(regions: Regions, names: Iterable[str]) -> bool:
    """True if regions inside the border come from nuclei of one of the classes."""
    inside = {area.name for area in regions.classes if area.is_inside}
    return any(TISSUES.get(name.lower(), name) in inside for name in names)


def find(
    provenance: Provenance, warnings: Sequence[str] = (), tissue_mm2: float = 0.0
) -> dict[str, str]:
    """The reason of each finding that needs no other slide and no organ."""
    verdict, regions = provenance.verdict, provenance.regions
    is_he = verdict.verdict != OTHER_STAIN  # sizes and classes of other stains are not judged
    size = provenance.size_doubt if is_he else ""
    is_scanners = is_of_scanner(provenance.mpp_source)
    implausible = describe_implausible(provenance.slide_mpp, provenance.mpp_source)
    of_mpp = [text for text in warnings if text.startswith(MPP_DOUBT) and text != implausible]
    is_unknown = verdict.verdict == NOT_KNOWN and provenance.n_nuclei
    reasons = {
        "stain": "" if is_he or verdict.is_ihc else "; ".join(verdict.reasons),
        "scale": implausible or ("" if is_scanners else size),
        "classes": provenance.class_doubt if is_he else "",
        "regions": _find_in_regions(provenance),
        "membranes": OF_CELLS if OF_CELLS in verdict.reasons else "",
        "gaps": "; ".join(_find_gaps(provenance)),
        "ihc": _find_in_ihc(provenance) if provenance.positive_od is not None else "",
        "unlike": "; ".join(verdict.reasons) if verdict.verdict == FLAGGED else "",
        "unknown": "; ".join(verdict.reasons) or "not compared" if is_unknown else "",
        "mpp": "; ".join(filter(None, [size if is_scanners else "", *of_mpp])),
        "tissue": "; ".join(_find_in_tissue(provenance, warnings, tissue_mm2)),
        "picture": next((text for text in warnings if SEVERAL in text), ""),
        "artefacts": "; ".join(_find_in_artefacts(provenance)),
        "third_stain": NOT_FOUND if NOT_FOUND in warnings else "",
        "unmapped": regions.reason if regions else "",
    }
    return {kind: reason for kind, reason in reasons.items() if reason}


def _find_gaps(provenance: Provenance) -> Iterator[str]:
    """Yield what is missing because a part was not read, or the network returned nothing usable."""
    if full := len(provenance.full_windows):
        yield f"{count_noun(full, 'window')} held more nuclei than the model can return"
    if provenance.corrupt_fraction:
        yield f"{provenance.corrupt_fraction:.2%} of the tissue cannot be decoded"
    for fault, n in (provenance.guarded_windows or {}).items() if not provenance.proposer else ():
        yield f"for {count_noun(n, 'window')} the network returned {fault}"


def _find_in_regions(provenance: Provenance) -> str:
    """A reason if the regions contradict the nuclei, or come from classes that mean nothing."""
    regions = provenance.regions
    if not regions:
        return ""
    if regions.source == FROM_NUCLEI and provenance.verdict.verdict == OTHER_STAIN:
        return "the regions come from classes of nuclei, which are valid in H&E only"
    n, n_unlike = regions.n_judged or 0, regions.n_unlike_region or 0
    if n < LEAST_JUDGED or n_unlike <= MAX_UNLIKE * n:
        return ""
    return (
        f"check the regions: {n_unlike:,} of {n:,} nuclei are epithelial outside epithelium or"
        " stroma inside it"
    )


def _find_in_ihc(provenance: Provenance) -> str:
    """The reason to check that a slide is immunohistochemistry; "" if colours and statement
    agree.
    """
    reasons = provenance.verdict.reasons
    if STATED_IHC not in reasons:
        return (
            f"{', '.join(reasons)}: nuclei are scored as positive or negative; state"
            " the stain in the sheet"
        )
    percent = 100 * (provenance.n_positive or 0) / max(provenance.n_nuclei or 0, 1)
    if EOSIN in reasons:
        return f"stated as immunohistochemistry, but {EOSIN}, and not brown; is it H&E?"
    if NO_BROWN in reasons and percent >= MUCH_POSITIVE:
        return (
            f"stated as immunohistochemistry, but the {percent:.0f} % positive nuclei are not"
            " brown; is it H&E?"
        )
    return ""


def _find_in_tissue(
    provenance: Provenance, warnings: Sequence[str], tissue_mm2: float
) -> Iterator[str]:
    """Yield reasons to suspect that there is more tissue, or more nuclei, than were found."""
    yield from (
        text.removeprefix(TISSUE_DOUBT) for text in warnings if text.startswith(TISSUE_DOUBT)
    )
    if provenance.n_nuclei == 0 and tissue_mm2 >= BARE_MM2:
        yield f"no nucleus in {tissue_mm2:.3g} mm2 of tissue; is its mpp right?"


def _find_in_artefacts(provenance: Provenance) -> Iterator[str]:
    """Yield the share of nuclei in artefacts if it is high, and what is out of focus but not left
    out.
    """
    quality = provenance.quality
    if quality is None:
        return
    asked, subtracted = set(quality.asked), set(quality.subtract)
    if any(quality.area_mm2.get(kind) for kind in asked - subtracted):
        yield "most of the tissue is out of focus, so nothing is left out for it"
    n_nuclei = max((provenance.n_nuclei or 0) + provenance.n_left_out, 1)
    shown = set(ARTEFACTS) - asked - subtracted
    for kinds, consequence in ((subtracted, "are in no total"), (shown, "are in the totals")):
        counts = {kind: n for kind, n in (quality.n_by_kind or {}).items() if kind in kinds and n}
        if (share := sum(counts.values()) / n_nuclei) >= MUCH:
            kind = ", ".join(counts)
            yield f"{share:.1%} of the nuclei lie in artefacts ({kind}) and {consequence}"


def has_classes(provenance: Provenance) -> bool:
    """True if the classes of a slide mean something: there are several, and it is H&E."""
    return len(provenance.classes) > 1 and provenance.verdict.verdict != OTHER_STAIN


def list_unmeasured(provenance: Provenance, organ: str) -> list[str]:
    """Classes whose accuracy was not measured in an organ, which is "" if it is not stated."""
    name = name_organ(organ)
    return [
        class_name
        for class_name in (provenance.class_names if has_classes(provenance) else ())
        if not name or name not in map(name_organ, provenance.organs.get(class_name, ()))
    ]


def describe_organs(organs: Mapping[str, Sequence[str]]) -> str:
    """The organs in which classes were measured, as in "breast, colon (only Epithelial)"."""
    texts = []
    for organ in dict.fromkeys(chain.from_iterable(organs.values())):
        classes = [name for name, of_name in organs.items() if organ in of_name]
        texts.append(
            organ if len(classes) == len(organs) else f"{organ} (only {', '.join(classes)})"
        )
    return ", ".join(texts)


def judge_results(
    files: CohortFiles, organs: Mapping[str, str], included: Sequence[str] = ()
) -> dict[str, Trust]:
    """Judge those slides of a results folder whose ``organs`` are given."""
    judged = {
        name: judge_files(files.slide(name), organ, included) for name, organ in organs.items()
    }
    repeats = find_repeats(judged)
    return judged | {
        name: judged[name].add("same", reason, included) for name, reason in repeats.items()
    }


def judge_files(files: SlideFiles, organ: str | None, included: Sequence[str] = ()) -> Trust:
    """Judge a slide by the files of its results."""
    provenance = read_provenance(files.nuclei)
    read = [find_json(path) or {} for path in (files.info, files.colour)]
    warnings = [warning for content in read for warning in content.get("warnings", ())]
    tissue_mm2 = 0.0
    if files.mask.is_file():
        with np.load(files.mask) as arrays:
            tissue_mm2 = float(arrays["area_mm2"]) - provenance.left_out_mm2
    return judge(provenance, organ, warnings, tissue_mm2, included)


def find_repeats(slides: Mapping[str, Trust]) -> dict[str, str]:
    """Slides with the picture and the region of interest of another one, which comes first in the
    order of names and whose nuclei are not left out; each with a reason that names it.
    """
    first: dict[tuple[str, Any], str] = {}
    reasons = {}
    for name, trust in sorted(slides.items()):
        if trust.provenance and trust.verdict(NUCLEI) != LEAVE_OUT:
            picture = trust.provenance.fingerprint, trust.provenance.roi
            earlier = first.setdefault(picture, name)
            if earlier != name:
                reasons[name] = f"same picture as {earlier}"
    return reasons


def join_marks(slides: Iterable[Trust]) -> dict[str, str]:
    """The reasons for which each quantity is marked in some of the slides; "" for none."""
    slides = list(slides)
    return {
        quantity: ", ".join(dict.fromkeys(filter(None, (one.marks(quantity) for one in slides))))
        for quantity in dict.fromkeys(name for one in slides for name in one.effects)
    }


_OF = {NUCLEI: "", CLASSES: "classes of ", POSITIVE: "positive nuclei of ", REGIONS: "regions of "}


def describe_slides(slides: Iterable[Trust], quantity: str, verdict: str = LEAVE_OUT) -> str:
    """A note on the slides with a verdict on a quantity, as in "classes of 2 slides left out:
    doubtful classes"; "" if there are none.
    """
    kinds = [one.kinds(quantity, verdict) for one in slides]
    if verdict == LEAVE_OUT:
        kinds = [own[:1] for own in kinds]  # the gravest
    words = [[RULES[kind].word for kind in own if kind not in OF_RUN] for own in kinds]
    counts = Counter(" and ".join(own) for own in words if own)
    if not counts:
        return ""
    why = [word if len(counts) == 1 else f"{n} {word}" for word, n in counts.most_common()]
    done = "left out" if verdict == LEAVE_OUT else "marked"
    return f"{_OF[quantity]}{count_noun(counts.total(), 'slide')} {done}: {', '.join(why)}"


def describe_marks(slides: Iterable[Trust]) -> list[str]:
    """A line for each finding that concerns the whole run, such as an organ: which numbers are
    marked, in how many slides, and why.
    """
    n_slides: Counter[tuple[str, str]] = Counter()
    for trust in slides:
        for kind in filter(trust.findings.__contains__, OF_RUN):
            text, remedy = trust.findings[kind], RULES[kind].remedy
            if kind in OF_ORGAN:
                names, model = trust.classes_with(kind), trust.provenance.model.name
                what = "classes" if names == trust.provenance.class_names else ", ".join(names)
                text = f"{what}: {text}"
                if where := describe_organs(trust.provenance.organs):
                    remedy = f"the accuracy of {model} was measured in {where}; {remedy}"
            n_slides[text, remedy] += 1
    return [
        f"{text} ({count_noun(n, 'slide')}); {remedy}" for (text, remedy), n in n_slides.items()
    ]

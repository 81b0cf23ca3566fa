"""The judgement of the numbers of a slide, which all outputs read.

A finding that shows a number to be wrong leaves it out of totals, plots and tests; one that leaves
it unproven marks it. ``find`` lists the findings about a slide, and ``RULES`` states what each of
them means for every quantity. A new finding is a line in both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

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
NUCLEI, CLASSES, POSITIVE, REGIONS = QUANTITIES = "nuclei", "classes", "positive", "regions"
TEXTS = {NUCLEI: "nuclei", CLASSES: "classes", POSITIVE: "positive nuclei", REGIONS: "regions"}


class Rule(NamedTuple):
    """The meaning of a finding: its name in a few words, what to do about it, and what becomes of
    some quantities.
    """

    word: str  # "" if the reason of the finding is as short
    remedy: str
    effect: str = USE
    of: Sequence[str] = QUANTITIES


_OF_CLASSES = CLASSES, REGIONS
RULES = {
    "stain": Rule("other stain", "use a model for this stain", LEAVE_OUT),
    "scale": Rule("doubtful scale", "correct the pixel size", LEAVE_OUT),
    "same": Rule("same picture twice", "remove one of the two from the sheet", LEAVE_OUT),
    "classes": Rule("doubtful classes", "do not use the classes", LEAVE_OUT, _OF_CLASSES),
    "regions": Rule("doubtful regions", "check regions.png", LEAVE_OUT, (REGIONS,)),
    "membranes": Rule("membrane marker", "use the scores of membranes", LEAVE_OUT, (POSITIVE,)),
    "gaps": Rule("gaps", "run the slide again", MARK),
    "ihc": Rule("check stain", "state the stain", MARK),
    "unlike": Rule("unlike training", "check the overlays", MARK),
    "unknown": Rule("not compared with training", "check the overlays", MARK),
    "mpp": Rule("check mpp", "compare the pixel size with the file", MARK),
    "tissue": Rule("check tissue", "check tissue.png", MARK),
    "picture": Rule("check picture", "check that the right picture was read", MARK),
    "artefacts": Rule("artefacts", "check the outlined artefacts", MARK),
    "organ": Rule("", "check the classes on the overlays", MARK, _OF_CLASSES),
    "no_organ": Rule("", "state the organ with --organ or in the sheet", MARK, _OF_CLASSES),
    "third_stain": Rule("no third stain", "check the positive nuclei", MARK, (POSITIVE,)),
    "unmapped": Rule("no regions", "run the slide again"),
    "partner": Rule("no partner", "correct the partner in the sheet"),
}
OF_ORGAN = ("organ", "no_organ")  # findings about those classes that the card does not list
OF_RUN = (*OF_ORGAN, "unknown")  # findings that are described once for all slides

# share of judged nuclei in tissue of another kind; by outlines of pathologists it is 0.04 to 0.08
MAX_UNLIKE, LEAST_JUDGED = 0.15, 100
MUCH = 0.01  # share of nuclei in artefacts from which they are a finding
MUCH_POSITIVE = 10.0  # percentage of positive nuclei above which their brown would be recognised
BARE_MM2 = 0.05  # tissue of at least this area should have a nucleus
_OF_CLASS = "nuclei_"


def of_class(name: str) -> str:
    """The quantity that is the count of one class."""
    return _OF_CLASS + name


@dataclass(frozen=True)
class Trust:
    """The verdicts on the numbers of a slide, and the findings behind them; empty for a failed
    slide, which has no numbers.
    """

    findings: Mapping[str, str]  # reason of each finding, in the order of ``RULES``
    # quantities that the slide has -> findings that mark them or leave them out
    effects: Mapping[str, Mapping[str, str]]
    provenance: Provenance | None = None
    organ: str | None = None  # as given to ``judge``
    included: Sequence[str] = ()  # as given to ``judge``

    def verdict(self, quantity: str) -> str:
        """``USE``, ``MARK`` or ``LEAVE_OUT``."""
        verdicts = self.effects.get(quantity, {}).values()
        return LEAVE_OUT if LEAVE_OUT in verdicts else MARK if verdicts else USE

    def kinds(self, quantity: str, verdict: str) -> list[str]:
        """The findings behind the verdict on a quantity; empty if its verdict is another."""
        own = self.effects.get(quantity, {}).items()
        return [kind for kind, one in own if one == verdict == self.verdict(quantity)]

    def words(self, quantity: str, verdict: str) -> str:
        """The same in a few words, without findings that concern all nuclei."""
        of_all = self.kinds(NUCLEI, verdict) if quantity != NUCLEI else ()
        kinds = [kind for kind in self.kinds(quantity, verdict) if kind not in of_all]
        return ", ".join(RULES[kind].word or self.findings[kind] for kind in kinds)

    def left_out(self, quantity: str) -> str:
        """The gravest reason to leave out a quantity, in a few words; "" if it is not left out."""
        return next((RULES[kind].word for kind in self.kinds(quantity, LEAVE_OUT)), "")

    def marks(self, quantity: str) -> str:
        """The reasons for a mark of a quantity alone, in a few words; "" if it has none."""
        return self.words(quantity, MARK)

    def classes_with(self, kind: str) -> list[str]:
        """Names of the classes whose counts a finding marks or leaves out."""
        own = [name for name, kinds in self.effects.items() if kind in kinds]
        return [name.removeprefix(_OF_CLASS) for name in own if name.startswith(_OF_CLASS)]

    def describe(self, verdict: str) -> str:
        """The quantities with a verdict and the findings behind it, as in "regions: check tissue";
        "" if there are none.
        """
        parts = {}
        for quantity in self.effects:
            if words := self.words(quantity, verdict):
                parts.setdefault(words, []).append(quantity)
        every_class = {name for name in self.effects if name.startswith(_OF_CLASS)}
        texts = []
        for words, names in parts.items():
            dropped = every_class if every_class <= set(names) else {CLASSES}
            shown = [name.removeprefix(_OF_CLASS) for name in names if name not in dropped]
            texts.append(f"{', '.join(shown)}: {words}")
        return "; ".join(texts)

    def to_json(self) -> dict[str, dict[str, str]]:
        """The findings and the verdict on every quantity, for ``summary.json``."""
        verdicts = {name: self.verdict(name) for name in self.effects}
        return {"findings": dict(self.findings), "verdicts": verdicts}

    def add(self, kind: str, reason: str) -> Trust:
        """The same with one more finding."""
        found = {**self.findings, kind: reason}
        return judge(self.provenance, self.organ, found, self.included)


def judge(
    provenance: Provenance,
    organ: str | None = None,
    found: Mapping[str, str] | None = None,
    included: Sequence[str] = (),
) -> Trust:
    """Judge the numbers of a slide.

    Args:
        provenance: provenance of its nuclei.
        organ: its organ in the sheet, "" if not stated; None to leave the organ out of account.
        found: findings about it, by default those of its provenance alone.
        included: findings that only mark what they would leave out, because the user includes them.
    """
    found = dict(find(provenance) if found is None else found)
    names = provenance.class_names if has_classes(provenance) else []
    has_nuclei = provenance.n_nuclei != 0
    unmeasured = [] if organ is None or not has_nuclei else list_unmeasured(provenance, organ)
    if unmeasured and not name_organ(organ) and any(provenance.organs.values()):
        found["no_organ"] = "organ not stated"
    elif unmeasured:
        found["organ"] = f"accuracy not measured in {name_organ(organ) or 'any organ'}"
    regions = provenance.regions if provenance.regions and provenance.regions.classes else None

    def concerns(kind: str, quantity: str) -> bool:
        rule = RULES[kind]
        if rule.effect == USE or (quantity if quantity in QUANTITIES else CLASSES) not in rule.of:
            return False
        if rule.of != _OF_CLASSES:
            return True
        if quantity == REGIONS:
            is_inside = kind not in OF_ORGAN or _are_inside(regions, unmeasured)
            return regions.source == FROM_NUCLEI and is_inside
        return kind not in OF_ORGAN or quantity in (CLASSES, *map(of_class, unmeasured))

    quantities = [NUCLEI, *([CLASSES] if names else []), *map(of_class, names)]
    quantities += [POSITIVE] if provenance.positive_od is not None else []
    quantities += [REGIONS] if regions else []
    findings = {kind: found[kind] for kind in RULES if kind in found}
    effects = {
        name: {
            kind: MARK if kind in included else RULES[kind].effect
            for kind in findings
            if concerns(kind, name)
        }
        for name in quantities
    }
    return Trust(findings, effects, provenance, organ, included)


def _are_inside(regions: Regions, names: Iterable[str]) -> bool:
    """True if regions inside the border come from nuclei of one of the classes."""
    inside = {area.name for area in regions.classes if area.is_inside}
    return any(TISSUES.get(name.lower(), name) in inside for name in names)


def find(
    provenance: Provenance, warnings: Sequence[str] = (), tissue_mm2: float = 0.0
) -> dict[str, str]:
    """The reason of each finding that needs no other slide and no organ, from the warnings about
    the slide's file and tissue.
    """
    verdict, regions = provenance.verdict, provenance.regions
    is_he = verdict.verdict != OTHER_STAIN  # sizes and classes of other stains are not judged
    size = provenance.size_doubt if is_he else ""
    is_scanners = is_of_scanner(provenance.mpp_source)
    implausible = describe_implausible(provenance.slide_mpp, provenance.mpp_source)
    of_mpp = [text for text in warnings if text.startswith(MPP_DOUBT) and text != implausible]
    is_unknown = verdict.verdict == NOT_KNOWN and provenance.n_nuclei
    why = "; ".join(verdict.reasons)
    reasons = {
        "stain": "" if is_he or verdict.is_ihc else why,
        "scale": implausible or ("" if is_scanners else size),
        "classes": provenance.class_doubt if is_he else "",
        "regions": _find_in_regions(provenance),
        "membranes": describe_membranes(provenance),
        "gaps": "; ".join(describe_gaps(provenance)),
        "ihc": _find_in_ihc(provenance) if provenance.positive_od is not None else "",
        "unlike": why if verdict.verdict == FLAGGED else "",
        "unknown": why or "not compared" if is_unknown else "",
        "mpp": "; ".join(filter(None, [size if is_scanners else "", *of_mpp])),
        "tissue": "; ".join(_find_in_tissue(provenance, warnings, tissue_mm2)),
        "picture": next((text for text in warnings if SEVERAL in text), ""),
        "artefacts": "; ".join(_find_in_artefacts(provenance)),
        "third_stain": NOT_FOUND if NOT_FOUND in warnings else "",
        "unmapped": regions.reason and f"no tissue regions: {regions.reason}" if regions else "",
    }
    return {kind: reason for kind, reason in reasons.items() if reason}


def describe_membranes(provenance: Provenance) -> str:
    """The reason why positive nuclei mean nothing, as brown lies outside nuclei; "" otherwise."""
    if OF_CELLS not in provenance.verdict.reasons:
        return ""
    has_cells = provenance.features and provenance.features.expand_um
    return OF_CELLS if has_cells else f"{OF_CELLS}; run with `cells: true` (--cells) to score them"


def describe_gaps(provenance: Provenance) -> Iterator[str]:
    """Yield what is missing because a part was not read, or the network returned nothing usable."""
    if full := len(provenance.full_windows):
        yield f"{count_noun(full, 'window')} held more nuclei than the model can return"
    if provenance.corrupt_fraction:
        yield f"{provenance.corrupt_fraction:.2%} of the tissue cannot be decoded"
    yield from describe_useless(provenance)


def describe_useless(provenance: Provenance) -> Iterator[str]:
    """Yield how many windows lack nuclei, because the network returned nothing usable."""
    for fault, n in (provenance.guarded_windows or {}).items() if not provenance.proposer else ():
        yield (
            f"for {count_noun(n, 'window')} of {provenance.n_windows:,}, the network returns"
            f" {fault}; their nuclei are missing"
        )


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
    yield from (text for text in warnings if text.startswith(TISSUE_DOUBT))
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
    judged = {}
    for name, organ in organs.items():
        of_slide = files.slide(name)
        provenance = read_provenance(of_slide.nuclei)
        judged[name] = judge(provenance, organ, find_in_files(of_slide, provenance), included)
    repeats = find_repeats(judged).items()
    return judged | {name: judged[name].add("same", reason) for name, reason in repeats}


def find_in_files(files: SlideFiles, provenance: Provenance) -> dict[str, str]:
    """The findings about a slide whose results are complete."""
    read = [find_json(path) or {} for path in (files.info, files.colour)]
    warnings = [warning for content in read for warning in content.get("warnings", ())]
    tissue_mm2 = 0.0
    if files.mask.is_file():
        with np.load(files.mask) as arrays:
            tissue_mm2 = float(arrays["area_mm2"]) - provenance.left_out_mm2
    return find(provenance, warnings, tissue_mm2)


def find_repeats(slides: Mapping[str, Trust]) -> dict[str, str]:
    """Slides with the picture and the region of interest of another one, which comes first in the
    order of names and whose nuclei are not left out; each with a reason that names it.
    """
    first = {}
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
    marks = {}
    for slide in slides:
        for quantity in slide.effects:
            marks.setdefault(quantity, {})[slide.marks(quantity)] = None
    return {quantity: ", ".join(filter(None, reasons)) for quantity, reasons in marks.items()}


def describe_slides(slides: Iterable[Trust], quantity: str, verdict: str = LEAVE_OUT) -> str:
    """A note on the slides with a verdict on a quantity, as in "classes of 2 slides left out:
    doubtful classes"; "" if there are none.
    """
    kinds = [[kind for kind in s.kinds(quantity, verdict) if kind not in OF_RUN] for s in slides]
    # Of several reasons to leave a number out, the gravest is given.
    most = 1 if verdict == LEAVE_OUT else None
    counts = Counter(" and ".join(RULES[kind].word for kind in own[:most]) for own in kinds if own)
    if not counts:
        return ""
    why = [word if len(counts) == 1 else f"{n} {word}" for word, n in counts.most_common()]
    done = "left out" if verdict == LEAVE_OUT else "marked"
    of = "" if quantity == NUCLEI else f"{TEXTS[quantity]} of "
    return f"{of}{count_noun(counts.total(), 'slide')} {done}: {', '.join(why)}"


def describe_marks(slides: Iterable[Trust]) -> list[str]:
    """A line for each finding that concerns the whole run, such as an organ: which numbers are
    marked, in how many slides, and why.
    """
    n_slides = Counter()
    for trust in slides:
        for kind in filter(trust.findings.__contains__, OF_RUN):
            text, remedy = trust.findings[kind], RULES[kind].remedy
            if kind in OF_ORGAN:
                names = trust.classes_with(kind)
                model = trust.provenance.model.name
                what = "classes" if names == trust.provenance.class_names else ", ".join(names)
                text = f"{what}: {text}"
                if where := describe_organs(trust.provenance.organs):
                    remedy = f"the accuracy of {model} was measured in {where}; {remedy}"
            n_slides[text, remedy] += 1
    return [
        f"{text} ({count_noun(n, 'slide')}); {remedy}" for (text, remedy), n in n_slides.items()
    ]

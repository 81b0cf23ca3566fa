"""Judge the outcome of every slide in a sheet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from muse_pipeline.cohort.layout import SlideFiles
from muse_pipeline.cohort.ledgers import SlideSteps, StepRecord, first_problem, read_progress
from muse_pipeline.cohort.sheet import COLUMNS, read_cells
from muse_pipeline.core.coords import qupath_offset_px
from muse_pipeline.core.files import read_json
from muse_pipeline.core.provenance import DARK, NamedFile, Provenance, Quality, Roi
from muse_pipeline.core.specimen import HE, IHC
from muse_pipeline.core.text import count_noun, one_line
from muse_pipeline.core.types import ARTEFACTS, SlideInfo
from muse_pipeline.inference.trust import (
    CLASSES,
    LEAVE_OUT,
    NUCLEI,
    POSITIVE,
    Trust,
    describe_slides,
    find_repeats,
    judge,
    of_class,
)
from muse_pipeline.registration.record import FAILED, read_outcome
from muse_pipeline.report.counts import score
from muse_pipeline.report.slide_summary import summarise_slide
from muse_pipeline.slides.inspect import read_info
from muse_pipeline.tissue.mask import TissueMask

STATUSES = ("failed", "partial", "empty", "ok")  # in the order in which the page lists them
MOST_GAPS = 5  # maximum number of positions of gaps that a reason lists
FOCUS = ARTEFACTS[0]
_UNREADABLE = (OSError, ValueError, KeyError, TypeError)
T = TypeVar("T")


@dataclass(frozen=True)
class SlideResult:
    """The outcome of one slide."""

    slide_id: str  # name of the slide in the sheet
    path: str  # path of the slide's file in the sheet
    folder: Path  # folder of its results
    # "ok"; "empty" (finished, but there is no tissue or no nucleus); "partial" (finished, with the
    # gaps that ``reason`` describes); "failed" (with ``step`` and ``reason``)
    status: str
    step: str  # the step that failed; "" if none did
    reason: str  # reason for any status except "ok"; "" if the status is "ok"
    progress: list[StepRecord]  # records of the steps, one per step
    patient: str = ""  # patient of the slide in the sheet; "" if none
    split: str = ""  # part of the cohort in the sheet, such as "train"; "" if none
    group: str = ""  # group in which the report shows the slide; "" if none
    # cells of the columns that the user added to the sheet, keyed by column
    own: dict[str, Any] = field(default_factory=dict)
    # content of ``slide.json``; None if ``inspect`` did not finish or the file cannot be read
    info: SlideInfo | None = None
    # area of tissue, without artefacts that are left out; None if there is no readable mask
    tissue_mm2: float | None = None
    # content of ``summary.json``; None for a failed slide, so that older results are not used
    summary: dict[str, Any] | None = None
    warnings: list[str] = field(default_factory=list)  # warnings of the steps
    # outcome of the registration of the slide's partner (partner.json); None if it has no partner
    partner: dict[str, Any] | None = None
    organ: str = ""  # organ in the sheet; "" if none
    # findings (``inference.trust``) that do not leave numbers out of the totals
    included: Sequence[str] = ()
    repeats: str = ""  # reason if an earlier slide has the same picture; "" otherwise

    @property
    def files(self) -> SlideFiles:
        """Files of the slide's results."""
        return SlideFiles(self.folder)

    @cached_property
    def provenance(self) -> Provenance | None:
        """Provenance of the slide's nuclei; None for a failed slide."""
        return Provenance.from_dict(self.summary["provenance"]) if self.summary else None

    @property
    def n_nuclei(self) -> int | None:
        """Number of nuclei, without those left out in artefacts; None for a failed slide."""
        return self.summary["n_nuclei"] if self.summary else None

    @property
    def appearance(self) -> str | None:
        """Verdict on the slide's likeness to the model's training pictures; None for a failed
        slide.
        """
        return self.provenance.verdict.verdict if self.provenance else None

    @cached_property
    def trust(self) -> Trust:
        """The judgement of the slide's numbers."""
        if not self.summary:
            return Trust({}, {})
        warnings = dict.fromkeys([*(self.info.warnings if self.info else ()), *self.warnings])
        trust = judge(
            self.provenance, self.organ, list(warnings), self.tissue_mm2 or 0.0, self.included
        )
        return trust.add("same", self.repeats, self.included) if self.repeats else trust

    @property
    def class_counts(self) -> dict[str, int]:
        """Number of nuclei by class, without those left out; empty in immunohistochemistry."""
        if not self.summary or self.positive is not None:
            return {}
        counts = {entry["name"]: entry["n_nuclei"] for entry in self.summary["classes"]}
        verdict = self.trust.verdict
        return {name: n for name, n in counts.items() if verdict(of_class(name)) != LEAVE_OUT}

    @property
    def stain(self) -> str:
        """The stain as which a finished slide was analysed, "H&E" or "IHC"; "" for others and for
        failed slides.
        """
        if not self.summary or DARK in self.provenance.verdict.reasons:
            return ""
        return IHC if self.positive is not None else HE

    @property
    def positive(self) -> dict[str, Any] | None:
        """Counts of positive and negative nuclei in immunohistochemistry (``summary.json``); None
        for other stains.
        """
        return self.summary["immunohistochemistry"] if self.summary else None

    @property
    def intensities(self) -> dict[str, Any] | None:
        """Numbers of cells by intensity in immunohistochemistry (``report.counts``); None for other
        stains.
        """
        return self.summary.get("intensities") if self.summary else None

    @property
    def roi(self) -> Roi | None:
        """File and area of the region of interest; None if there is none."""
        return self.provenance.roi if self.provenance else None

    @property
    def regions(self) -> dict[str, Any] | None:
        """Tissue regions and their nuclei (``report.counts``); None if not requested, or for a
        failed slide.
        """
        return self.summary.get("regions") if self.summary else None

    @property
    def _quality(self) -> Quality | None:
        return self.provenance.quality if self.provenance else None

    @property
    def lacks_regions(self) -> bool:
        """True if the region model failed on a finished slide."""
        return bool(self.regions) and self.regions["status"] == FAILED

    @property
    def artefacts_mm2(self) -> dict[str, float] | None:
        """Area in mm2 of each kind of artefact; None if artefacts were not searched for, or for a
        failed slide.
        """
        return self._quality.area_mm2 or None if self._quality else None

    @property
    def left_out_mm2(self) -> float:
        """Area of tissue in mm2 that totals leave out; 0 for a failed slide."""
        return self.provenance.left_out_mm2 if self.provenance else 0.0

    @property
    def n_left_out(self) -> int:
        """Number of nuclei excluded from the totals; 0 for a failed slide."""
        return self.provenance.n_left_out if self.provenance else 0

    @property
    def n_in_artefacts(self) -> int:
        """Number of nuclei in artefacts, whether totals leave them out or not; 0 for a failed
        slide.
        """
        by_kind = self._quality.n_by_kind if self._quality else None
        return sum(by_kind.values()) if by_kind else self.n_left_out

    @property
    def processed_mm2(self) -> float:
        """Area of tissue in mm2, including what totals leave out."""
        return (self.tissue_mm2 or 0.0) + self.left_out_mm2

    @property
    def steps(self) -> SlideSteps:
        """The steps of the slide, for ``step_costs``."""
        return self.progress, self.processed_mm2

    @property
    def unjudged(self) -> str:
        """The artefacts for which a finished slide was not searched, with the reason; "" if there
        are none.
        """
        if not self.summary:
            return ""
        if self._quality is None:
            return "not sought in this run"
        if not self._quality.area_mm2:
            return "not sought, because the stain is different"
        return (
            ""
            if FOCUS in self._quality.area_mm2
            else "focus not judged, because the slide is too coarse"
        )

    @property
    def lacks_partner(self) -> str:
        """The reason why the registration of the slide's partner failed; "" if it did not."""
        return self.partner["reason"] if self.partner and self.partner["status"] == FAILED else ""

    @property
    def model(self) -> NamedFile | None:
        """The model that found the slide's nuclei; None for a failed slide."""
        return self.provenance.model if self.provenance else None

    @property
    def nuclei_per_mm2(self) -> float | None:
        """Nuclei per mm2 of tissue; None for a failed slide or one without tissue."""
        return self.n_nuclei / self.tissue_mm2 if self.summary and self.tissue_mm2 else None

    @property
    def seconds(self) -> float:
        """Time of all steps, in seconds."""
        return sum(record.seconds or 0 for record in self.progress)


def read_groups(sheet: Path, column: str) -> dict[str, str]:
    """The cells that are not empty in a column of the user's sheet, keyed by slide."""
    return {
        slide: row[column] for slide, row in read_cells(sheet, column).items() if row.get(column)
    }


def gather_cohort(
    results: Path,
    rows: Iterable[dict[str, Any]],
    no_model: str = "",
    groups: Mapping[str, str] | None = None,
    included: Sequence[str] = (),
) -> list[SlideResult]:
    """Judge every slide of the resolved sheet, in its order, and write missing or outdated
    summaries.

    ``no_model`` is the reason why there was no model, and the kinds of doubt ``included`` exclude
    no numbers from totals.
    """
    group_of = groups or {}
    slides = [
        judge_slide(results, row, no_model, group_of.get(str(row["slide_id"]), ""), included)
        for row in rows
    ]
    repeats = find_repeats({slide.slide_id: slide.trust for slide in slides})
    return [replace(slide, repeats=repeats.get(slide.slide_id, "")) for slide in slides]


def judge_slide(
    results: Path,
    row: dict[str, Any],
    no_model: str = "",
    group: str = "",
    included: Sequence[str] = (),
) -> SlideResult:
    """The outcome of the slide in ``row``; "ok" only if every check passes."""
    folder = results / str(row["slide_id"])
    files = SlideFiles(folder)
    progress = read_progress(folder, int(row["shards"]) if row.get("shards") else None, no_model)
    done = {record.step for record in progress if record.status == "ok"}
    info = _read(read_info, files.info) if "inspect" in done else None
    tissue = _read(TissueMask.load, files.mask) if "tissue" in done else None
    warnings = list(info.warnings) if info else []
    if "tissue" in done:
        colour = _read(read_json, files.colour)
        warnings += colour["warnings"] if colour else ["colour.json cannot be read"]
    warnings = [
        *dict.fromkeys(warnings),
        *(warning for record in progress for warning in record.warnings),
    ]
    failed = SlideResult(
        slide_id=str(row["slide_id"]),
        folder=folder,
        status="failed",
        step="report",
        reason="",
        progress=progress,
        **{name: str(row.get(name) or "") for name in ("path", "patient", "split", "organ")},
        group=group,
        own={name: cell for name, cell in row.items() if name not in COLUMNS},
        info=info,
        tissue_mm2=tissue.area_mm2 if tissue else None,
        warnings=warnings,
        partner=read_outcome(files.partner) if row.get("partner") else None,
        included=included,
    )
    if problem := first_problem(progress):
        return replace(failed, step=problem.step, reason=problem.reason)
    if tissue is None:
        return replace(failed, reason=f"{files.mask} cannot be read; run the workflow again")
    if not files.geojson.is_file():
        return replace(failed, step="geojson", reason=_missing(files.geojson))
    try:
        summary = summarise_slide(folder)
        provenance = Provenance.from_dict(summary["provenance"])
    except _UNREADABLE as error:
        return replace(
            failed,
            reason=(
                f"results in {folder} cannot be read ({one_line(error)}); run the workflow again"
            ),
        )
    if stale := _find_stale(files, info, tissue, provenance, failed.path):
        return replace(failed, reason=stale)
    gaps, blank = (
        _name_gaps(summary, info),
        _name_blank(tissue.area_mm2, summary["n_nuclei"], provenance),
    )
    return replace(
        failed,
        status="partial" if gaps else "empty" if blank else "ok",
        step="",
        reason=gaps or blank,
        summary=summary,
        tissue_mm2=max(tissue.area_mm2 - provenance.left_out_mm2, 0.0),
    )


def summarise_cohort(slides: Sequence[SlideResult]) -> str:
    """The number of slides by outcome, as in "12 slides: 10 ok, 1 partial, 1 failed"."""
    counts = Counter(slide.status for slide in slides)
    ends = [f"{counts[status]} {status}" for status in reversed(STATUSES) if counts[status]]
    return f"{count_noun(len(slides), 'slide')}: {', '.join(ends)}"


def counted(slides: Iterable[SlideResult], stain: str = HE) -> list[SlideResult]:
    """The finished slides in the totals of a stain: of H&E, those whose nuclei are not left out,
    and of "IHC", those whose positive nuclei are not.
    """
    is_ihc, quantity = stain == IHC, POSITIVE if stain == IHC else NUCLEI
    return [
        slide
        for slide in slides
        if slide.summary
        and (slide.positive is not None) == is_ihc
        and slide.trust.verdict(quantity) != LEAVE_OUT
    ]


def score_total(slides: Iterable[SlideResult]) -> dict[str, Any] | None:
    """``counts.score`` and sums over all counted slides of immunohistochemistry; None without such
    slides.
    """
    scored = counted(slides, IHC)
    if not scored:
        return None
    counts = [slide.intensities["slide"]["nucleus"] for slide in scored]
    by_intensity = [sum(of_slides) for of_slides in zip(*counts, strict=True)]
    return {
        "n_nuclei": sum(by_intensity),
        "n_positive": sum(by_intensity[1:]),
        "n_slides": len(scored),
        "tissue_mm2": sum(slide.tissue_mm2 or 0 for slide in scored),
        **score(by_intensity),
    }


def classified(slides: Iterable[SlideResult]) -> list[SlideResult]:
    """The counted slides whose classes are also in the totals."""
    return [slide for slide in counted(slides) if slide.trust.verdict(CLASSES) != LEAVE_OUT]


def describe_total(slides: Sequence[SlideResult]) -> str:
    """The nuclei in the totals of each stain, and how many slides they leave out: "9 nuclei of 4
    slides; ...".
    """
    added, scored = counted(slides), score_total(slides)
    has_ihc = any(slide.positive for slide in slides)
    texts = []
    if added or not scored:
        n_nuclei = count_noun(sum(slide.n_nuclei for slide in added), "nucleus", "nuclei")
        texts.append(
            f"{n_nuclei} of {count_noun(len(added), 'slide')}{' of H&E' if has_ihc else ''}"
        )
    if scored:
        percent = f"{scored['percent_positive']:.1f} %" if scored["n_nuclei"] else "none"
        of = (
            f"{count_noun(scored['n_nuclei'], 'nucleus', 'nuclei')} of"
            f" {count_noun(scored['n_slides'], 'slide')}"
        )
        texts.append(f"{percent} positive among {of} of immunohistochemistry")
    texts.append(describe_slides((slide.trust for slide in slides), NUCLEI))
    kept = [slide.trust for slide in slides if slide.trust.verdict(NUCLEI) != LEAVE_OUT]
    texts += [describe_slides(kept, quantity) for quantity in (CLASSES, POSITIVE)]
    return "; ".join(filter(None, texts))


def by_model(slides: Iterable[SlideResult]) -> list[list[SlideResult]]:
    """Finished slides, grouped by model file, in the order of first use."""
    groups: dict[str, list[SlideResult]] = {}
    for slide in slides:
        if slide.model:
            groups.setdefault(slide.model.sha256, []).append(slide)
    return list(groups.values())


def describe_model(slides: Sequence[SlideResult]) -> str:
    """Describe the model of these slides by name and checksum, and count the slides."""
    model = slides[0].model
    return f"{model.name} ({model.sha256[:8]}), {count_noun(len(slides), 'slide')}"


def class_names(slides: Iterable[SlideResult]) -> list[str]:
    """Names of all classes of the cohort, in the order of the models' cards."""
    summaries = [slide.summary for slide in slides if slide.summary]
    return list(
        dict.fromkeys(entry["name"] for summary in summaries for entry in summary["classes"])
    )


def _read(read: Callable[[Path], T], path: Path) -> T | None:
    """The result of ``read``; None if the file cannot be read."""
    try:
        return read(path)
    except _UNREADABLE:
        return None


def _missing(path: Path) -> str:
    return f"{path.name} is missing although its step succeeded; run the workflow again"


def _find_stale(
    files: SlideFiles, info: SlideInfo | None, tissue: TissueMask, provenance: Provenance, path: str
) -> str:
    """Describe which input of finished results has changed since; "" if none has."""
    if info is None:
        return _missing(files.info)
    request, now = files.request("nuclei"), path and Path(path).resolve()
    is_older = request.exists() and files.nuclei.stat().st_mtime_ns < request.stat().st_mtime_ns
    problems = {
        "is unfinished: its nuclei are older than the settings of the last run": is_older,
        "its nuclei were found in a different version of the slide's file": (
            provenance.fingerprint != info.fingerprint
        ),
        "its nuclei were found at a different mpp of the slide": provenance.slide_mpp != info.mpp,
        "its nuclei were found in a different tissue mask or region of interest": (
            provenance.tissue_sha256 not in {None, tissue.sha256}
        ),
        f"its results belong to {info.path}, not to the sheet's {path}": (
            now and now != Path(info.path).resolve()
        ),
    }
    return next(
        (
            f"{problem}; run the workflow again"
            for problem, is_wrong in problems.items()
            if is_wrong
        ),
        "",
    )


def _name_gaps(summary: dict[str, Any], info: SlideInfo) -> str:
    """Describe the gaps of a finished slide and their positions in QuPath; "" without gaps."""
    left, top = qupath_offset_px(info.bounds)
    gaps = []
    for noun, what, rectangles in (
        ("window", "held more nuclei than the model can return", summary["full_windows_level0"]),
        ("region", "could not be decoded", summary["corrupt_level0"]),
    ):
        positions = [
            f"{width} x {height} at {x - left}, {y - top}"
            for x, y, width, height in rectangles[:MOST_GAPS]
        ]
        more = f" and {len(rectangles) - MOST_GAPS} more" if len(rectangles) > MOST_GAPS else ""
        if positions:
            gaps.append(
                f"{count_noun(len(rectangles), noun)} {what}, in QuPath pixels"
                f" ({'; '.join(positions)}{more})"
            )
    return "; ".join(gaps)


def _name_blank(tissue_mm2: float | None, n_nuclei: int, provenance: Provenance) -> str:
    if DARK in provenance.verdict.reasons:
        return f"{DARK}; it was not analysed"
    if not tissue_mm2:
        if not provenance.roi:
            return "no tissue was found; see tissue.png"
        return (
            f"no tissue was found within the ROI {provenance.roi.name}; see tissue.png, and check"
            " that its positions are level-0 pixels, not um"
        )
    if n_nuclei:
        return ""
    return "all nuclei are in artefacts" if provenance.n_left_out else "no nuclei were found"

"""Judge the outcome of every slide in a sheet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from muse_pipeline.cohort.layout import SlideFiles
from muse_pipeline.cohort.ledgers import StepRecord, first_problem, read_progress
from muse_pipeline.cohort.sheet import COLUMNS, read_cells
from muse_pipeline.core.coords import qupath_offset_px
from muse_pipeline.core.files import read_json
from muse_pipeline.core.provenance import DARK, Provenance
from muse_pipeline.core.specimen import HE, IHC
from muse_pipeline.core.text import count_noun, one_line, some_of
from muse_pipeline.core.types import SlideInfo
from muse_pipeline.inference.counts import score
from muse_pipeline.inference.trust import (
    CLASSES,
    LEAVE_OUT,
    NUCLEI,
    POSITIVE,
    Trust,
    describe_slides,
    find_in_files,
    find_repeats,
    judge,
    of_class,
)
from muse_pipeline.registration.record import FAILED, read_outcome
from muse_pipeline.report.slide_summary import summarise_slide
from muse_pipeline.slides.inspect import read_info
from muse_pipeline.tissue.mask import TissueMask

STATUSES = ("failed", "partial", "empty", "ok")  # in the order in which the page lists them
MOST_GAPS = 5  # maximum number of positions of gaps that a reason lists
_UNREADABLE = (OSError, ValueError, KeyError, TypeError)
T = TypeVar("T")


@dataclass(frozen=True)
class SlideResult:
    """The outcome of one slide."""

    slide_id: str  # name of the slide in the sheet
    path: str  # path of the slide's file in the sheet
    folder: Path  # folder of its results
    progress: list[StepRecord]  # records of the steps, one per step
    # "ok"; "empty" (finished, but there is no tissue or no nucleus); "partial" (finished, with the
    # gaps that ``reason`` describes); "failed" (with ``step`` and ``reason``)
    status: str = "failed"
    step: str = "report"  # the step that failed; "" if none did
    reason: str = ""  # reason for any status except "ok"; "" if the status is "ok"
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
    organ: str = ""  # organ in the sheet; "" if none
    # reasons of the findings (``inference.trust``) about a finished slide
    found: Mapping[str, str] = field(default_factory=dict)
    # findings that do not leave numbers out of the totals
    included: Sequence[str] = ()

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

    @cached_property
    def trust(self) -> Trust:
        """The judgement of the slide's numbers."""
        if not self.summary:
            return Trust({}, {})
        return judge(self.provenance, self.organ, self.found, self.included)

    @property
    def class_counts(self) -> dict[str, int]:
        """Number of nuclei by class, without those left out; empty in immunohistochemistry."""
        if not self.summary or self.positive:
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
        return IHC if self.positive else HE

    @property
    def positive(self) -> dict[str, Any] | None:
        """Counts of positive and negative nuclei in immunohistochemistry (``summary.json``); None
        for other stains.
        """
        return self.summary["immunohistochemistry"] if self.summary else None

    @property
    def regions(self) -> dict[str, Any] | None:
        """Tissue regions and their nuclei (``inference.counts``); None if not requested, or for a
        failed slide.
        """
        return self.summary.get("regions") if self.summary else None

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
    cells = read_cells(sheet, column).items()
    return {slide: row[column] for slide, row in cells if row.get(column)}


def gather_cohort(
    results: Path,
    rows: Iterable[dict[str, Any]],
    no_model: str = "",
    groups: Mapping[str, str] | None = None,
    included: Sequence[str] = (),
) -> list[SlideResult]:
    """Judge every slide of the resolved sheet, in its order, and write missing or outdated
    summaries.

    ``no_model`` is the reason why there was no model, and findings in ``included`` leave no numbers
    out of totals.
    """
    slides = [judge_slide(results, row, no_model, groups, included) for row in rows]
    repeats = find_repeats({slide.slide_id: slide.trust for slide in slides})
    return [
        replace(slide, found={**slide.found, "same": repeats[slide.slide_id]})
        if slide.slide_id in repeats
        else slide
        for slide in slides
    ]


def judge_slide(
    results: Path,
    row: dict[str, Any],
    no_model: str = "",
    groups: Mapping[str, str] | None = None,
    included: Sequence[str] = (),
) -> SlideResult:
    """The outcome of the slide in ``row``; "ok" only if every check passes."""
    name = str(row["slide_id"])
    files = SlideFiles(results / name)
    progress = read_progress(files.folder, int(row.get("shards") or 0), no_model)
    done = {record.step for record in progress if record.status == "ok"}
    info = _read(read_info, files.info) if "inspect" in done else None
    tissue = _read(TissueMask.load, files.mask) if "tissue" in done else None
    colour = _read(read_json, files.colour) if "tissue" in done else {"warnings": []}
    warnings = [
        *(info.warnings if info else ()),
        *(colour["warnings"] if colour else ["colour.json cannot be read"]),
        *(warning for record in progress for warning in record.warnings),
    ]
    failed = SlideResult(
        slide_id=name,
        folder=files.folder,
        progress=progress,
        **{column: str(row.get(column) or "") for column in ("path", "patient", "split", "organ")},
        group=(groups or {}).get(name, ""),
        own={column: cell for column, cell in row.items() if column not in COLUMNS},
        info=info,
        tissue_mm2=tissue.area_mm2 if tissue else None,
        warnings=list(dict.fromkeys(warnings)),
        included=included,
    )
    if problem := first_problem(progress):
        return replace(failed, step=problem.step, reason=problem.reason)
    if tissue is None:
        return replace(failed, reason=f"{files.mask} cannot be read; run the workflow again")
    if not files.geojson.is_file():
        return replace(failed, step="geojson", reason=_missing(files.geojson))
    try:
        summary = summarise_slide(files.folder)
        provenance = Provenance.from_dict(summary["provenance"])
        found = find_in_files(files, provenance)
    except _UNREADABLE as error:
        problem = f"results in {files.folder} cannot be read ({one_line(error)})"
        return replace(failed, reason=f"{problem}; run the workflow again")
    if stale := _find_stale(files, info, tissue, provenance, failed.path):
        return replace(failed, reason=stale)
    partner = read_outcome(files.partner) if row.get("partner") else None
    if partner and partner["status"] == FAILED:
        found["partner"] = f"partner not registered: {partner['reason']}"
    gaps = _name_gaps(summary, info)
    blank = _name_blank(tissue.area_mm2, summary["n_nuclei"], provenance)
    return replace(
        failed,
        status="partial" if gaps else "empty" if blank else "ok",
        step="",
        reason=gaps or blank,
        summary=summary,
        tissue_mm2=max(tissue.area_mm2 - provenance.left_out_mm2, 0.0),
        found=found,
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
    quantity = POSITIVE if stain == IHC else NUCLEI
    return [
        slide
        for slide in slides
        if slide.summary
        and bool(slide.positive) == (stain == IHC)
        and slide.trust.verdict(quantity) != LEAVE_OUT
    ]


def score_total(slides: Iterable[SlideResult]) -> dict[str, Any] | None:
    """``counts.score`` and sums over all counted slides of immunohistochemistry; None without such
    slides.
    """
    scored = counted(slides, IHC)
    if not scored:
        return None
    counts = [slide.summary["intensities"]["slide"]["nucleus"] for slide in scored]
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

    def count(n_nuclei: int, n_slides: int, stain: str) -> str:
        nuclei = count_noun(n_nuclei, "nucleus", "nuclei")
        return f"{nuclei} of {count_noun(n_slides, 'slide')}{stain}"

    added, scored = counted(slides), score_total(slides)
    texts = []
    if added:
        stain = " of H&E" if any(slide.positive for slide in slides) else ""
        texts.append(count(sum(slide.n_nuclei for slide in added), len(added), stain))
    if scored:
        percent = f"{scored['percent_positive']:.1f} %" if scored["n_nuclei"] else "none"
        of = count(scored["n_nuclei"], scored["n_slides"], " of immunohistochemistry")
        texts.append(f"{percent} positive among {of}")
    trusts = [slide.trust for slide in slides]
    texts.append(describe_slides(trusts, NUCLEI))
    kept = [trust for trust in trusts if trust.verdict(NUCLEI) != LEAVE_OUT]
    texts += [describe_slides(kept, quantity) for quantity in (CLASSES, POSITIVE)]
    return "; ".join(filter(None, texts if added or scored else ["no nuclei", *texts]))


def by_model(slides: Iterable[SlideResult]) -> list[list[SlideResult]]:
    """Finished slides, grouped by model file, in the order of first use."""
    groups = {}
    for slide in slides:
        if slide.summary:
            groups.setdefault(slide.provenance.model.sha256, []).append(slide)
    return list(groups.values())


def describe_model(slides: Sequence[SlideResult]) -> str:
    """Describe the model of these slides by name and checksum, and count the slides."""
    model = slides[0].provenance.model
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
    request, of = files.request("nuclei"), "its nuclei were found"
    if request.exists() and files.nuclei.stat().st_mtime_ns < request.stat().st_mtime_ns:
        problem = "is unfinished: its nuclei are older than the settings of the last run"
    elif provenance.fingerprint != info.fingerprint:
        problem = f"{of} in a different version of the slide's file"
    elif provenance.slide_mpp != info.mpp:
        problem = f"{of} at a different mpp of the slide"
    elif provenance.tissue_sha256 not in {None, tissue.sha256}:
        problem = f"{of} in a different tissue mask or region of interest"
    elif path and Path(path).resolve() != Path(info.path).resolve():
        problem = f"its results belong to {info.path}, not to the sheet's {path}"
    else:
        return ""
    return f"{problem}; run the workflow again"


def _name_gaps(summary: dict[str, Any], info: SlideInfo) -> str:
    """Describe the gaps of a finished slide and their positions in QuPath; "" without gaps."""
    left, top = qupath_offset_px(info.bounds)
    gaps = []
    for entry, noun, what in (
        ("full_windows_level0", "window", "held more nuclei than the model can return"),
        ("corrupt_level0", "region", "could not be decoded"),
    ):
        if rectangles := summary[entry]:
            positions = [f"{w} x {h} at {x - left}, {y - top}" for x, y, w, h in rectangles]
            where = some_of(positions, MOST_GAPS, "; ")
            gaps.append(f"{count_noun(len(rectangles), noun)} {what}, in QuPath pixels ({where})")
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

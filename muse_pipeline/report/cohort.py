"""What became of every slide of the sheet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from muse_pipeline.cohort.ledgers import StepRecord, first_problem, read_progress
from muse_pipeline.cohort.sheet import read_cells
from muse_pipeline.core.coords import qupath_offset_px
from muse_pipeline.core.errors import SheetError
from muse_pipeline.core.files import read_json
from muse_pipeline.core.text import count_noun, one_line
from muse_pipeline.core.types import SlideInfo
from muse_pipeline.inference.appearance import DARK, DOUBTFUL, NOT_KNOWN, OTHER_STAIN, Verdict
from muse_pipeline.nuclei.parquet import left_out_mm2, n_left_out
from muse_pipeline.registration.outcome import FAILED, read_outcome
from muse_pipeline.report.slide_summary import summarise_slide
from muse_pipeline.slides.inspect import read_info
from muse_pipeline.slides.mpp import DOUBT
from muse_pipeline.tissue.mask import TissueMask

STATUSES = ("failed", "partial", "empty", "ok")  # in the order in which a reader wants to see them
MUCH = 0.01  # of the nuclei left out as lying in artefacts, from which the report warns
_UNREADABLE = (OSError, ValueError, KeyError, TypeError)


@dataclass(frozen=True)
class SlideResult:
    """The end of one slide's way.

    Attributes:
        slide_id: its name in the sheet.
        path: its file, from the sheet.
        folder: where its results lie.
        status: "ok"; "empty" (finished, but there is no tissue or no nucleus); "partial" (finished, with gaps that
            in ``reason``); "failed" (with ``step`` and ``reason``).
        step: the step that failed, else "".
        reason: one sentence, "" if all is well.
        progress: one record per step.
        patient: whose slide it is, and
        split: its part of the cohort, from the sheet; "" without one.
        group: what the report compares it by; "" without one.
        info: ``slide.json``, or None where ``inspect`` did not get so far.
        tissue_mm2: area of tissue without the artefacts that are left out; None where ``tissue`` did not get so far.
        summary: ``summary.json``; None for a failed slide, whose older results must not pass for new ones.
        warnings: sentences of the steps.
        partner: how the registration of its partner ended (partner.json); None where it has none.
    """

    slide_id: str
    path: str
    folder: Path
    status: str
    step: str
    reason: str
    progress: list[StepRecord]
    patient: str = ""
    split: str = ""
    group: str = ""
    info: SlideInfo | None = None
    tissue_mm2: float | None = None
    summary: dict[str, Any] | None = None
    warnings: list[str] = field(default_factory=list)
    partner: dict[str, Any] | None = None

    @property
    def n_nuclei(self) -> int | None:
        """Number of nuclei, None for a failed slide."""
        return self.summary["n_nuclei"] if self.summary else None

    @property
    def appearance(self) -> str | None:
        """Verdict on whether it looks like the model's training pictures (``inference.appearance``); None if failed."""
        return appearance_of(self.summary)["verdict"] if self.summary else None

    @property
    def size_doubt(self) -> str:
        """Why the um per pixel is doubtful by the size of the nuclei (``inference.stitch``); "" where it is not."""
        return self.summary["provenance"].get("nuclear_size", {}).get("doubt", "") if self.summary else ""

    @property
    def positive(self) -> dict[str, Any] | None:
        """Positive and negative nuclei (``summary.json``) of immunohistochemistry; None of another stain, or failed."""
        return self.summary["immunohistochemistry"] if self.summary else None

    @property
    def roi(self) -> dict[str, Any] | None:
        """File and mm2 of the region of interest (``qupath.regions.describe_roi``); None without one."""
        return self.summary["provenance"].get("roi") if self.summary else None

    @property
    def regions(self) -> dict[str, Any] | None:
        """Tissue regions and their nuclei (``report.regions``); None where not asked for, or of a failed slide."""
        return self.summary.get("regions") if self.summary else None

    @property
    def artefacts_mm2(self) -> dict[str, float] | None:
        """mm2 of tissue by what is wrong with it; None where that was not sought, or of a failed slide."""
        return (self.summary["provenance"].get("quality", {}).get("area_mm2") or None) if self.summary else None

    @property
    def left_out_mm2(self) -> float:
        """mm2 of tissue that totals leave out."""
        return left_out_mm2(self.summary["provenance"]) if self.summary else 0.0

    @property
    def n_left_out(self) -> int:
        """Nuclei that totals leave out."""
        return n_left_out(self.summary["provenance"]) if self.summary else 0

    @property
    def processed_mm2(self) -> float:
        """mm2 of tissue, with what totals leave out."""
        return (self.tissue_mm2 or 0.0) + self.left_out_mm2

    @property
    def artefact_doubt(self) -> str:
        """How many of the nuclei are left out as lying in artefacts, in words; "" if they are few."""
        share = self.n_left_out / max((self.n_nuclei or 0) + self.n_left_out, 1)
        kinds = ", ".join(self.summary["provenance"]["quality"]["subtract"]) if self.n_left_out else ""
        return f"{share:.1%} of the nuclei lie in artefacts ({kinds}) and are in no total" if share >= MUCH else ""

    @property
    def lacks_regions(self) -> str:
        """Why there are no tissue regions although they were asked for; "" where there are."""
        return self.regions["reason"] if self.regions and self.regions["status"] != "ok" else ""

    @property
    def lacks_partner(self) -> str:
        """Why its partner was not registered; "" where it was, or where there is none."""
        return self.partner["reason"] if self.partner and self.partner["status"] == FAILED else ""

    @property
    def model(self) -> dict[str, str] | None:
        """The model that found its nuclei, its "name" and "sha256"; None for a failed slide."""
        return self.summary["provenance"]["model"] if self.summary else None

    @property
    def nuclei_per_mm2(self) -> float | None:
        """Nuclei per mm2 of tissue, None without tissue."""
        return self.n_nuclei / self.tissue_mm2 if self.summary and self.tissue_mm2 else None

    @property
    def seconds(self) -> float:
        """Time of all steps."""
        return sum(record.seconds or 0 for record in self.progress)

    def finished(self, step: str) -> bool:
        """Did ``step`` end well?"""
        return any(record.step == step and record.status == "ok" for record in self.progress)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a resolved sheet.

    Raises:
        SheetError: the file is missing or not a list of rows with a ``slide_id`` each.
    """
    try:
        rows = read_json(path)
    except (OSError, ValueError) as error:
        raise SheetError(f"{path}: not readable as JSON ({error}); `muse sheet --check` writes one") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) and _is_row(row) for row in rows):
        raise SheetError(f"{path}: expected a list of rows with a slide_id each; `muse sheet --check` writes one")
    return rows


def read_groups(sheet: Path, column: str) -> dict[str, str]:
    """The cells of a column of the user's sheet, by slide; empty ones are left out.

    Raises:
        SheetError: the sheet cannot be read, or lacks ``slide_id`` or the column.
    """
    return {slide: row[column] for slide, row in read_cells(sheet, column).items() if row.get(column)}


def _is_row(row: dict[str, Any]) -> bool:
    """Whether a row names a folder among the results, and none outside; shards are a number or nothing."""
    name, n_shards = row.get("slide_id"), row.get("shards")
    is_folder = isinstance(name, str) and name not in {"", ".", ".."} and not set("/\\\0") & set(name)
    return is_folder and len(name.encode(errors="replace")) < 256 and (n_shards is None or type(n_shards) is int)


def gather_cohort(
    results: Path, rows: Iterable[dict[str, Any]], no_model: str = "", groups: Mapping[str, str] | None = None
) -> list[SlideResult]:
    """Judge every slide of the resolved sheet, in its order; missing or outdated summaries are made.

    Args:
        results: folder with a folder per slide.
        rows: of the sheet.
        no_model: why there was no model to detect with; "" where there was one.
        groups: the group of each slide that has one.
    """
    return [judge_slide(results, row, no_model, (groups or {}).get(str(row["slide_id"]), "")) for row in rows]


def judge_slide(results: Path, row: dict[str, Any], no_model: str = "", group: str = "") -> SlideResult:
    """How the slide of one ``row`` ended; "ok" only if every check passes."""
    folder = results / str(row["slide_id"])
    progress = read_progress(folder, int(row["shards"]) if row.get("shards") else None, no_model)
    done = {record.step for record in progress if record.status == "ok"}
    known = {
        "slide_id": str(row["slide_id"]),
        "path": str(row.get("path", "")),
        "folder": folder,
        "progress": progress,
        "patient": str(row.get("patient") or ""),
        "split": str(row.get("split") or ""),
        "group": group,
        "partner": read_outcome(folder / "partner") if row.get("partner") else None,
        "info": _read_info(folder) if "inspect" in done else None,
    }
    tissue = _read_tissue(folder) if "tissue" in done else None
    known["tissue_mm2"] = tissue.area_mm2 if tissue else None
    known["warnings"] = _gather_warnings(folder, known["info"], "tissue" in done)
    known["warnings"] += [warning for record in progress for warning in record.warnings]
    problem = first_problem(progress)
    if problem:
        return SlideResult(status="failed", step=problem.step, reason=problem.reason, **known)
    if tissue is None:
        reason = f"{folder / 'tissue.npz'} cannot be read; run the workflow again"
        return SlideResult(status="failed", step="report", reason=reason, **known)
    if not (folder / "nuclei.geojson.gz").is_file():
        return SlideResult(status="failed", step="geojson", reason=_missing("nuclei.geojson.gz"), **known)
    try:
        summary = summarise_slide(folder)
    except _UNREADABLE as error:
        reason = f"results in {folder} cannot be read ({one_line(error)}); run the workflow again"
        return SlideResult(status="failed", step="report", reason=reason, **known)
    stale = _find_stale(known["info"], tissue, summary, known["path"])
    if stale:
        return SlideResult(status="failed", step="report", reason=stale, **known)
    known["tissue_mm2"] = max(known["tissue_mm2"] - left_out_mm2(summary["provenance"]), 0.0)
    known["warnings"] = _join_reasons(known["warnings"], summary)
    gaps, blank = _name_gaps(summary, known["info"]), _name_blank(tissue.area_mm2, summary)
    status = "partial" if gaps else "empty" if blank else "ok"
    return SlideResult(status=status, step="", reason=gaps or blank, summary=summary, **known)


def summarise_cohort(slides: Sequence[SlideResult]) -> str:
    """How many slides ended how, in words: "12 slides: 10 ok, 1 partial, 1 failed"."""
    counts = Counter(slide.status for slide in slides)
    ends = [f"{counts[status]} {status}" for status in reversed(STATUSES) if counts[status]]
    return f"{count_noun(len(slides), 'slide')}: {', '.join(ends)}"


def summarise_failures(slides: Sequence[SlideResult], n_shown: int = 10) -> list[str]:
    """Lines that name the failed slides, each with step and reason, those last whose step was not started."""
    failed = [slide for slide in slides if slide.status == "failed"]
    failed.sort(key=lambda slide: (slide.step, "missing") in ((each.step, each.status) for each in slide.progress))
    return _listed("failed", [f"  {slide.slide_id}: {slide.step}: {slide.reason}" for slide in failed], n_shown)


def summarise_flags(slides: Sequence[SlideResult], n_shown: int = 10) -> list[str]:
    """Lines about slides whose results need a check; none if there are none."""
    unlike = [f"  {slide.slide_id}: {describe_doubt(slide)}" for slide in flagged(slides)]
    of_size = [f"  {slide.slide_id}: {slide.size_doubt}" for slide in slides if slide.size_doubt]
    of_mpp = [f"  {slide.slide_id}: {doubt}" for slide in slides if (doubt := doubtful_mpp(slide))]
    spoiled = [f"  {slide.slide_id}: {slide.artefact_doubt}" for slide in slides if slide.artefact_doubt]
    no_regions = [f"  {slide.slide_id}: {slide.lacks_regions}" for slide in slides if slide.lacks_regions]
    no_partner = [f"  {slide.slide_id}: {slide.lacks_partner}" for slide in slides if slide.lacks_partner]
    unknown = [f"  {slide.slide_id}" for slide in slides if slide.appearance == NOT_KNOWN and slide.n_nuclei]
    return [
        *_listed("unlike the model's training pictures, check the result before use", unlike, n_shown),
        *_listed("whose nuclei are of an implausible size; if the mpp is wrong, so are the results", of_size, n_shown),
        *_listed(
            "whose mpp differs from that of the file; if it is wrong, so are sizes and densities", of_mpp, n_shown
        ),
        *_listed("with nuclei in artefacts that are in no total", spoiled, n_shown),
        *_listed("without tissue regions, whose model failed", no_regions, n_shown),
        *_listed("whose partner was not registered; a backbone is trained without their pairs", no_partner, n_shown),
        *_listed("with the same content as another; all are in the totals", _doubled(counted(slides)), n_shown),
        *_listed("whose likeness to the model's training pictures is not known", unknown, n_shown),
    ]


def _doubled(slides: Sequence[SlideResult]) -> list[str]:
    """Each slide with the content of one before it, and that one's name."""
    first: dict[str, str] = {}
    contents = [(slide.slide_id, slide.info.fingerprint) for slide in slides if slide.info]
    return [f"  {name}: as {first[content]}" for name, content in contents if first.setdefault(content, name) != name]


def _listed(what: str, slides: list[str], n_shown: int) -> list[str]:
    """Their number with ``what`` they are, and the first of them; nothing where there are none."""
    more = f"  and {len(slides) - n_shown} more; cohort.tsv names them"
    heading = f"{count_noun(len(slides), 'slide')} {what}:"
    return [heading, *slides[:n_shown], *([more] if len(slides) > n_shown else [])] if slides else []


def appearance_of(summary: dict[str, Any]) -> dict[str, Any]:
    """The verdict and its reasons as a slide's provenance has them; "not known" without them."""
    recorded = summary["provenance"].get("appearance")
    is_verdict = isinstance(recorded, dict) and {"verdict", "reasons"} <= recorded.keys()
    return recorded if is_verdict else Verdict(NOT_KNOWN).to_dict()


def flagged(slides: Iterable[SlideResult]) -> list[SlideResult]:
    """Slides that do not look like what their model was trained on."""
    return [slide for slide in slides if slide.appearance in DOUBTFUL]


def describe_doubt(slide: SlideResult) -> str:
    """Why a flagged slide is, and what follows for the totals."""
    reasons = appearance_of(slide.summary)["reasons"]
    if slide.appearance != OTHER_STAIN:
        return "; ".join(reasons)
    positive = slide.positive if slide.n_nuclei else None
    figures = f" ({positive['percent_positive']:.1f} % of them positive)" if positive else ""
    return "; ".join([*reasons, f"its nuclei{figures} are in no total"])


def doubtful_mpp(slide: SlideResult) -> str:
    """Warning about a finished slide's mpp that its file contradicts or does not state, or ""."""
    warnings = slide.info.warnings if slide.info and slide.summary else ()
    return next((warning for warning in warnings if warning.startswith(DOUBT)), "")


def counted(slides: Iterable[SlideResult]) -> list[SlideResult]:
    """Slides that add to the cohort's totals: finished ones, but for those of another stain than the model's."""
    return [slide for slide in slides if slide.summary and slide.appearance != OTHER_STAIN]


def by_model(slides: Iterable[SlideResult]) -> list[list[SlideResult]]:
    """Finished slides, those of one model file together, in the order of first use."""
    groups: dict[str, list[SlideResult]] = {}
    for slide in slides:
        if slide.model:
            groups.setdefault(slide.model["sha256"], []).append(slide)
    return list(groups.values())


def describe_model(slides: Sequence[SlideResult]) -> str:
    """The model of slides of one model, distinguished from others of its name, and how many they are."""
    model = slides[0].model
    return f"{model['name']} ({model['sha256'][:8]}), {count_noun(len(slides), 'slide')}"


def class_names(slides: Iterable[SlideResult]) -> list[str]:
    """Every class of the cohort, in the order of the cards."""
    return list(dict.fromkeys(each["name"] for slide in slides if slide.summary for each in slide.summary["classes"]))


def _read_info(folder: Path) -> SlideInfo | None:
    try:
        return read_info(folder / "slide.json")
    except _UNREADABLE:
        return None


def _read_tissue(folder: Path) -> TissueMask | None:
    try:
        return TissueMask.load(folder / "tissue.npz")
    except _UNREADABLE:
        return None


def _gather_warnings(folder: Path, info: SlideInfo | None, tissue_done: bool) -> list[str]:
    warnings = list(info.warnings) if info else []
    if tissue_done:
        try:
            warnings += [str(warning) for warning in read_json(folder / "colour.json")["warnings"]]
        except _UNREADABLE:
            warnings.append("colour.json cannot be read")
    return list(dict.fromkeys(warnings))


def _join_reasons(warnings: list[str], summary: dict[str, Any]) -> list[str]:
    """The warnings with the reasons of a flag, each once: ledgers of a stopped run may lack them."""
    verdict = appearance_of(summary)
    reasons = verdict["reasons"] if verdict["verdict"] in DOUBTFUL else []
    doubt = summary["provenance"].get("nuclear_size", {}).get("doubt", "")
    return list(dict.fromkeys([*warnings, *reasons, *filter(None, [doubt])]))


def _missing(name: str) -> str:
    return f"{name} is missing although its step ended well; run the workflow again"


def _find_stale(info: SlideInfo | None, tissue: TissueMask, summary: dict[str, Any], path: str) -> str:
    """Why finished results belong to other inputs, "" if they do not."""
    if info is None:
        return _missing("slide.json")
    made_from = summary["provenance"]
    if made_from["fingerprint"] != info.fingerprint:
        return "its nuclei were found in another version of the slide's file; run the workflow again"
    if made_from.get("slide_mpp", list(info.mpp)) != list(info.mpp):
        return "its nuclei were found when the slide was taken to have another mpp; run the workflow again"
    if made_from.get("tissue_sha256") not in {None, tissue.sha256}:
        return "its nuclei were found in another tissue or region of interest; run the workflow again"
    if path and Path(path).resolve() != Path(info.path).resolve():
        return f"its results belong to {info.path}, not to the sheet's {path}; run the workflow again"
    return ""


def _name_gaps(summary: dict[str, Any], info: SlideInfo) -> str:
    """What a finished slide lacks and where in QuPath, as a sentence, "" if nothing."""
    lacking = {
        "window": (summary["full_windows_level0"], "held more nuclei than the model can return"),
        "region": (summary["corrupt_level0"], "could not be decoded"),
    }
    return "; ".join(
        f"{count_noun(len(positions), noun)} {what}, {_name_rectangles(positions, qupath_offset_px(info.bounds))}"
        for noun, (positions, what) in lacking.items()
        if positions
    )


def _name_blank(tissue_mm2: float | None, summary: dict[str, Any]) -> str:
    if DARK in appearance_of(summary)["reasons"]:
        return f"{DARK}; nothing was sought in it"
    if not tissue_mm2:
        roi = summary["provenance"].get("roi")
        within = f" within the ROI {roi['name']}" if roi else ""
        return f"no tissue was found{within}; see tissue.png"
    if summary["n_nuclei"]:
        return ""
    return "all nuclei are in artefacts" if n_left_out(summary["provenance"]) else "no nuclei were found"


def _name_rectangles(rectangles: Sequence[Sequence[int]], offset_px: tuple[int, int], n_shown: int = 5) -> str:
    left, top = offset_px
    shown = "; ".join(f"{width} x {height} at {x - left}, {y - top}" for x, y, width, height in rectangles[:n_shown])
    more = f" and {len(rectangles) - n_shown} more" if len(rectangles) > n_shown else ""
    return f"in QuPath pixels ({shown}{more})"

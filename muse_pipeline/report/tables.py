"""Tables of all slides and of all annotations, as tab-separated text."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from muse_pipeline.cohort.ledgers import STEPS, order_steps
from muse_pipeline.core.files import complete_file
from muse_pipeline.core.text import one_line
from muse_pipeline.report.cohort import SlideResult, class_names
from muse_pipeline.report.ihc import score_values
from muse_pipeline.report.regions import per_mm2, region_values

_LEADING = (
    *("slide_id", "status", "step", "reason", "appearance", "warnings", "left_out"),
    *("path", "patient", "split", "organ", "mpp_x", "mpp_y", "model", "model_sha256"),
    *("roi", "tissue_mm2", "nuclei", "nuclei_per_mm2"),
    *("n_positive", "n_negative", "percent_positive", "median_area_um2", "mean_class_probability"),
)
_OF_ANNOTATION = (
    *("slide_id", "appearance", "left_out", "roi", "class", "area_mm2", "tissue_mm2", "nuclei", "nuclei_per_mm2"),
    *("n_positive", "n_negative", "percent_positive"),
)


def write_table(slides: Sequence[SlideResult], path: Path) -> None:
    """Write the table; a missing value is an empty cell, and the columns depend on classes and regions only."""
    columns = [*_LEADING, *_class_columns(slides)]
    columns += dict.fromkeys(name for slide in slides for name in _artefact_values(slide))
    columns += dict.fromkeys(name for slide in slides for name in _ihc_values(slide) if name not in columns)
    columns += dict.fromkeys(name for slide in slides for name in region_values(slide.regions))
    ran = {record.step for slide in slides for record in slide.progress}
    steps = order_steps(ran | {step for step in STEPS if step != "regions"})
    quantities = "seconds", "processor_seconds", "peak_memory_mib"
    columns += [f"{quantity}_{step}" for quantity in quantities for step in steps]
    own = {name: f"sheet_{name}" if name in columns else one_line(name) for slide in slides for name in slide.own}
    rows = []
    for slide in slides:
        rows.append({**_row(slide), **{own[name]: one_line(cell or "") for name, cell in slide.own.items()}})
        rows += _core_rows(slide)
    columns += ["core"] if any("core" in row for row in rows) else []
    known = [*columns, *own.values()]
    _write(path, known, ({name: row[name] for name in known if name in row} for row in rows))


def _core_rows(slide: SlideResult) -> Iterator[dict[str, Any]]:
    """A row for every core of a tissue microarray, those that are missing last."""
    found = (slide.summary or {}).get("tma")
    if found is None:
        return
    of_slide = {"status": slide.status, "path": slide.path, "patient": one_line(slide.patient)}
    parts, n = slide.summary["annotations"], found["n_cores"]
    counts = slide.intensities["annotations"] if slide.intensities else [None] * len(parts)
    for each, by_intensity in list(zip(parts, counts, strict=True))[len(parts) - n :]:
        row = _annotation(slide, each, by_intensity) | of_slide
        yield row | {"slide_id": f"{slide.slide_id}:{each['name']}", "core": each["name"]}
    for name in found["missing"]:
        yield of_slide | {"slide_id": f"{slide.slide_id}:{name}", "core": name, "status": "missing"}


def write_roi_table(slides: Sequence[SlideResult], path: Path) -> None:
    """Write a row for every annotation of a region of interest; without annotations, an older table is removed."""
    rows = []
    for slide in (slide for slide in slides if slide.summary):
        parts = slide.summary["annotations"]
        counts = slide.intensities["annotations"] if slide.intensities else [None] * len(parts)
        rows += [_annotation(slide, *pair) for pair in zip(parts, counts, strict=True)]
    if rows:
        columns = [*_OF_ANNOTATION, *_class_columns(slides)]
        columns += dict.fromkeys(name for row in rows for name in row if name not in columns)
        _write(path, columns, rows)
    else:
        path.unlink(missing_ok=True)


def _write(path: Path, columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
    with complete_file(path) as partial, partial.open("w", encoding="utf-8", newline="", errors="replace") as file:
        writer = csv.DictWriter(file, columns, dialect="excel-tab", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _row(slide: SlideResult) -> dict[str, Any]:
    summary = slide.summary or {}
    counts = {each["name"]: each["n_nuclei"] for each in summary.get("classes", [])}
    size = slide.provenance.nuclear_size if slide.provenance else None
    return {
        "slide_id": slide.slide_id,
        "status": slide.status,
        "step": slide.step,
        "reason": one_line(slide.reason),
        "appearance": slide.appearance,
        "warnings": "; ".join(map(one_line, filter(None, (*slide.warnings, slide.artefact_doubt)))),
        "left_out": _left_out(slide),
        "path": slide.path,
        "patient": one_line(slide.patient),
        "split": one_line(slide.split),
        "organ": one_line(slide.organ),
        "mpp_x": slide.info.mpp[0] if slide.info else None,
        "mpp_y": slide.info.mpp[1] if slide.info else None,
        "model": slide.model.name if slide.model else None,
        "model_sha256": slide.model.sha256 if slide.model else None,
        "roi": slide.roi.name if slide.roi else None,
        "tissue_mm2": None if slide.tissue_mm2 is None else round(slide.tissue_mm2, 4),
        "nuclei": slide.n_nuclei,
        "nuclei_per_mm2": per_mm2(slide.n_nuclei, slide.tissue_mm2),
        **{name: slide.positive[name] for name in ("n_positive", "n_negative", "percent_positive") if slide.positive},
        "median_area_um2": size.median_area_um2 if size else None,
        "mean_class_probability": size.mean_class_probability if size else None,
        **_class_values(counts, slide.n_nuclei, slide.tissue_mm2),
        **_artefact_values(slide),
        **_ihc_values(slide),
        **region_values(slide.regions),
        **{f"seconds_{record.step}": record.seconds for record in slide.progress},
        **{f"processor_seconds_{record.step}": record.processor_seconds for record in slide.progress},
        **{f"peak_memory_mib_{record.step}": record.peak_memory_mib for record in slide.progress},
    }


def _left_out(slide: SlideResult) -> str:
    """The numbers of the slide that are in no total, each with the reason."""
    reasons = {"all nuclei": slide.left_out, "counts of classes": slide.classes_left_out}
    return "; ".join(f"{what}: {why}" for what, why in reasons.items() if why)


def _artefact_values(slide: SlideResult) -> dict[str, float]:
    """mm2 by kind of artefact, and the nuclei that totals leave out; none if not requested."""
    if slide.artefacts_mm2 is None:
        return {}
    areas = {f"{kind}_mm2": round(mm2, 4) for kind, mm2 in slide.artefacts_mm2.items()}
    return {**areas, "nuclei_in_artefacts": slide.n_left_out}


def _ihc_values(slide: SlideResult) -> dict[str, float | int | None]:
    """Scores of immunohistochemistry, of the slide and of its tissue regions; none for other stains."""
    found = slide.intensities or {}
    values = score_values(found.get("slide"))
    for region, counts in found.get("regions", {}).items():
        values |= score_values(counts, region)
    return values


def _annotation(slide: SlideResult, each: dict[str, Any], counts: dict[str, Any] | None) -> dict[str, Any]:
    n, n_positive = each["n_nuclei"], each.get("n_positive")
    positive = {} if n_positive is None else {"n_positive": n_positive, "n_negative": n - n_positive}
    return {
        "slide_id": slide.slide_id,
        "appearance": slide.appearance,
        "left_out": _left_out(slide),
        "roi": one_line(each["name"]),
        "class": one_line(each["class"] or ""),
        "area_mm2": each["area_mm2"],
        "tissue_mm2": each["tissue_mm2"],
        "nuclei": n,
        "nuclei_per_mm2": per_mm2(n, each["tissue_mm2"]),
        **positive,
        **({"percent_positive": _percent(n_positive, n)} | score_values(counts)),
        **_class_values(each["n_by_class"], n, each["tissue_mm2"]),
    }


def _class_columns(slides: Sequence[SlideResult]) -> list[str]:
    """Number, percentage and density of every class."""
    names = list(map(one_line, class_names(slides)))
    return [f"{quantity}_{name}" for quantity in ("nuclei", "percent", "nuclei_per_mm2") for name in names]


def _class_values(counts: dict[str, int], total: int | None, tissue_mm2: float | None) -> dict[str, float | None]:
    """The cells of ``_class_columns``."""
    cells = {}
    for name, n in ((one_line(name), n) for name, n in counts.items()):
        density = per_mm2(n, tissue_mm2)
        cells |= {f"nuclei_{name}": n, f"percent_{name}": _percent(n, total), f"nuclei_per_mm2_{name}": density}
    return cells


def _percent(n: int | None, total: int | None) -> float | None:
    return round(100 * n / total, 2) if n is not None and total else None

"""``cohort.tsv``: one row per slide, in the order of the sheet."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from muse_pipeline.files import complete_file
from muse_pipeline.report.cohort import SlideResult, class_names
from muse_pipeline.report.ledgers import STEPS
from muse_pipeline.wording import one_line

_LEADING = (
    *("slide_id", "status", "step", "reason", "appearance", "warnings"),
    *("path", "patient", "split", "mpp_x", "mpp_y", "model", "model_sha256"),
    *("roi", "tissue_mm2", "nuclei", "nuclei_per_mm2"),
)


def write_table(slides: Sequence[SlideResult], path: Path) -> None:
    """Write the table; a cell without a value is empty, the columns depend on the classes alone."""
    names = class_names(slides)
    columns = [*_LEADING, *map(_class_column, names)]
    columns += [f"{quantity}_{step}" for quantity in ("seconds", "peak_memory_mib") for step in STEPS]
    with complete_file(path) as partial, partial.open("w", encoding="utf-8", newline="", errors="replace") as file:
        writer = csv.DictWriter(file, columns, dialect="excel-tab", lineterminator="\n")
        writer.writeheader()
        writer.writerows(_row(slide) for slide in slides)


def _row(slide: SlideResult) -> dict[str, Any]:
    classes = slide.summary["classes"] if slide.summary else []
    return {
        "slide_id": slide.slide_id,
        "status": slide.status,
        "step": slide.step,
        "reason": one_line(slide.reason),
        "appearance": slide.appearance,
        "warnings": "; ".join(map(one_line, slide.warnings)),
        "path": slide.path,
        "patient": one_line(slide.patient),
        "split": one_line(slide.split),
        "mpp_x": slide.info.mpp[0] if slide.info else None,
        "mpp_y": slide.info.mpp[1] if slide.info else None,
        "model": slide.model["name"] if slide.model else None,
        "model_sha256": slide.model["sha256"] if slide.model else None,
        "roi": slide.roi["name"] if slide.roi else None,
        "tissue_mm2": None if slide.tissue_mm2 is None else round(slide.tissue_mm2, 4),
        "nuclei": slide.n_nuclei,
        "nuclei_per_mm2": None if slide.nuclei_per_mm2 is None else round(slide.nuclei_per_mm2, 1),
        **{_class_column(each["name"]): each["n_nuclei"] for each in classes},
        **{f"seconds_{record.step}": record.seconds for record in slide.progress},
        **{f"peak_memory_mib_{record.step}": record.peak_memory_mib for record in slide.progress},
    }


def _class_column(name: str) -> str:
    return f"nuclei_{one_line(name)}"

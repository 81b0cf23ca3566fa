"""The tables of a cohort: ``cohort.tsv`` and, for its annotations and cores, ``roi.tsv``."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from muse_pipeline.cohort.ledgers import STEPS, order_steps
from muse_pipeline.cohort.sheet import name_own
from muse_pipeline.core.files import write_tsv
from muse_pipeline.core.text import one_line
from muse_pipeline.core.types import ARTEFACTS
from muse_pipeline.inference.counts import (
    class_values,
    n_in_artefacts,
    nucleus_values,
    region_values,
    score_values,
)
from muse_pipeline.inference.trust import LEAVE_OUT, MARK
from muse_pipeline.report.cohort import SlideResult
from muse_pipeline.report.notices import find_notices, list_warnings


def _facts(slide: SlideResult) -> dict[str, Any]:
    """The columns that every slide has in ``cohort.tsv``; None for missing values."""
    made = slide.provenance
    info = slide.info
    trust = slide.trust
    warnings = list_warnings(slide, find_notices(slide))
    size = made.nuclear_size if made else None
    scored = slide.positive or {}
    values = {
        **{name: getattr(slide, name) for name in ("slide_id", "status", "step", "reason")},
        "appearance": made and made.verdict.verdict,
        "warnings": " | ".join(warnings),
        "left_out": trust.describe(LEAVE_OUT),
        "marked": trust.describe(MARK),
        **{name: getattr(slide, name) for name in ("path", "patient", "split", "organ", "stain")},
        "mpp_x": info and info.mpp[0],
        "mpp_y": info and info.mpp[1],
        "model": made and made.model.name,
        "model_sha256": made and made.model.sha256,
        "roi": made and made.roi and made.roi.name,
        "tissue_mm2": None if slide.tissue_mm2 is None else round(slide.tissue_mm2, 4),
        **nucleus_values(slide.n_nuclei, slide.tissue_mm2, scored.get("n_positive")),
        "median_area_um2": size and size.median_area_um2,
        "mean_class_probability": size and size.mean_class_probability,
    }
    return {
        name: one_line(value) if isinstance(value, str) and name != "path" else value
        for name, value in values.items()
    }


def _classes(slide: SlideResult) -> dict[str, Any]:
    classes = slide.summary["classes"] if slide.summary else ()
    counts = {entry["name"]: entry["n_nuclei"] for entry in classes}
    return class_values(counts, slide.n_nuclei, slide.tissue_mm2)


def _artefacts(slide: SlideResult) -> dict[str, float | None]:
    """Area in mm2 of each kind of artefact, and numbers of nuclei in them and left out; empty
    without a search.
    """
    quality = slide.provenance.quality if slide.summary else None
    if not (quality and quality.area_mm2):
        return {}
    areas = {kind: quality.area_mm2.get(kind) for kind in ARTEFACTS}
    return {
        **{f"{kind}_mm2": mm2 and round(mm2, 4) for kind, mm2 in areas.items()},
        "nuclei_in_artefacts": n_in_artefacts(quality),
        "nuclei_left_out": slide.provenance.n_left_out,
    }


def _scores(slide: SlideResult) -> dict[str, float | int | None]:
    """Immunohistochemistry scores of the slide and of its tissue regions; empty for other
    stains.
    """
    counts = (slide.summary or {}).get("intensities") or {"slide": {}, "regions": {}}
    values = score_values(counts["slide"])
    for region, of_region in counts["regions"].items():
        values |= score_values(of_region, region)
    return values


# The columns of ``cohort.tsv``; those of costs and cores and the user's own follow.
SECTIONS: tuple[Callable[[SlideResult], dict[str, Any]], ...] = (
    *(_facts, _classes, _artefacts, _scores),
    lambda slide: region_values(slide.regions),
)
OF_SLIDE = ("slide_id", "appearance", "left_out", "marked")  # columns that ``roi.tsv`` shares
COSTS = ("seconds", "processor_seconds", "peak_memory_mib")


def write_table(slides: Sequence[SlideResult], path: Path) -> None:
    """Write ``cohort.tsv``: a row for every slide and core of a microarray, with empty cells for
    missing values.
    """
    sections = [[read(slide) for slide in slides] for read in SECTIONS]
    ran = {record.step for slide in slides for record in slide.progress}
    steps = order_steps(ran | {step for step in STEPS if step != "regions"})
    of_cores = [list(_core_rows(slide)) for slide in slides]
    columns = dict.fromkeys(
        [
            *(name for section in sections for cells in section for name in cells),
            *(f"{cost}_{step}" for cost in COSTS for step in steps),
            *(["core"] if any(of_cores) else []),
        ]
    )
    own = name_own((name for slide in slides for name in slide.own), columns)
    rows = []
    for slide, cores, *cells in zip(slides, of_cores, *sections, strict=True):
        costs = {f"{cost}_{s.step}": getattr(s, cost) for cost in COSTS for s in slide.progress}
        stated = {own[name]: one_line(cell or "") for name, cell in slide.own.items()}
        rows += [dict(ChainMap(costs, stated, *cells)), *cores]
    write_tsv(path, [*columns, *own.values()], rows)


def _core_rows(slide: SlideResult) -> Iterator[dict[str, Any]]:
    """Yield a row for every core of a tissue microarray, missing cores last."""
    cores = (slide.summary or {}).get("tma")
    if cores is None:
        return
    of_slide = {"status": slide.status, "path": slide.path, "patient": one_line(slide.patient)}
    rows = _annotation_rows(slide)
    # Cores follow the annotations of the region of interest (``slide_summary``).
    for row in rows[len(rows) - cores["n_cores"] :]:
        yield row | of_slide | {"slide_id": f"{slide.slide_id}:{row['roi']}", "core": row["roi"]}
    for name in cores["missing"]:
        yield of_slide | {"slide_id": f"{slide.slide_id}:{name}", "core": name, "status": "missing"}


def write_roi_table(slides: Sequence[SlideResult], path: Path) -> None:
    """Write a row for every annotation and core of the slides; if there are none, remove an older
    table.
    """
    rows = [row for slide in slides if slide.summary for row in _annotation_rows(slide)]
    if rows:
        write_tsv(path, dict.fromkeys(name for row in rows for name in row), rows)
    else:
        path.unlink(missing_ok=True)


def _annotation_rows(slide: SlideResult) -> list[dict[str, Any]]:
    """A row of ``roi.tsv`` for every annotation and core of a finished slide."""
    annotations, facts = slide.summary["annotations"], _facts(slide)
    counts = slide.summary.get("intensities") or {"annotations": [{}] * len(annotations)}
    return [
        {
            **{name: facts[name] for name in OF_SLIDE},
            "roi": one_line(one["name"]),
            "class": one_line(one["class"] or ""),
            "area_mm2": one["area_mm2"],
            "tissue_mm2": one["tissue_mm2"],
            **nucleus_values(one["n_nuclei"], one["tissue_mm2"], one.get("n_positive")),
            **class_values(one["n_by_class"], one["n_nuclei"], one["tissue_mm2"]),
            **score_values(scores),
        }
        for one, scores in zip(annotations, counts["annotations"], strict=True)
    ]

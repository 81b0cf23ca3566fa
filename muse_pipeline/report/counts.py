"""Numbers of a slide and its parts: nuclei in annotations and regions, and scores of immunohistochemistry.

Nuclei are counted in each annotation, in each tissue region and along its border, for ``summary.json`` and tables.

H-score: McCarty et al., "Use of a monoclonal anti-estrogen receptor antibody in the immunohistochemical evaluation of
human tumors", Cancer Res 1986. Allred score: Allred et al., "Prognostic and predictive factors in breast cancer by
immunohistochemical analysis", Mod Pathol 1998.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely

from muse_pipeline.core.provenance import Provenance, Regions, to_json
from muse_pipeline.core.text import one_line
from muse_pipeline.core.types import INTENSITIES_OD
from muse_pipeline.features.catalogue import DAB_OF_CELL
from muse_pipeline.inference.card import NucleusClass
from muse_pipeline.nuclei.arrow import to_numpy
from muse_pipeline.nuclei.parquet import (
    DAB_OD,
    POSITIVE,
    REGION,
    ROW_GROUP,
    border_of,
    iterate_counted,
    iterate_rows,
    open_nuclei,
)
from muse_pipeline.report.density import stream_positions
from muse_pipeline.tissue.mask import RoiAnnotation

COMPARTMENTS = {"nucleus": DAB_OD, **{each.name.split("_")[0]: each.name for each in DAB_OF_CELL}}
ALLRED_SHARES = (0, 0.01, 0.1, 1 / 3, 2 / 3)  # fractions of positive cells above which the proportion score is 1 to 5
SIDES = ("inside", "outside")


def count_intensities(nuclei: Path, provenance: Provenance, annotations: Sequence[RoiAnnotation]) -> dict[str, Any]:
    """Count cells of intensity 0, 1+, 2+ and 3+ by compartment in the slide, its annotations and its tissue regions.

    Args:
        nuclei: path of the table.
        provenance: provenance of the table, whose slide is stained by immunohistochemistry.
        annotations: annotations of the region of interest.
    """
    with open_nuclei(nuclei) as file:
        known = file.schema_arrow.names
    limits = provenance.intensities_od or INTENSITIES_OD
    columns = {name: column for name, column in COMPARTMENTS.items() if column in known}
    regions = [one.name for one in provenance.regions.classes or ()] if REGION in known else []
    n_areas = 1 + len(annotations) + len(regions)
    counts = np.zeros((n_areas, len(columns), 4), int)
    names = ["x", "y", *columns.values(), *([REGION] if regions else [])]
    shapely.prepare([each.geometry for each in annotations])
    for table in iterate_counted(nuclei, names):
        xy = np.stack([to_numpy(table[name]) for name in "xy"], 1)
        inside = [np.ones(len(xy), bool), *(shapely.contains_xy(each.geometry, xy) for each in annotations)]
        if regions:
            index = pc.fill_null(pc.index_in(table[REGION].cast(pa.string()), pa.array(regions)), -1).to_numpy()
            inside += [index == number for number in range(len(regions))]
        for which, column in enumerate(columns.values()):
            density = to_numpy(table[column])
            level = np.searchsorted(limits, density, side="right")
            for area, chosen in enumerate(inside):
                counts[area, which] += np.bincount(level[chosen & np.isfinite(density)], minlength=4)
    found = [dict(zip(columns, each, strict=True)) for each in counts.tolist()]
    last = 1 + len(annotations)
    return {"slide": found[0], "annotations": found[1:last], "regions": dict(zip(regions, found[last:], strict=True))}


def score(counts: Sequence[int]) -> dict[str, float | int | None]:
    """Percentage of positive cells, H-score (0 to 300) and Allred score (0 to 8); None if there are no cells.

    Args:
        counts: numbers of cells of intensity 0, 1+, 2+ and 3+.
    """
    n, n_positive = sum(counts), sum(counts[1:])
    if not n:
        return {"percent_positive": None, "h_score": None, "allred": None}
    weighted = sum(level * count for level, count in enumerate(counts))
    proportion = sum(n_positive / n > share for share in ALLRED_SHARES)
    # Halves are rounded up; ``round`` would round them to even numbers.
    intensity = int(weighted / n_positive + 0.5) if n_positive else 0  # mean over positive cells
    return {
        "percent_positive": round(100 * n_positive / n, 2),
        "h_score": round(100 * weighted / n, 1),
        "allred": proportion + intensity,
    }


def score_values(found: dict[str, Sequence[int]] | None, area: str = "") -> dict[str, float | int | None]:
    """Columns of a table for one area: scores of every compartment, and counts of nuclei by intensity.

    Args:
        found: counts by compartment from ``count_intensities``; None if there are none.
        area: name of a tissue region, appended to the names of the columns; "" for the slide or an annotation.
    """
    values: dict[str, float | int | None] = {}
    end = f"_in_{one_line(area)}" if area else ""
    for compartment in filter(found.__contains__, COMPARTMENTS) if found else ():
        counts = found[compartment]
        start = "" if compartment == "nucleus" else f"{compartment}_"
        values |= {f"{start}{name}{end}": value for name, value in score(counts).items()}
        values |= {f"{start}n_{level}plus{end}": n for level, n in enumerate(counts) if level}
    return values


def count_in_regions(nuclei: Path, regions: Regions, classes: Sequence[NucleusClass]) -> dict[str, Any]:
    """Count the nuclei in every region and in the bands along the border, for ``summary.json``.

    Args:
        nuclei: path of the table.
        regions: tissue regions in the provenance of the table.
        classes: classes of the nuclei.
    """
    if regions.status != "ok":
        return to_json(regions)
    names = [one.name for one in regions.classes]
    n_in_region = np.zeros((len(names), len(classes)), int)
    bands = [(side, band) for band in regions.bands for side in SIDES]
    n_in_band = np.zeros((len(bands), len(classes)), int)
    borders = list(dict.fromkeys(border_of(band.region) for band in regions.bands))
    for table in iterate_rows(nuclei, ROW_GROUP, ["label", REGION, *borders]):
        label = to_numpy(table["label"])
        region = pc.fill_null(pc.index_in(table[REGION].cast(pa.string()), pa.array(names)), -1).to_numpy()
        for where in range(len(names)):
            n_in_region[where] += _count(label[region == where], classes)
        for where, (side, band) in enumerate(bands):
            border = to_numpy(table[border_of(band.region)])
            depth = -border if side == "inside" else border
            is_there = (border <= 0 if side == "inside" else border > 0) & (depth <= band.um)
            n_in_band[where] += _count(label[is_there], classes)
    return {
        **to_json(regions),
        "classes": [
            {**to_json(one), **_nuclei(n, classes)} for one, n in zip(regions.classes, n_in_region, strict=True)
        ],
        "bands": [
            {
                **{"name": band.name_side(side), "side": side, "um": band.um, "region": band.region},
                **{"area_mm2": band.side_mm2(side), **_nuclei(n, classes)},
            }
            for (side, band), n in zip(bands, n_in_band, strict=True)
        ],
    }


def _count(label: np.ndarray, classes: Sequence[NucleusClass]) -> np.ndarray:
    return np.bincount(label[label >= 0], minlength=len(classes))[: len(classes)]


def _nuclei(n: np.ndarray, classes: Sequence[NucleusClass]) -> dict[str, Any]:
    return {
        "n_nuclei": int(n.sum()),
        "n_by_class": {one.name: int(count) for one, count in zip(classes, n, strict=True)},
    }


def region_values(regions: dict[str, Any] | None) -> dict[str, float | str | None]:
    """The columns of ``cohort.tsv`` about regions, for one slide; empty without regions."""
    if regions is None:
        return {}
    values: dict[str, float | str | None] = {"regions": regions["status"]}
    if regions["status"] == "ok":
        values["border_mm"] = regions["border_mm"]
        if "n_unlike_region" in regions:
            values["nuclei_unlike_region"] = regions["n_unlike_region"]
        for name, row in _rows(regions):
            values |= {f"mm2_in_{name}": round(row["area_mm2"], 4), f"nuclei_in_{name}": row["n_nuclei"]}
            values[f"nuclei_per_mm2_in_{name}"] = per_mm2(row["n_nuclei"], row["area_mm2"])
            for kind, n in row["n_by_class"].items():
                values[f"nuclei_in_{name}_{one_line(kind)}"] = n
                values[f"nuclei_per_mm2_in_{name}_{one_line(kind)}"] = per_mm2(n, row["area_mm2"])
    return values


def _rows(regions: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from ((one_line(one["name"]), one) for one in regions["classes"])
    yield from ((one_line(one["name"]), one) for one in regions["bands"])


def per_mm2(n: int | None, mm2: float | None) -> float | None:
    """Nuclei per mm2, rounded for tables; None if the number or the area is missing or the area is 0."""
    return round(n / mm2, 1) if n is not None and mm2 else None


def count_in_annotations(
    nuclei: Path, annotations: Sequence[RoiAnnotation], classes: Sequence[NucleusClass], with_positive: bool
) -> list[dict[str, Any]]:
    """Name, areas and counted nuclei of each annotation, for ``summary.json``; a nucleus may count in several of them.

    Args:
        nuclei: path of the table.
        annotations: annotations of the slide.
        classes: classes of the model.
        with_positive: True to add the number of positive nuclei, from the column ``positive`` of the table.
    """
    if not annotations:
        return []
    n_by_class = np.zeros((len(annotations), len(classes) + 1), int)  # the last column counts nuclei without a class
    n_positive = np.zeros(len(annotations), int)
    shapely.prepare([each.geometry for each in annotations])
    columns = ("label", POSITIVE) if with_positive else ("label",)
    for xy, label, *positive in stream_positions(nuclei, *columns, counted_only=True):
        column = np.where((label >= 0) & (label < len(classes)), label, len(classes))
        for index, each in enumerate(annotations):
            inside = shapely.contains_xy(each.geometry, xy)
            n_by_class[index] += np.bincount(column[inside], minlength=len(classes) + 1)
            n_positive[index] += sum(int(values[inside].sum()) for values in positive)
    return [
        {
            "name": each.name,
            "class": each.class_name,
            "area_mm2": each.area_mm2,
            "tissue_mm2": each.tissue_mm2,
            "n_nuclei": int(counts.sum()),
            "n_by_class": {one.name: int(n) for one, n in zip(classes, counts, strict=False)},
            **({"n_positive": int(n)} if with_positive else {}),
        }
        for each, counts, n in zip(annotations, n_by_class, n_positive, strict=True)
    ]

"""Numbers of a slide and its parts: nuclei in annotations and regions, and scores of
immunohistochemistry.

Nuclei are counted in each annotation, in each tissue region and along its border, for
``summary.json`` and tables.

H-score: McCarty et al., "Use of a monoclonal anti-estrogen receptor antibody in the
immunohistochemical evaluation of human tumors", Cancer Res 1986. Allred score: Allred et al.,
"Prognostic and predictive factors in breast cancer by immunohistochemical analysis", Mod Pathol
1998.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from muse_pipeline.nuclei import parquet
from muse_pipeline.nuclei.arrow import texts_to_arrow, to_numpy
from muse_pipeline.report.density import stream_positions
from muse_pipeline.tissue.mask import RoiAnnotation

COMPARTMENTS = {
    "nucleus": parquet.DAB_OD,
    **{feature.name.split("_")[0]: feature.name for feature in DAB_OF_CELL},
}
ALLRED_SHARES = (
    0,
    0.01,
    0.1,
    1 / 3,
    2 / 3,
)  # fractions of positive cells above which the proportion score is 1 to 5


def count_intensities(
    nuclei: Path, provenance: Provenance, annotations: Sequence[RoiAnnotation]
) -> dict[str, Any]:
    """Count cells of intensity 0, 1+, 2+ and 3+ by compartment in the slide, its annotations and
    its tissue regions.
    """
    with parquet.open_nuclei(nuclei) as file:
        present = file.schema_arrow.names
    limits = provenance.intensities_od or INTENSITIES_OD
    columns = {name: column for name, column in COMPARTMENTS.items() if column in present}
    regions = (
        [region.name for region in provenance.regions.classes or ()]
        if parquet.REGION in present
        else []
    )
    counts = np.zeros((1 + len(annotations) + len(regions), len(columns), 4), int)
    names = ["x", "y", *columns.values(), *([parquet.REGION] if regions else [])]
    areas = [annotation.geometry for annotation in annotations]
    shapely.prepare(areas)
    for table in parquet.iterate_counted(nuclei, names):
        xy = np.stack([to_numpy(table[name]) for name in "xy"], 1)
        inside = [np.ones(len(xy), bool), *(shapely.contains_xy(area, xy) for area in areas)]
        if regions:
            index = _index_regions(table, regions)
            inside += [index == number for number in range(len(regions))]
        for which, column in enumerate(columns.values()):
            density = to_numpy(table[column])
            level = np.searchsorted(limits, density, side="right")
            for area, chosen in enumerate(inside):
                counts[area, which] += np.bincount(
                    level[chosen & np.isfinite(density)], minlength=4
                )
    slide, *parts = [dict(zip(columns, of_area, strict=True)) for of_area in counts.tolist()]
    n = len(annotations)
    return {
        "slide": slide,
        "annotations": parts[:n],
        "regions": dict(zip(regions, parts[n:], strict=True)),
    }


def _index_regions(table: pa.Table, names: Sequence[str]) -> np.ndarray:
    """The index (n,) of each nucleus's region in ``names``; -1 outside all regions."""
    return pc.fill_null(
        pc.index_in(table[parquet.REGION].cast(pa.string()), texts_to_arrow(names)), -1
    ).to_numpy()


def score(counts: Sequence[int]) -> dict[str, float | int | None]:
    """Percentage of positive cells, H-score and Allred score (None without cells) of counts of 0,
    1+, 2+ and 3+.
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


def score_values(
    intensities: dict[str, Sequence[int]] | None, area: str = ""
) -> dict[str, float | int | None]:
    """Columns of a table with scores of every compartment, and the counts from
    ``count_intensities`` by intensity.

    Their names end with the tissue region ``area``, which is "" for the slide or an annotation.
    """
    values: dict[str, float | int | None] = {}
    end = f"_in_{one_line(area)}" if area else ""
    for compartment in filter(intensities.__contains__, COMPARTMENTS) if intensities else ():
        counts = intensities[compartment]
        start = "" if compartment == "nucleus" else f"{compartment}_"
        values |= {f"{start}{name}{end}": value for name, value in score(counts).items()}
        values |= {f"{start}n_{level}plus{end}": n for level, n in enumerate(counts) if level}
    return values


def count_in_regions(
    nuclei: Path, regions: Regions, classes: Sequence[NucleusClass]
) -> dict[str, Any]:
    """Count the nuclei in every region and in the bands along the border, for ``summary.json``."""
    if regions.status != "ok":
        return to_json(regions)
    names = [region.name for region in regions.classes]
    n_in_region = np.zeros((len(names), len(classes)), int)
    bands = [(side, band) for band in regions.bands for side in ("inside", "outside")]
    n_in_band = np.zeros((len(bands), len(classes)), int)
    borders = list(dict.fromkeys(parquet.border_of(band.region) for band in regions.bands))
    for table in parquet.iterate_rows(
        nuclei, parquet.ROW_GROUP, ["label", parquet.REGION, *borders]
    ):
        label = to_numpy(table["label"])
        region = _index_regions(table, names)
        for where in range(len(names)):
            n_in_region[where] += _count(label[region == where], classes)
        for where, (side, band) in enumerate(bands):
            border = to_numpy(table[parquet.border_of(band.region)])
            is_there = (border <= 0 if side == "inside" else border > 0) & (
                np.abs(border) <= band.um
            )
            n_in_band[where] += _count(label[is_there], classes)
    return {
        **to_json(regions),
        "classes": [
            {**to_json(region), **_nuclei(n, classes)}
            for region, n in zip(regions.classes, n_in_region, strict=True)
        ],
        "bands": [
            {
                **{
                    "name": band.name_side(side),
                    "side": side,
                    "um": band.um,
                    "region": band.region,
                },
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
        "n_by_class": {kind.name: int(count) for kind, count in zip(classes, n, strict=True)},
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
        for row in (*regions["classes"], *regions["bands"]):
            name = one_line(row["name"])
            values |= {
                f"mm2_in_{name}": round(row["area_mm2"], 4),
                f"nuclei_in_{name}": row["n_nuclei"],
            }
            values[f"nuclei_per_mm2_in_{name}"] = per_mm2(row["n_nuclei"], row["area_mm2"])
            for kind, n in row["n_by_class"].items():
                values[f"nuclei_in_{name}_{one_line(kind)}"] = n
                values[f"nuclei_per_mm2_in_{name}_{one_line(kind)}"] = per_mm2(n, row["area_mm2"])
    return values


def per_mm2(n: int | None, mm2: float | None) -> float | None:
    """Nuclei per mm2, rounded for tables; None if the number or the area is missing or the area is
    0.
    """
    return round(n / mm2, 1) if n is not None and mm2 else None


def count_in_annotations(
    nuclei: Path,
    annotations: Sequence[RoiAnnotation],
    classes: Sequence[NucleusClass],
    with_positive: bool,
) -> list[dict[str, Any]]:
    """Name, areas and nuclei of each annotation, for ``summary.json``; a nucleus may count in
    several of them.
    """
    if not annotations:
        return []
    n_by_class = np.zeros(
        (len(annotations), len(classes) + 1), int
    )  # the last column counts nuclei without a class
    n_positive = np.zeros(len(annotations), int)
    shapely.prepare([annotation.geometry for annotation in annotations])
    columns = ("label", parquet.POSITIVE) if with_positive else ("label",)
    for xy, label, *positive in stream_positions(nuclei, *columns, counted_only=True):
        column = np.where((label >= 0) & (label < len(classes)), label, len(classes))
        for index, annotation in enumerate(annotations):
            inside = shapely.contains_xy(annotation.geometry, xy)
            n_by_class[index] += np.bincount(column[inside], minlength=len(classes) + 1)
            n_positive[index] += sum(int(values[inside].sum()) for values in positive)
    return [
        {
            "name": annotation.name,
            "class": annotation.class_name,
            "area_mm2": annotation.area_mm2,
            "tissue_mm2": annotation.tissue_mm2,
            "n_nuclei": int(counts.sum()),
            "n_by_class": {kind.name: int(n) for kind, n in zip(classes, counts, strict=False)},
            **({"n_positive": int(n)} if with_positive else {}),
        }
        for annotation, counts, n in zip(annotations, n_by_class, n_positive, strict=True)
    ]

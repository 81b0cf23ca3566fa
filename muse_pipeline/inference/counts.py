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

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely
from numpy import ndarray

from muse_pipeline.core.provenance import Provenance, Quality, Regions, to_json
from muse_pipeline.core.text import one_line
from muse_pipeline.core.types import INTENSITIES_OD
from muse_pipeline.features.catalogue import DAB_OF_CELL, every_feature
from muse_pipeline.inference.card import NucleusClass
from muse_pipeline.nuclei import parquet
from muse_pipeline.nuclei.arrow import positions, texts_to_arrow, to_numpy
from muse_pipeline.tissue.mask import RoiAnnotation

COMPARTMENTS = {
    "nucleus": parquet.DAB_OD,
    **{feature.name.split("_")[0]: feature.name for feature in DAB_OF_CELL},
}
# fractions of positive cells above which the proportion score is 1 to 5
ALLRED_SHARES = (0, 0.01, 0.1, 1 / 3, 2 / 3)
NUMBERS_AT_ONCE = 1 << 20  # a small table is read several columns at a time


def stream_positions(
    path: Path, *columns: str, counted_only: bool = False
) -> Iterator[tuple[ndarray, ...]]:
    """Yield xy (n, 2) float64 in level-0 px and each numeric column (n,) of a table, in batches of
    bounded size.
    """
    names = ["x", "y", *columns]
    rows = parquet.iterate_rows(path, parquet.ROW_GROUP, names)
    for table in parquet.iterate_counted(path, names) if counted_only else rows:
        yield positions(table), *(to_numpy(table[name]) for name in columns)


def median_features(path: Path, classes: Sequence[str]) -> dict[str, float]:
    """The median of every feature in the table, over the nuclei that are in totals."""
    with parquet.open_nuclei(path) as file:
        columns = file.schema_arrow.names
        n_rows = max(file.metadata.num_rows, 1)
    names = [feature.name for feature in every_feature(classes) if feature.name in columns]
    medians, at_once = {}, max(NUMBERS_AT_ONCE // n_rows, 1)
    for start in range(0, len(names), at_once):
        own = names[start : start + at_once]
        tables = list(parquet.iterate_counted(path, own))
        for name in own if tables else ():
            values = np.concatenate([to_numpy(table[name]) for table in tables])
            if np.isfinite(values).any():
                medians[name] = float(np.nanmedian(values))
    return medians


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
    has_regions = parquet.REGION in present
    regions = [region.name for region in provenance.regions.classes or ()] if has_regions else []
    counts = np.zeros((1 + len(annotations) + len(regions), len(columns), 4), int)
    areas = [annotation.geometry for annotation in annotations]
    shapely.prepare(areas)
    of_region = [parquet.REGION] if regions else []
    for table in parquet.iterate_counted(nuclei, ["x", "y", *columns.values(), *of_region]):
        xy = positions(table)
        inside = [np.ones(len(xy), bool), *(shapely.contains_xy(area, xy) for area in areas)]
        if regions:
            inside += [_index_regions(table, regions) == number for number in range(len(regions))]
        for which, column in enumerate(columns.values()):
            density = to_numpy(table[column])
            level = np.searchsorted(limits, density, side="right")
            for area, chosen in enumerate(inside):
                own = level[chosen & np.isfinite(density)]
                counts[area, which] += np.bincount(own, minlength=4)
    slide, *parts = [dict(zip(columns, of_area, strict=True)) for of_area in counts.tolist()]
    n = len(annotations)
    of_regions = dict(zip(regions, parts[n:], strict=True))
    return {"slide": slide, "annotations": parts[:n], "regions": of_regions}


def _index_regions(table: pa.Table, names: Sequence[str]) -> ndarray:
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
    intensities: Mapping[str, Sequence[int]], area: str = ""
) -> dict[str, float | int | None]:
    """Columns of a table with scores of every compartment, and the counts from
    ``count_intensities`` by intensity.

    Their names end with the tissue region ``area``, which is "" for the slide or an annotation.
    """
    values = {}
    end = f"_in_{one_line(area)}" if area else ""
    for compartment, counts in intensities.items():
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
    sides = [(band, side) for band in regions.bands for side in ("inside", "outside")]
    counts = np.zeros((len(names) + len(sides), len(classes)), int)
    borders = list(dict.fromkeys(parquet.border_of(band.region) for band in regions.bands))
    columns = ["label", parquet.REGION, *borders]
    for table in parquet.iterate_rows(nuclei, parquet.ROW_GROUP, columns):
        label = to_numpy(table["label"])
        region = _index_regions(table, names)
        areas = [region == index for index in range(len(names))]
        for band, side in sides:
            border = to_numpy(table[parquet.border_of(band.region)])
            is_there = border <= 0 if side == "inside" else border > 0
            areas.append(is_there & (np.abs(border) <= band.um))
        for index, is_inside in enumerate(areas):
            own = label[is_inside & (label >= 0)]
            counts[index] += np.bincount(own, minlength=len(classes))[: len(classes)]
    parts = [
        {
            "n_nuclei": int(n.sum()),
            "n_by_class": {kind.name: int(count) for kind, count in zip(classes, n, strict=True)},
        }
        for n in counts
    ]
    of_classes, of_bands = parts[: len(names)], parts[len(names) :]
    return {
        **to_json(regions),
        "classes": [to_json(c) | n for c, n in zip(regions.classes, of_classes, strict=True)],
        "bands": [
            {
                "name": band.name_side(side),
                "side": side,
                "um": band.um,
                "region": band.region,
                "area_mm2": band.side_mm2(side),
                **n,
            }
            for (band, side), n in zip(sides, of_bands, strict=True)
        ],
    }


def region_values(regions: dict[str, Any] | None) -> dict[str, float | str | None]:
    """The columns of ``cohort.tsv`` about regions, for one slide; empty without regions."""
    if regions is None:
        return {}
    values = {"regions": regions["status"]}
    for name, entry in (("border_mm", "border_mm"), ("nuclei_unlike_region", "n_unlike_region")):
        values |= {name: regions[entry]} if entry in regions else {}
    for row in (*regions.get("classes", ()), *regions.get("bands", ())):
        name, mm2 = one_line(row["name"]), row["area_mm2"]
        values[f"mm2_in_{name}"] = round(mm2, 4)
        for kind, n in {"": row["n_nuclei"], **row["n_by_class"]}.items():
            end = f"{name}_{one_line(kind)}" if kind else name
            values |= {f"nuclei_in_{end}": n, f"nuclei_per_mm2_in_{end}": per_mm2(n, mm2)}
    return values


def nucleus_values(n: int, tissue_mm2: float | None, n_positive: int | None) -> dict[str, Any]:
    """Columns of a table with the nuclei of a slide or an annotation."""
    return {
        "nuclei": n,
        "nuclei_per_mm2": per_mm2(n, tissue_mm2),
        "n_positive": n_positive,
        "n_negative": None if n_positive is None else n - n_positive,
        "percent_positive": percent(n_positive, n),
    }


def class_values(
    counts: Mapping[str, int], total: int, tissue_mm2: float | None
) -> dict[str, float | None]:
    """Columns of a table with number, percentage and density of every class."""
    counts = {one_line(name): n for name, n in counts.items()}
    return {
        **{f"nuclei_{name}": n for name, n in counts.items()},
        **{f"percent_{name}": percent(n, total) for name, n in counts.items()},
        **{f"nuclei_per_mm2_{name}": per_mm2(n, tissue_mm2) for name, n in counts.items()},
    }


def n_in_artefacts(quality: Quality) -> int:
    """Number of nuclei in artefacts, whether totals leave them out or not."""
    return sum((quality.n_by_kind or {}).values()) or quality.n_nuclei or 0


def percent(n: int | None, total: int) -> float | None:
    """``n`` as a percentage of ``total``, rounded for tables; None if one is missing or the total
    is 0.
    """
    return round(100 * n / total, 2) if n is not None and total else None


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
    n_classes = len(classes)
    # The last column counts nuclei without a class.
    n_by_class = np.zeros((len(annotations), n_classes + 1), int)
    n_positive = np.zeros(len(annotations), int)
    shapely.prepare([annotation.geometry for annotation in annotations])
    columns = ("label", parquet.POSITIVE) if with_positive else ("label",)
    for xy, label, *positive in stream_positions(nuclei, *columns, counted_only=True):
        column = np.where((label >= 0) & (label < n_classes), label, n_classes)
        for index, annotation in enumerate(annotations):
            inside = shapely.contains_xy(annotation.geometry, xy)
            n_by_class[index] += np.bincount(column[inside], minlength=n_classes + 1)
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

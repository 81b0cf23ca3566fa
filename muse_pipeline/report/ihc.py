"""Scores of immunohistochemistry: H-score, percentage of positive nuclei and Allred score, of a slide and parts of it.

McCarty et al., "Use of a monoclonal anti-estrogen receptor antibody in the immunohistochemical evaluation of human
tumors", Cancer Res 1986; Allred et al., "Prognostic and predictive factors in breast cancer by immunohistochemical
analysis", Mod Pathol 1998.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely

from muse_pipeline.core.provenance import Provenance
from muse_pipeline.core.text import one_line
from muse_pipeline.core.types import INTENSITIES_OD
from muse_pipeline.features.catalogue import DAB_OF_CELL
from muse_pipeline.nuclei.arrow import to_numpy
from muse_pipeline.nuclei.parquet import DAB_OD, REGION, iterate_counted, open_nuclei
from muse_pipeline.tissue.mask import RoiAnnotation

COMPARTMENTS = {"nucleus": DAB_OD, **{each.name.split("_")[0]: each.name for each in DAB_OF_CELL}}
ALLRED_SHARES = (0, 0.01, 0.1, 1 / 3, 2 / 3)  # shares of positive nuclei above which proportion scores 1 to 5 begin


def count_intensities(nuclei: Path, provenance: Provenance, annotations: Sequence[RoiAnnotation]) -> dict[str, Any]:
    """Numbers of cells that are 0, 1+, 2+ and 3+ by compartment: of the slide, of annotations and of tissue regions.

    Args:
        nuclei: path of the table.
        provenance: provenance of the table, of immunohistochemistry.
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
    """Percentage of positive cells, H-score (0 to 300) and Allred score (0 to 8); None without cells.

    Args:
        counts: numbers of cells that are 0, 1+, 2+ and 3+.
    """
    n, n_positive = sum(counts), sum(counts[1:])
    if not n:
        return {"percent_positive": None, "h_score": None, "allred": None}
    weighted = sum(level * count for level, count in enumerate(counts))
    proportion = sum(n_positive / n > share for share in ALLRED_SHARES)
    intensity = int(weighted / n_positive + 0.5) if n_positive else 0  # of the average positive cell
    return {
        "percent_positive": round(100 * n_positive / n, 2),
        "h_score": round(100 * weighted / n, 1),
        "allred": proportion + intensity,
    }


def score_values(found: dict[str, Sequence[int]] | None, area: str = "") -> dict[str, float | int | None]:
    """Columns of a table for one area: scores of every compartment, and counts of nuclei by intensity.

    Args:
        found: counts by compartment from ``count_intensities``; None if there are none.
        area: name of a tissue region, at the end of the names of the columns.
    """
    values: dict[str, float | int | None] = {}
    end = f"_in_{one_line(area)}" if area else ""
    for compartment in filter(found.__contains__, COMPARTMENTS) if found else ():
        counts = found[compartment]
        start = "" if compartment == "nucleus" else f"{compartment}_"
        values |= {f"{start}{name}{end}": value for name, value in score(counts).items()}
        values |= {f"{start}n_{level}plus{end}": n for level, n in enumerate(counts) if level}
    return values

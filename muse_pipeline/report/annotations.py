"""Nuclei in each annotation of a slide's region of interest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from muse_pipeline.inference.card import NucleusClass
from muse_pipeline.nuclei.parquet import POSITIVE
from muse_pipeline.report.nuclei_file import stream_positions
from muse_pipeline.tissue.mask import RoiAnnotation


def count_in_annotations(
    nuclei: Path, annotations: Sequence[RoiAnnotation], classes: Sequence[NucleusClass], with_positive: bool
) -> list[dict[str, Any]]:
    """Name, areas and nuclei of each annotation, for ``summary.json``; a nucleus counts in every annotation around it.

    Args:
        nuclei: path of the table.
        annotations: annotations of the slide.
        classes: classes of the model.
        with_positive: True for a table with the column ``positive``; the number of positive nuclei is added then.
    """
    if not annotations:
        return []
    n_by_class = np.zeros((len(annotations), len(classes) + 1), int)  # the last column: nuclei of no class
    n_positive = np.zeros(len(annotations), int)
    shapely.prepare([each.geometry for each in annotations])
    for xy, label, *positive in stream_positions(nuclei, "label", *([POSITIVE] if with_positive else [])):
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

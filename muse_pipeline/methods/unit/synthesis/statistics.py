"""Statistics of synthesised masks, measured in the same way as the published examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from muse_pipeline.methods.unit.synthesis.masks import InstanceMask, contours
from muse_pipeline.methods.unit.synthesis.settings import EPITHELIAL, KINDS

QUANTILES = (5, 25, 50, 75, 95)
MEASURES = ("area_um2", "major_um", "minor_um", "ratio")
TOTALS = ("nuclei", "epithelial", "covered")


def measure_instances(instances: np.ndarray, n: int, mpp: float) -> np.ndarray:
    """(n, 4) ``MEASURES`` of instances 1..n from the second moments of their pixels; zeros for one without pixels.

    Args:
        instances: (h, w) int, 0 is background.
        n: number of instances.
        mpp: um per pixel.
    """
    row, column = np.nonzero(instances)
    number = instances[row, column].astype(np.intp) - 1

    def total(values: np.ndarray | None = None) -> np.ndarray:
        return np.bincount(number, values, minlength=n)

    area = total()
    count = np.maximum(area, 1)
    mean_x, mean_y = total(column) / count, total(row) / count
    x, y = column - mean_x[number], row - mean_y[number]
    xx, yy, xy = (total(values) / count + own for values, own in ((x * x, 1 / 12), (y * y, 1 / 12), (x * y, 0)))
    middle, spread = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
    major, minor = 4 * np.sqrt(middle + spread), 4 * np.sqrt(np.maximum(middle - spread, 0))
    table = np.stack([area * mpp**2, major * mpp, minor * mpp, minor / major], 1)
    return table * (area > 0)[:, None]


def summarise(masks: Sequence[InstanceMask], mpp: float) -> dict[str, Any]:
    """Quantiles per kind without contour pixels and nuclei at the border, and totals per mask.

    Args:
        masks: one or more.
        mpp: um per pixel.

    Returns:
        By kind ``n`` and quantiles (5, 25, 50, 75, 95 %) of each of ``MEASURES``; ``nuclei`` per mask, ``epithelial``
        fraction of them and fraction ``covered`` of the pixels, as quantiles over masks.
    """
    tables, totals = measure(masks, mpp)
    of_kind = {name: {"n": len(table), **_quantiles(table, MEASURES)} for name, table in tables.items()}
    return {"masks": len(masks), **of_kind, **_quantiles(totals, TOTALS)}


def measure(masks: Sequence[InstanceMask], mpp: float) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """(n, 4) ``MEASURES`` by kind, without contour pixels and nuclei at the border, and (masks, 3) totals."""
    tables, kinds, totals = [], [], []
    for mask in masks:
        inner = np.where(contours(mask.instances), 0, mask.instances)
        table = measure_instances(inner, len(mask.kinds), mpp)
        whole = table[:, 0] > 0
        whole[border_instances(mask.instances) - 1] = False
        tables.append(table[whole])
        kinds.append(mask.kinds[whole])
        totals.append((len(mask.kinds), (mask.kinds == EPITHELIAL).mean(), (inner > 0).mean()))
    table, kind = np.concatenate(tables), np.concatenate(kinds)
    return {name: table[kind == index] for index, name in enumerate(KINDS)}, np.array(totals, float)


def border_instances(instances: np.ndarray) -> np.ndarray:
    """The numbers of the instances that touch the border."""
    rim = np.concatenate([instances[0], instances[-1], instances[:, 0], instances[:, -1]])
    return np.unique(rim[rim > 0])


def _quantiles(table: np.ndarray, names: Sequence[str]) -> dict[str, list[float]]:
    if not len(table):
        return {name: [] for name in names}
    return {name: np.percentile(table[:, i], QUANTILES).round(3).tolist() for i, name in enumerate(names)}

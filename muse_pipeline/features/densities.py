"""Haematoxylin and eosin of nuclei: optical densities over the nucleus, its rim and the ring around it.

Densities are whole multiples of ``STEP``: their sums are exact and do not depend on how a slide is divided into images.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from muse_pipeline.features.zones import Pixels, Zones, to_rows
from muse_pipeline.tissue.stain import DENSITY

PERCENTILES = (10, 50, 90)
STEP = 2.0**-20  # of OD


def stain_tables(stains: np.ndarray) -> np.ndarray:
    """(2, 3, 256) int32: contribution of each value of each channel to haematoxylin and eosin, in ``STEP`` of base 10.

    Args:
        stains: (2, 3) unit rows in optical density, haematoxylin first.
    """
    shares = np.linalg.pinv(np.asarray(stains, float)).T  # least squares
    return np.rint(shares[..., None] * (DENSITY.astype(float) / np.log(10) / STEP)).astype(np.int32)


def split_stain(planes: Sequence[np.ndarray], table: np.ndarray) -> np.ndarray:
    """The density (h, w) int32 of a stain, from its (3, 256) of ``stain_tables`` and three channels (h, w) uint8."""
    density, *others = (cv2.LUT(plane, part) for plane, part in zip(planes, table, strict=True))
    for other in others:
        density += other
    return density


def measure_densities(zones: Zones, planes: np.ndarray, tables: np.ndarray) -> dict[str, np.ndarray]:
    """The features of the groups *h* and *e* in OD, (N,) each; NaN where a zone has no pixel.

    Args:
        zones: zones of the nuclei; the caller leaves out pixels of rings that lie in other nuclei.
        planes: (3, h, w) uint8 image.
        tables: (2, 3, 256) from ``stain_tables``.
    """
    parts = zones.nucleus, zones.rim, zones.ring
    values = [[plane.take(part.pixel)[:, None] for plane in planes] for part in parts]
    found = {}
    for stain, table in zip("he", tables, strict=True):
        nucleus, rim, ring = (split_stain(each, table).ravel() for each in values)
        mean, sd = mean_and_sd(zones.nucleus, nucleus)
        measures = {"mean": mean, "sd": sd, "rim_mean": _mean(zones.rim, rim), "ring_mean": _mean(zones.ring, ring)}
        ranked = _percentiles(nucleus, zones.nucleus.n)
        measures |= {f"p{percent}": each for percent, each in zip(PERCENTILES, ranked, strict=True)}
        found |= {f"{stain}_{name}": each * STEP for name, each in measures.items()}
    return found


def mean_and_sd(pixels: Pixels, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (N,) of values (M,) over the pixels of each nucleus."""
    mean = _mean(pixels, values)
    values = values.astype(np.result_type(values, np.int64))
    return mean, np.sqrt(np.maximum(_mean(pixels, values * values) - mean * mean, 0))


def _mean(pixels: Pixels, values: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return pixels.sum(values) / pixels.n


def _percentiles(values: np.ndarray, n: np.ndarray) -> list[np.ndarray]:
    """(N,) for each of ``PERCENTILES`` of consecutive runs of ``n`` (N,) values, as ``numpy.percentile``."""
    ascending = to_rows(values, n)
    ascending.sort(axis=1)
    last, row = n - 1, np.flatnonzero(n)
    found = []
    for percent in PERCENTILES:
        rank = last[row] * (percent / 100)
        below = np.floor(rank).astype(int)
        low, high = (ascending[row, each].astype(float) for each in (below, np.minimum(below + 1, last[row])))
        each = np.full(len(n), np.nan)
        each[row] = low + (high - low) * (rank - below)
        found.append(each)
    return found

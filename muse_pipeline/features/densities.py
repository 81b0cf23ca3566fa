"""Haematoxylin and eosin of nuclei: optical densities over the nucleus, its rim and the ring around it."""

from __future__ import annotations

import cv2
import numpy as np

from muse_pipeline.features.zones import RIM, RING, ZonePixels
from muse_pipeline.tissue.stain import DENSITY

PERCENTILES = (10, 50, 90)


def stain_tables(stains: np.ndarray) -> np.ndarray:
    """(2, 3, 256) float32: what each value of each channel adds to haematoxylin and to eosin, in OD to the base 10.

    Args:
        stains: (2, 3) unit rows in optical density, haematoxylin first.
    """
    shares = np.linalg.pinv(np.asarray(stains, float)).T  # least squares
    return (shares[..., None] * (DENSITY.astype(float) / np.log(10))).astype(np.float32)


def split_stain(pixels: np.ndarray, table: np.ndarray) -> np.ndarray:
    """The density (h, w) float32 of a stain in pixels (h, w, 3) uint8, by its (3, 256) of ``stain_tables``.

    Sums of lookups: a matrix product may round the last pixels of a row differently than the others.
    """
    density, *others = (cv2.LUT(plane, part) for plane, part in zip(cv2.split(pixels), table, strict=True))
    for other in others:
        density += other
    return density


def measure_densities(stain: str, zones: ZonePixels, values: np.ndarray) -> dict[str, np.ndarray]:
    """The features of the group ``stain``, (N,) each; NaN where a zone has no pixel.

    Args:
        stain: "h" or "e".
        zones: of the nuclei; pixels of rings that lie in other nuclei are left out by the caller.
        values: (M,) of the stain in the pixels of the zones.
    """
    values = values.astype(float)
    is_nucleus = zones.zone >= RIM
    mean, sd = mean_and_sd(zones, values, is_nucleus)
    found = {f"{stain}_mean": mean, f"{stain}_sd": sd}
    n = zones.sum(is_nucleus).astype(int)
    for percent, each in zip(PERCENTILES, _percentiles(values[is_nucleus], n), strict=True):
        found[f"{stain}_p{percent}"] = each
    found[f"{stain}_rim_mean"] = _mean(zones, values, zones.zone == RIM)
    found[f"{stain}_ring_mean"] = _mean(zones, values, zones.zone == RING)
    return found


def mean_and_sd(zones: ZonePixels, values: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (N,) of values (M,) over the chosen pixels (M,) of each nucleus."""
    mean = _mean(zones, values, chosen)
    return mean, np.sqrt(np.maximum(_mean(zones, values * values, chosen) - mean * mean, 0))


def _mean(zones: ZonePixels, values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return zones.sum(values * chosen) / zones.sum(chosen)


def _percentiles(values: np.ndarray, n: np.ndarray) -> list[np.ndarray]:
    """(N,) for each of ``PERCENTILES`` of consecutive runs of ``n`` (N,) values, as ``numpy.percentile``."""
    ascending = np.full((len(n), n.max(initial=0) + 1), np.nan, np.float32)  # NaN is sorted to the end
    ascending[np.arange(ascending.shape[1]) < n[:, None]] = values
    ascending.sort(axis=1)
    last, row = np.maximum(n - 1, 0), np.arange(len(n))
    found = []
    for percent in PERCENTILES:
        rank = last * (percent / 100)
        below = np.floor(rank).astype(int)
        low, high = (ascending[row, each].astype(float) for each in (below, np.minimum(below + 1, last)))
        found.append(low + (high - low) * (rank - below))
    return found

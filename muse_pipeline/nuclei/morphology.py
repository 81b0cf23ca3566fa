"""Nuclei of one class grouped by size and form, for a user to look at and name.

Clusters are fitted on a sample that a hash of the positions draws, so that they depend neither on the order in which
nuclei come nor on how a slide was cut, and the sample is all that is held in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from muse_pipeline.nuclei.table import Nuclei

N_CLUSTERS = 4
SAMPLE = 20_000
ROUNDS = 100  # of Lloyd's algorithm; it ends earlier where nothing moves
MEASURES = ("area_um2", "eccentricity", "solidity")


@dataclass(frozen=True, eq=False)
class MorphologyClusters:
    """Centres in the space of standardised measures: logarithm of area, eccentricity, solidity.

    Attributes:
        mean: (3,) of the sample.
        scale: (3,) its standard deviation.
        centres: (k, 3), standardised; by ascending area.
        share: (k,) of the sample.
    """

    mean: np.ndarray
    scale: np.ndarray
    centres: np.ndarray
    share: np.ndarray

    def assign(self, shapes: Mapping[str, np.ndarray]) -> np.ndarray:
        """(N,) int32: the cluster of each nucleus from ``shape.measure_shapes``, 1 for the smallest nuclei."""
        return _nearest((_table(shapes) - self.mean) / self.scale, self.centres).astype(np.int32) + 1

    def describe(self) -> list[dict[str, Any]]:
        """For the provenance: what the nuclei of each cluster are like."""
        values = self.centres * self.scale + self.mean
        values[:, 0] = np.exp(values[:, 0])
        return [
            {
                "cluster": number,
                "share": round(float(share), 4),
                **dict(zip(MEASURES, row.round(4).tolist(), strict=True)),
            }
            for number, (row, share) in enumerate(zip(values, self.share, strict=True), 1)
        ]


class ShapeSample:
    """The shapes of those nuclei, up to 20,000, whose positions have the least hashes.

    Args:
        measure: gives ``shape.measure_shapes`` of nuclei; it is asked for those alone that enter the sample.
    """

    def __init__(self, measure: Callable[[Nuclei], Mapping[str, np.ndarray]]):
        self.measure = measure
        self._hashes, self._values = np.zeros(0, np.uint64), np.zeros((0, len(MEASURES)))

    def add(self, nuclei: Nuclei) -> None:
        """Look at some nuclei."""
        hashes = _hash(nuclei.xy)
        if len(self._hashes) == SAMPLE:
            chosen = hashes < self._hashes[-1]
            nuclei, hashes = nuclei[chosen], hashes[chosen]
        if not len(nuclei):
            return
        hashes = np.concatenate([self._hashes, hashes])
        values = np.concatenate([self._values, _table(self.measure(nuclei))])
        first = np.lexsort((*values.T, hashes))[:SAMPLE]
        self._hashes, self._values = hashes[first], values[first]

    def fit(self) -> MorphologyClusters:
        """k-means by Lloyd's algorithm, which starts from groups of equal number by area: no chance is involved."""
        values = self._values if len(self._values) else np.zeros((1, len(MEASURES)))
        mean, deviation = values.mean(0), values.std(0)
        scale = np.where(deviation > 1e-6, deviation, 1.0)
        standard = (values - mean) / scale
        label = np.empty(len(values), np.intp)
        label[np.lexsort(standard.T[::-1])] = np.arange(len(values)) * N_CLUSTERS // len(values)
        centres = np.zeros((N_CLUSTERS, len(MEASURES)))
        for _ in range(ROUNDS):
            centres = _means(standard, label, centres)
            moved = _nearest(standard, centres)
            if np.array_equal(moved, label):
                break
            label = moved
        by_area = np.lexsort(centres.T[::-1])
        share = np.bincount(label, minlength=N_CLUSTERS)[by_area] / len(label)
        return MorphologyClusters(mean, scale, centres[by_area], share)


def _table(shapes: Mapping[str, np.ndarray]) -> np.ndarray:
    """(N, 3) float64."""
    area, *others = (np.asarray(shapes[name], np.float64) for name in MEASURES)
    return np.stack([np.log(np.maximum(area, 1e-3)), *others], 1)


def _hash(xy: np.ndarray) -> np.ndarray:
    """(N,) uint64 of positions to 0.01 px: the finaliser of SplitMix64 (Steele et al., OOPSLA 2014)."""
    hundredths = np.rint(xy * 100).astype(np.int64).astype(np.uint64)
    bits = hundredths[:, 0] << np.uint64(32) ^ hundredths[:, 1]
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits = (bits ^ bits >> np.uint64(shift)) * np.uint64(factor)
    return bits ^ bits >> np.uint64(31)


def _nearest(values: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """(N,) index of the nearest centre; of equals the first."""
    return ((values[:, None] - centres) ** 2).sum(2).argmin(1)


def _means(values: np.ndarray, label: np.ndarray, before: np.ndarray) -> np.ndarray:
    """(k, D) mean of each group; one that is empty stays where it was."""
    n = np.bincount(label, minlength=len(before))
    sums = np.stack([np.bincount(label, column, minlength=len(before)) for column in values.T], 1)
    return np.where(n[:, None] > 0, sums / np.maximum(n, 1)[:, None], before)

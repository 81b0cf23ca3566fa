"""Detection and class F1 by the protocol of the point-detection papers: one-to-one within 3 um, counts summed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from muse_pipeline.nuclei.matching import match_points
from muse_pipeline.nuclei.table import Nuclei

RADIUS_UM = 3.0


@dataclass(frozen=True)
class DetectionCounts:
    """True positives, false positives and false negatives: row 0 of any class, rows 1.. of each class; (C + 1, 3)."""

    values: np.ndarray

    def __add__(self, other: DetectionCounts) -> DetectionCounts:
        return DetectionCounts(self.values + other.values)

    @property
    def f1(self) -> np.ndarray:
        """(C + 1,) F1 in percent; NaN where a class is neither there nor predicted."""
        tp, fp, fn = self.values.T.astype(float)
        with np.errstate(invalid="ignore"):
            return 100 * 2 * tp / (2 * tp + fp + fn)

    def scores(self, classes: Sequence[str]) -> dict[str, float]:
        """F1 by name: "detection", each class, and "mean class" over the classes."""
        f1 = self.f1
        return {"detection": f1[0], "mean class": float(np.nanmean(f1[1:])), **dict(zip(classes, f1[1:], strict=True))}


def count_detections(
    predicted: Nuclei, true: Nuclei, n_classes: int, mpp: float | tuple[float, float]
) -> DetectionCounts:
    """Counts of one image; both in one frame, ``mpp`` um per pixel of it. Unknown classes count for detection only."""
    predicted.require(true.frame)
    rows = []
    for chosen in (None, *range(n_classes)):
        mine = slice(None) if chosen is None else predicted.label == chosen
        theirs = slice(None) if chosen is None else true.label == chosen
        taken = match_points(predicted.xy[mine] * mpp, predicted.score[mine], true.xy[theirs] * mpp, RADIUS_UM)
        hits = int((taken >= 0).sum())
        rows.append((hits, len(taken) - hits, len(true.xy[theirs]) - hits))
    return DetectionCounts(np.array(rows))


def bootstrap_f1(
    counts: Sequence[DetectionCounts], groups: Sequence[str], repeats: int = 1000, seed: int = 0
) -> np.ndarray:
    """Mean class F1 and detection F1 over draws of whole groups (patients) with replacement.

    Returns:
        (repeats, 2).
    """
    names = sorted(set(groups))
    stacked = np.stack([sum(c.values for c, g in zip(counts, groups, strict=True) if g == name) for name in names])
    generator = np.random.default_rng(seed)
    drawn = stacked[generator.integers(len(names), size=(repeats, len(names)))].sum(1)  # (repeats, C + 1, 3)
    f1 = np.stack([DetectionCounts(values).f1 for values in drawn])
    return np.stack([np.nanmean(f1[:, 1:], 1), f1[:, 0]], 1)

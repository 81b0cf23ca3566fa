"""Whether nuclei are as large as they are at the right um per pixel: a wrong one is the commonest mistake.

At a wrong scale nuclei have another size, and the model is less sure of their classes. Either alone also occurs at the
right scale: nuclei of lymph nodes are small, those of an unfamiliar organ unsure. Hence the plausible range of the
median area narrows as the mean class probability falls. The limits come from pictures of known scale, see
docs/confidence.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

MIN_NUCLEI = 100  # fewer may be of one place
SMALLEST = (0.78, 0.94), (20.0, 12.0)  # mean class probability -> least median area in um2
LARGEST = (0.85, 0.92), (48.0, 75.0)  # likewise the largest
SMALLEST_ALONE = 14.0  # of models of one class; their nuclei at double the scale are not clearly larger
CHECK = "check the um per pixel"  # begins the warning
_BIN_UM2, _LARGEST_UM2 = 0.1, 1000.0
_STEPS = 1_000_000  # of a probability


@dataclass(frozen=True)
class NuclearSize:
    """Nuclei of one slide.

    Attributes:
        n_nuclei: how many.
        median_area_um2: None where there are none.
        mean_class_probability: of the class of each; None where there are none or the model has one class.
    """

    n_nuclei: int
    median_area_um2: float | None = None
    mean_class_probability: float | None = None

    def describe_doubt(self, mpp: tuple[float, float]) -> str:
        """Warn where the size is implausible at ``mpp`` = (x, y) um per level-0 pixel; "" where it is plausible."""
        if self.n_nuclei < MIN_NUCLEI:
            return ""
        area, probability = self.median_area_um2, self.mean_class_probability
        if probability is None:
            least, most, unsure = SMALLEST_ALONE, np.inf, ""
        else:
            least, most = (np.interp(probability, *limit) for limit in (SMALLEST, LARGEST))
            unsure = f", mean class probability {probability:.2f}"
        if least <= area <= most:
            return ""
        size = "small" if area < least else "large"
        return f"{CHECK}, {np.mean(mpp):.4g}: the nuclei are too {size} for it (median area {area:.1f} um2{unsure})"

    def to_dict(self) -> dict[str, Any]:
        """The measures as JSON has them."""
        return {
            "median_area_um2": self.median_area_um2,
            "mean_class_probability": self.mean_class_probability,
        }


class SizeSample:
    """Collects nuclei in whole numbers, so that the result depends neither on their order nor on how they are cut."""

    def __init__(self) -> None:
        self._n_by_area = np.zeros(round(_LARGEST_UM2 / _BIN_UM2), np.int64)
        self._probability = 0

    def add(self, area_um2: np.ndarray, prob: np.ndarray) -> None:
        """Add nuclei by area (N,) and class probabilities (N, C)."""
        bins = (area_um2 / _BIN_UM2).astype(np.int64).clip(0, len(self._n_by_area) - 1)
        self._n_by_area += np.bincount(bins, minlength=len(self._n_by_area))
        if prob.shape[1] > 1:
            self._probability += int(np.rint(prob.max(1).astype(float) * _STEPS).astype(np.int64).sum())

    def measure(self) -> NuclearSize:
        """The median area, to 0.1 um2, and the mean class probability."""
        n = int(self._n_by_area.sum())
        if not n:
            return NuclearSize(0)
        median = round(float(np.searchsorted(self._n_by_area.cumsum(), (n + 1) // 2)) * _BIN_UM2, 1)
        return NuclearSize(n, median, round(self._probability / n / _STEPS, 4) if self._probability else None)

"""Reliability of class probabilities: predicted probability against observed accuracy.

Guo et al., "On Calibration of Modern Neural Networks", ICML 2017: expected calibration error of the
likeliest class, and temperature scaling. Only detected nuclei that match a true nucleus of known
class are counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy import ndarray

from muse_pipeline.evaluation.bootstrap import REPEATS, percentile_interval, resample_sums
from muse_pipeline.evaluation.detection import ratio

N_BINS = 15


@dataclass(frozen=True)
class CalibrationCounts:
    """Counts of nuclei in bins of the probability of their likeliest class."""

    # (..., N_BINS, 3) count, sum of probabilities, count of correct classes; leading axes are draws
    # of the bootstrap
    values: ndarray

    @property
    def n(self) -> ndarray:
        """(...) number of nuclei."""
        return self.values[..., 0].sum(-1)

    @property
    def error(self) -> ndarray:
        """(...) expected calibration error: mean difference between confidence and accuracy,
        weighted by bin size.
        """
        return ratio(np.abs(self.values[..., 1] - self.values[..., 2]).sum(-1), self.n)

    @property
    def confidence(self) -> ndarray:
        """(...) mean probability of the likeliest class."""
        return ratio(self.values[..., 1].sum(-1), self.n)

    @property
    def accuracy(self) -> ndarray:
        """(...) fraction of nuclei whose likeliest class is correct."""
        return ratio(self.values[..., 2].sum(-1), self.n)

    def describe(
        self, by_slide: ndarray, patients: Sequence[str], repeats: int = REPEATS
    ) -> dict[str, Any]:
        """JSON-ready description, with an interval of the error, bootstrapped over patients.

        ``values`` is the sum of the slides' counts ``by_slide`` (S, N_BINS, 3).
        """
        drawn = CalibrationCounts(resample_sums(by_slide, patients, repeats))
        edges = np.linspace(0, 1, N_BINS + 1).round(4).tolist()
        return {
            "n": int(self.n),
            "error": float(self.error),
            "error_interval": percentile_interval(drawn.error, patients),
            "confidence": float(self.confidence),
            "accuracy": float(self.accuracy),
            "bins": [
                {
                    "from": low,
                    "to": high,
                    "n": int(n),
                    "confidence": float(sure / n) if n else None,
                    "accuracy": float(right / n) if n else None,
                }
                for low, high, (n, sure, right) in zip(edges, edges[1:], self.values, strict=False)
            ],
        }


def count_calibration(prob: ndarray, true_label: ndarray) -> CalibrationCounts:
    """Count nuclei by bin, from their class probabilities (N, C) and their true classes (N,), all
    known.
    """
    values = np.zeros((N_BINS, 3))
    if len(prob):
        confidence = prob.max(1).astype(float)
        row = np.minimum((confidence * N_BINS).astype(int), N_BINS - 1)
        right = prob.argmax(1) == true_label
        np.add.at(values, row, np.stack([np.ones(len(row)), confidence, right], 1))
    return CalibrationCounts(values)

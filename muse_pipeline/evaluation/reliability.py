"""Reliability of class probabilities: predicted probability against observed accuracy.

Guo et al., "On Calibration of Modern Neural Networks", ICML 2017: expected calibration error of the
likeliest class, and temperature scaling. Only detected nuclei that match a true nucleus of known
class are counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from muse_pipeline.core.files import complete_file
from muse_pipeline.evaluation.bootstrap import REPEATS, percentile_interval, resample_sums
from muse_pipeline.evaluation.detection import ratio

N_BINS = 15


@dataclass(frozen=True)
class CalibrationCounts:
    """Counts of nuclei in bins of the probability of their likeliest class."""

    # (..., N_BINS, 3) count, sum of probabilities, count of correct classes; leading axes are draws
    # of the bootstrap
    values: np.ndarray

    @property
    def n(self) -> np.ndarray:
        """(...) number of nuclei."""
        return self.values[..., 0].sum(-1)

    @property
    def error(self) -> np.ndarray:
        """(...) expected calibration error: mean difference between confidence and accuracy,
        weighted by bin size.
        """
        return ratio(np.abs(self.values[..., 1] - self.values[..., 2]).sum(-1), self.n)

    @property
    def confidence(self) -> np.ndarray:
        """(...) mean probability of the likeliest class."""
        return ratio(self.values[..., 1].sum(-1), self.n)

    @property
    def accuracy(self) -> np.ndarray:
        """(...) fraction of nuclei whose likeliest class is correct."""
        return ratio(self.values[..., 2].sum(-1), self.n)

    def describe(
        self, by_slide: np.ndarray, patients: Sequence[str], repeats: int = REPEATS
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


def count_calibration(prob: np.ndarray, true_label: np.ndarray) -> CalibrationCounts:
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


def draw_reliability(panels: dict[str, dict[str, Any]], output: Path) -> None:
    """Draw a PNG with a panel per entry of ``panels``, each a result of
    ``CalibrationCounts.describe``.

    The area of a dot is proportional to its number of nuclei; dots on the diagonal are calibrated.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # not pyplot, whose state is global

    figure = Figure(figsize=(3.2 * len(panels), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for index, (title, panel) in enumerate(panels.items(), 1):
        axis = figure.add_subplot(1, len(panels), index)
        bins = [row for row in panel["bins"] if row["n"]]
        x, y = ([row[name] for row in bins] for name in ("confidence", "accuracy"))
        axis.plot([0, 1], [0, 1], color="0.6", linewidth=0.8)
        axis.plot(x, y, color="tab:blue", linewidth=1)
        axis.scatter(
            x,
            y,
            [600 * row["n"] / panel["n"] for row in bins],
            color="tab:blue",
            alpha=0.5,
            linewidths=0,
        )
        error = "-" if panel["error"] is None else f"{100 * panel['error']:.1f} %"
        axis.set(
            title=f"{title}\n{panel['n']:,} nuclei, error {error}",
            xlim=(0, 1),
            ylim=(0, 1),
            aspect="equal",
        )
        axis.set(xlabel="probability given", ylabel="share right" if index == 1 else "")
    with complete_file(output) as partial:
        figure.savefig(partial, format="png", dpi=110, metadata={"Software": None})

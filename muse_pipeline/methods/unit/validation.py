"""Chooses the snapshot of a run without labels: what the reader finds where the answer is known, or must not change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from muse_pipeline.evaluation.detection import RADIUS_UM, match_points
from muse_pipeline.methods.unit.data import UnitBatch
from muse_pipeline.methods.unit.method import GAUGE_JITTER, UnitTraining, jitter_colour
from muse_pipeline.models.detector import DetectionGraph
from muse_pipeline.training.log import MetricsLog
from muse_pipeline.training.loop import Monitor

RENDERED, STABLE = "validation F1 on rendered tissue", "validation agreement on tissue"
MEASURE = "validation measure"  # harmonic mean of both
BATCHES, FIRST = 8, 2 * 10**9  # scored batches, and the first one's number, which no run reaches
CAPACITY = 300  # nuclei per window


def detection_f1(found: Sequence[np.ndarray], truth: Sequence[np.ndarray], mpp: float) -> float:
    """F1 of positions (N, 2) px within 3 um, the most certain first, counted over all pictures; 0 to 1."""
    matched = sum(
        int((match_points(one, -np.arange(len(one), dtype=float), true, RADIUS_UM / mpp) >= 0).sum())
        for one, true in zip(found, truth, strict=True)
    )
    return 2 * matched / max(sum(map(len, (*found, *truth))), 1)


class SnapshotScorer:
    """Two scores of a reader that need no labels, and their harmonic mean.

    The first is its F1 on tissue that the generator renders from further masks. The second is how far it finds the same
    nuclei in real tissue once mirrored and in another colour: the F1 of one against the other. The reader is scored as
    it is exported, with the batch-norm statistics of real tissue.

    Args:
        method: whose weights at the time of a call are scored.
        batches: number -> batch on the CPU.
        mpp: um per pixel.
        threshold: of the exported detector.
    """

    def __init__(self, method: UnitTraining, batches: Callable[[int], UnitBatch], mpp: float, threshold: float):
        self.method, self.batches, self.mpp = method, batches, mpp
        self.graph = DetectionGraph(method.trained(), threshold, CAPACITY)

    @cached_property
    def _batches(self) -> list[UnitBatch]:
        return [self.batches(FIRST + number) for number in range(BATCHES)]

    @torch.no_grad()
    def score(self) -> dict[str, float]:
        """Scores by name, 0 to 1."""
        torch.manual_seed(0)
        self.method.eval()
        parts = [self._find(batch) for batch in self._batches]
        self.method.train()
        columns = zip(*parts, strict=True)
        rendered, truth, tissue, mirrored = ([one for part in column for one in part] for column in columns)
        scores = {
            RENDERED: detection_f1(rendered, truth, self.mpp),
            STABLE: detection_f1(mirrored, tissue, self.mpp),
        }
        scores[MEASURE] = 2 * scores[RENDERED] * scores[STABLE] / max(sum(scores.values()), 1e-9)
        return {name: round(value, 5) for name, value in scores.items()}

    def _find(self, batch: UnitBatch) -> tuple[list[np.ndarray], ...]:
        """Nuclei of rendered tissue, those of its masks, nuclei of real tissue, those found in its mirror image."""
        device, side = next(self.method.parameters()).device, batch.masks.shape[-1]
        noise = self.method.draw_noise(len(batch.masks), side, device)
        rendered = self.method.generator(batch.masks.to(device), *noise)
        truth = [xy[((xy >= 0) & (xy < side)).all(1)].numpy() for xy in batch.xy]
        pictures, plain = batch.pictures.to(device), torch.eye(3, 4, device=device)
        other = jitter_colour(1, GAUGE_JITTER, device)[0]
        mirrored = [(side - xy[:, :1], xy[:, 1:]) for xy in self._positions(pictures.flip(-1), other)]
        return (
            self._positions(rendered, plain),
            truth,
            self._positions(pictures, plain),
            [np.concatenate(xy, 1) for xy in mirrored],
        )

    def _positions(self, pixels: Tensor, colour: Tensor) -> list[np.ndarray]:
        xy, score, *_ = self.graph(pixels, colour)
        return [one[s > 0].float().cpu().numpy() for one, s in zip(xy, score, strict=True)]


class SnapshotChoice(Monitor):
    """Scores a run, logs the scores and keeps the best snapshot; of equal ones the later.

    Args:
        scorer: of the run.
        keep: called with the step and the scores whenever none before were better.
    """

    def __init__(self, scorer: SnapshotScorer, keep: Callable[[int, dict[str, float]], None]):
        self.scorer, self.keep = scorer, keep

    def on_validate(self, done: int, log: MetricsLog) -> None:
        """Score, keep, log."""
        best = max((row[MEASURE] for row in log.read() if MEASURE in row), default=-np.inf)
        scores = self.scorer.score()
        if scores[MEASURE] >= best:
            self.keep(done, scores)
        log.append(done - 1, scores)

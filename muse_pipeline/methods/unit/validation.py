"""Choice of the best snapshot of a run without labels, by detections for which the answer is known or fixed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from statistics import harmonic_mean
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from muse_pipeline.evaluation.detection import RADIUS_UM, match_points
from muse_pipeline.methods.unit.config import THRESHOLD, UnitConfig
from muse_pipeline.methods.unit.data import UnitBatch
from muse_pipeline.methods.unit.method import UnitTraining
from muse_pipeline.models.detector import DetectionGraph
from muse_pipeline.nuclei.masks import label_image_to_nuclei
from muse_pipeline.proposals.otsu_mask import fit_otsu
from muse_pipeline.training.log import MetricsLog
from muse_pipeline.training.loop import Monitor

RENDERED, STABLE = "validation F1 on rendered tissue", "validation agreement on tissue"
STAINED = "validation agreement with haematoxylin"
MEASURE = "validation measure"  # harmonic mean of the three
THRESHOLDS = tuple(round(0.05 * k, 2) for k in range(1, 15))  # of which one is chosen
BATCHES, FIRST = 12, 2 * 10**9  # scored batches, and the first one's number, which no run reaches
CAPACITY = 300  # nuclei per window
RAYS = 8  # of nuclei whose positions alone are used


def detection_f1(found: Sequence[np.ndarray], truth: Sequence[np.ndarray], mpp: float) -> float:
    """F1 of positions (N, 2) px within 3 um, the most certain first, counted over all pictures; 0 to 1."""
    matched = sum(
        int((match_points(one, -np.arange(len(one), dtype=float), true, RADIUS_UM / mpp) >= 0).sum())
        for one, true in zip(found, truth, strict=True)
    )
    return 2 * matched / max(sum(map(len, (*found, *truth))), 1)


class Found(NamedTuple):
    """Nuclei of a window, the most certain first.

    Attributes:
        xy: (N, 2) px.
        score: (N,).
    """

    xy: np.ndarray
    score: np.ndarray

    def above(self, threshold: float) -> np.ndarray:
        """(M, 2) px of the nuclei that score at least ``threshold``."""
        return self.xy[self.score >= threshold]


class SnapshotScorer:
    """Three scores of a reader that need no labels, their harmonic mean, and the threshold that they are measured at.

    The first is its F1 on tissue that the generator renders from further masks. The second is the F1 of its nuclei in
    real tissue against its nuclei in the same tissue, mirrored and in another colour. The third is the F1 of
    the nuclei of real tissue against those that Otsu's threshold on haematoxylin gives. The third excludes readers that
    find the same wrong objects in either domain; the threshold that is best for it is exported, unless the config sets
    one. The reader is scored as it is exported, with the batch-norm statistics of real tissue.

    Args:
        method: the method, whose networks are scored with their weights at the time of a call.
        batches: number -> batch on the CPU.
        config: settings of the run.
    """

    def __init__(self, method: UnitTraining, batches: Callable[[int], UnitBatch], config: UnitConfig):
        self.method, self.batches, self.mpp = method, batches, config.mpp
        self.thresholds = THRESHOLDS if config.calibrate else (config.export.threshold,)
        self.graph = DetectionGraph(method.trained(), self.thresholds[0], CAPACITY)

    @cached_property
    def _batches(self) -> list[UnitBatch]:
        return [self.batches(FIRST + number) for number in range(BATCHES)]

    @cached_property
    def _stained(self) -> list[np.ndarray]:
        """Positions (N, 2) px of objects dark in haematoxylin in each window of real tissue."""
        pixels = torch.cat([batch.pictures for batch in self._batches]).byte().permute(0, 2, 3, 1).numpy()
        otsu = fit_otsu(list(pixels), self.mpp)
        labels = [otsu.instances(np.ascontiguousarray(window)) for window in pixels]
        return [label_image_to_nuclei(one, (self.mpp, self.mpp), RAYS).xy for one in labels]

    @torch.no_grad()
    def score(self) -> dict[str, float]:
        """Scores by name, 0 to 1."""
        torch.manual_seed(0)
        self.method.eval()
        parts = [self._find(batch) for batch in self._batches]
        self.method.train()
        rendered, tissue, mirrored = ([one for part in column for one in part] for column in zip(*parts, strict=True))
        truth = [xy for batch in self._batches for xy in _nuclei_inside(batch)]

        def f1(found: list[Found], true: list[np.ndarray], threshold: float) -> float:
            return detection_f1([one.above(threshold) for one in found], true, self.mpp)

        best = max(self.thresholds, key=lambda threshold: f1(tissue, self._stained, threshold))
        scores = {
            RENDERED: f1(rendered, truth, best),
            STABLE: f1(mirrored, [one.above(best) for one in tissue], best),
            STAINED: f1(tissue, self._stained, best),
        }
        scores[MEASURE] = 0.0 if min(scores.values()) == 0 else harmonic_mean(scores.values())
        return {name: round(value, 5) for name, value in scores.items()} | {THRESHOLD: best}

    def _find(self, batch: UnitBatch) -> tuple[list[Found], ...]:
        """Nuclei of rendered tissue, of real tissue, and those found in its mirror image."""
        device, side = next(self.method.parameters()).device, batch.masks.shape[-1]
        noise = self.method.draw_noise(len(batch.masks), side, device)
        rendered = self.method.generator(batch.masks.to(device), *noise)
        pictures, plain = batch.pictures.to(device), torch.eye(3, 4, device=device)
        mirrored = self._detect(pictures.flip(-1), self.method.vary_colour(1)[0])
        turned = [Found(np.concatenate((side - one.xy[:, :1], one.xy[:, 1:]), 1), one.score) for one in mirrored]
        return self._detect(rendered, plain), self._detect(pictures, plain), turned

    def _detect(self, pixels: Tensor, colour: Tensor) -> list[Found]:
        xy, score, *_ = self.graph(pixels, colour)
        return [
            Found(one[s > 0].float().cpu().numpy(), s[s > 0].cpu().numpy()) for one, s in zip(xy, score, strict=True)
        ]


def _nuclei_inside(batch: UnitBatch) -> list[np.ndarray]:
    """Positions (N, 2) px of the nuclei of each mask of a batch, without those beyond its border."""
    side = batch.masks.shape[-1]
    return [xy[((xy >= 0) & (xy < side)).all(1)].numpy() for xy in batch.xy]


class SnapshotChoice(Monitor):
    """Scores a run, logs the scores and keeps the best snapshot; of equal ones the later.

    Args:
        scorer: scorer of the run.
        keep: callback with the step and the scores whenever no earlier snapshot scored higher.
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

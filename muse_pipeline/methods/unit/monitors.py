"""Monitors of mask-tissue translation: an alarm for collapse, pictures of both cycles, and scores
of snapshots.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from statistics import harmonic_mean
from typing import NamedTuple

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from muse_pipeline.core.files import complete_file
from muse_pipeline.core.pictures import draw_page, write_png
from muse_pipeline.evaluation.detection import RADIUS_UM, match_points
from muse_pipeline.methods.unit.config import THRESHOLD, UnitConfig
from muse_pipeline.methods.unit.data import UnitBatch
from muse_pipeline.methods.unit.method import UnitTraining, to_unit
from muse_pipeline.models.detector import DetectionGraph
from muse_pipeline.nuclei.masks import label_image_to_nuclei
from muse_pipeline.proposals.otsu_mask import fit_otsu
from muse_pipeline.training.loop import Alarm, Monitor
from muse_pipeline.training.method import Schedule

# step, reached by no run, whose windows are drawn; number of windows of each domain
PREVIEW, SHOWN = 10**9, 6


LIMITS = {  # diagnostic -> (minimum, meaning of lower values, what to change)
    "diversity_of_noise": (0.02, "the generator ignores its noise", "lower `weights.cycle`"),
    "agreement": (
        0.1,
        (
            "masks predicted from tissue change with its colour or are empty, so cycles are"
            " consistent without nuclei"
        ),
        (
            "set `weights.painted: [10, 3]`, raise `augmentation.stain_gain` or lower"
            " `schedule.learning_rate`"
        ),
    ),
    "contrast": (
        0.1,
        "rendered tissue has a single colour",
        "lower `discriminator_rate` or `schedule.learning_rate`",
    ),
}


class TranslationAlarm(Alarm):
    """Ends a stage in which a diagnostic stays too low; the arguments are those of ``Alarm``."""

    def __init__(self, schedule: Schedule, folder: Path):
        super().__init__(schedule, folder, grace=0.2)  # earlier, the networks cannot translate yet

    def check(self, done: int, losses: dict[str, float]) -> None:
        """Compare the diagnostics with ``LIMITS``."""
        for name, (least, meaning, remedy) in LIMITS.items():
            if (value := losses.get(f"generator {name}")) is not None:
                advice = f"No checkpoint was saved; start a new run folder and {remedy}"
                self.require(done, name, value, f"{meaning}. {advice}", least)


@dataclass(eq=False)
class TranslationPictures(Monitor):
    """Draws both cycles, mask -> tissue -> mask and tissue -> mask -> tissue, for the same windows
    at every save.

    ``batches`` makes the batch of a step on the CPU; pictures are
    ``step-<number>.png`` in ``folder``.
    """

    method: UnitTraining
    batches: Callable[[int], UnitBatch]
    folder: Path

    def on_save(self, done: int) -> None:
        """Write the picture of this step."""
        self.folder.mkdir(exist_ok=True)
        with complete_file(self.folder / f"step-{done:06}.png") as partial:
            write_png(partial, self.draw())

    @torch.no_grad()
    def draw(self) -> ndarray:
        """Draw six rows: masks, rendered tissue, masks read again; real tissue, masks read, tissue
        rendered again.
        """
        device = next(self.method.parameters()).device
        batch = UnitBatch(*(values[:SHOWN].to(device) for values in self.batches(PREVIEW)))
        # The training loop seeds every step, so seeding and drawing random numbers here does not
        # affect it.
        torch.manual_seed(0)
        method = copy.deepcopy(self.method)  # a copy, because the statistics of batch norms change
        method.generator.eval()
        outputs = method.translate(batch)
        first = batch.masks, to_unit(outputs.rendered), outputs.mask_again
        second = to_unit(batch.pictures), outputs.read, to_unit(outputs.picture_again)
        return draw_page(
            [_to_picture(values) for row in (*first, *second) for values in row], len(batch.masks)
        )


def _to_picture(values: Tensor) -> ndarray:
    """Convert values (3, h, w) from -1 to 1 to a picture (h, w, 3) uint8."""
    pixels = (values.float().clamp(-1, 1) + 1) * 127.5
    return pixels.round().byte().permute(1, 2, 0).cpu().numpy()


RENDERED, STABLE = "validation F1 on rendered tissue", "validation agreement on tissue"
STAINED = "validation agreement with haematoxylin"
MEASURE = "validation measure"  # harmonic mean of the three scores
THRESHOLDS = tuple(round(0.05 * k, 2) for k in range(1, 15))  # candidates for the score threshold
# number of scored batches, and their first step, which no run reaches
BATCHES, FIRST = 12, 2 * 10**9
CAPACITY = 300  # largest number of nuclei per window
RAYS = 8  # number of rays; few, because only the positions of these nuclei are used


def detection_f1(detected: Sequence[ndarray], truth: Sequence[ndarray], mpp: float) -> float:
    """F1 (0 to 1), over all pictures, of positions (N, 2) px sorted by descending score and matched
    within 3 um.
    """
    matched = sum(
        int((match_points(xy, -np.arange(len(xy), dtype=float), true, RADIUS_UM / mpp) >= 0).sum())
        for xy, true in zip(detected, truth, strict=True)
    )
    return 2 * matched / max(sum(map(len, (*detected, *truth))), 1)


class Detections(NamedTuple):
    """Nuclei found in a window, sorted by descending score."""

    xy: ndarray  # (N, 2) centres, px
    score: ndarray  # (N,) scores

    def above(self, threshold: float) -> ndarray:
        """(M, 2) centres, px, of the nuclei with a score of at least ``threshold``."""
        return self.xy[self.score >= threshold]


class SnapshotScorer:
    """Three scores of a reader that need no labels, their harmonic mean, and the best score
    threshold.

    The first is the F1 on tissue rendered from masks that training does not use. The second is the
    agreement between the nuclei found in real tissue and those found in the same tissue, mirrored
    and with varied colours. The third is the agreement with objects found in real tissue by Otsu's
    threshold on haematoxylin; it excludes readers that find the same wrong objects in both domains.
    Unless the config sets `calibrate` to false, the score threshold with the best third score is
    exported. The reader is scored as it is exported, with the batch-norm statistics of real tissue.
    """

    def __init__(
        self, method: UnitTraining, batches: Callable[[int], UnitBatch], config: UnitConfig
    ):
        self.method = method
        self.batches = batches
        self.mpp = config.mpp
        self.thresholds = THRESHOLDS if config.calibrate else (config.export.threshold,)
        # Nuclei are detected with the lowest threshold; higher thresholds select among them.
        self.graph = DetectionGraph(method.trained(), self.thresholds[0], CAPACITY)

    @cached_property
    def _batches(self) -> list[UnitBatch]:
        return [self.batches(FIRST + number) for number in range(BATCHES)]

    @cached_property
    def _stained(self) -> list[ndarray]:
        """Positions (N, 2) px of dark haematoxylin objects in each window of real tissue."""
        pixels = (
            torch.cat([batch.pictures for batch in self._batches])
            .byte()
            .permute(0, 2, 3, 1)
            .numpy()
        )
        otsu = fit_otsu(list(pixels), self.mpp)
        labels = [otsu.instances(np.ascontiguousarray(window)) for window in pixels]
        return [
            label_image_to_nuclei(instances, (self.mpp, self.mpp), RAYS).xy for instances in labels
        ]

    @torch.no_grad()
    def score(self) -> dict[str, float]:
        """Compute the scores, 0 to 1, and the best score threshold, keyed by name."""
        torch.manual_seed(0)
        self.method.eval()
        parts = [self._find(batch) for batch in self._batches]
        self.method.train()
        rendered, tissue, mirrored = ([*chain(*column)] for column in zip(*parts, strict=True))
        side = self._batches[0].masks.shape[-1]
        truth = [
            xy[((xy >= 0) & (xy < side)).all(1)].numpy()
            for batch in self._batches
            for xy in batch.xy
        ]

        def f1(windows: list[Detections], true: list[ndarray], threshold: float) -> float:
            return detection_f1([window.above(threshold) for window in windows], true, self.mpp)

        best = max(self.thresholds, key=lambda threshold: f1(tissue, self._stained, threshold))
        scores = {
            RENDERED: f1(rendered, truth, best),
            STABLE: f1(mirrored, [window.above(best) for window in tissue], best),
            STAINED: f1(tissue, self._stained, best),
        }
        scores[MEASURE] = 0.0 if min(scores.values()) == 0 else harmonic_mean(scores.values())
        return {name: round(value, 5) for name, value in scores.items()} | {THRESHOLD: best}

    def _find(self, batch: UnitBatch) -> tuple[list[Detections], ...]:
        """Nuclei found in rendered tissue, in real tissue, and in its recoloured mirror image
        (mirrored back).
        """
        device = next(self.method.parameters()).device
        side = batch.masks.shape[-1]
        noise = self.method.draw_noise(len(batch.masks), side, device)
        rendered = self.method.generator(batch.masks.to(device), *noise)
        pictures = batch.pictures.to(device)
        plain = torch.eye(3, 4, device=device)
        mirrored = self._detect(pictures.flip(-1), self.method.vary_colour(1)[0])
        turned = [
            Detections(np.concatenate((side - xy[:, :1], xy[:, 1:]), 1), score)
            for xy, score in mirrored
        ]
        return self._detect(rendered, plain), self._detect(pictures, plain), turned

    def _detect(self, pixels: Tensor, colour: Tensor) -> list[Detections]:
        windows = zip(*self.graph(pixels, colour)[:2], strict=True)
        return [
            Detections(xy[s > 0].float().cpu().numpy(), s[s > 0].cpu().numpy()) for xy, s in windows
        ]

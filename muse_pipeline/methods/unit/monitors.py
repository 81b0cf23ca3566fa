"""Monitors of mask-tissue translation: an alarm for collapse, and pictures of both cycles."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from muse_pipeline.core.errors import CollapsedError
from muse_pipeline.core.files import complete_file
from muse_pipeline.core.pictures import write_png
from muse_pipeline.methods.unit.data import UnitBatch
from muse_pipeline.methods.unit.method import UnitTraining, to_unit
from muse_pipeline.methods.unit.synthesis.masks import draw_page
from muse_pipeline.training.loop import IN_A_ROW, Alarm, Monitor
from muse_pipeline.training.schedule import Schedule

FOLDER = "translation"
PREVIEW, SHOWN = 10**9, 6  # number of a batch that no run reaches; windows of either domain


LIMITS = {  # gauge -> (least value, what it means to lie below, what to change)
    "diversity_of_noise": (
        0.02,
        "the generator ignores its noise",
        "set `weights.diversity: 1` or lower `weights.cycle`",
    ),
    "agreement": (
        0.1,
        "masks read from tissue change with its colour or are empty, so the cycle is closed without nuclei",
        "set `weights.painted: [10, 3]`, raise `augmentation.stain_gain` or lower `schedule.learning_rate`",
    ),
    "contrast": (
        0.1,
        "rendered tissue is of one colour",
        "lower `discriminator_rate` or `schedule.learning_rate`",
    ),
}


class TranslationAlarm(Alarm):
    """Ends a stage whose gauges stay too low; its arguments are those of ``Alarm``."""

    def __init__(self, schedule: Schedule, folder: Path):
        super().__init__(schedule, folder, grace=0.2)  # before which nothing is translated yet

    def check(self, done: int, losses: dict[str, float]) -> None:
        """Compare the gauges with ``LIMITS``.

        Raises:
            CollapsedError: a value was outside its limits at ``IN_A_ROW`` logged steps in a row.
        """
        for name, (least, meaning, remedy) in LIMITS.items():
            value = losses.get(f"generator {name}")
            if value is not None and self.persists(name, value < least):
                raise CollapsedError(
                    f"{self.folder}: collapsed by step {done}: {name.replace('_', ' ')} is {value:.3g}, below "
                    f"{least:g} at {IN_A_ROW} logged steps in a row: {meaning}. No checkpoint was saved; start another "
                    f"run folder and {remedy}"
                )


class TranslationPictures(Monitor):
    """Draws mask -> tissue -> mask and tissue -> mask -> tissue of the same windows at every save.

    Args:
        method: the method in training.
        batches: number -> batch on the CPU.
        folder: folder of the stage; pictures are ``translation/step-<number>.png``.
    """

    def __init__(self, method: UnitTraining, batches: Callable[[int], UnitBatch], folder: Path):
        self.method, self.batches, self.folder = method, batches, folder / FOLDER

    def on_save(self, done: int) -> None:
        """Draw the pictures."""
        self.folder.mkdir(exist_ok=True)
        with complete_file(self.folder / f"step-{done:06}.png") as partial:
            write_png(partial, self.draw())

    @torch.no_grad()
    def draw(self) -> np.ndarray:
        """Six rows: mask, rendered tissue, mask read from it; tissue, mask read from it, tissue rendered again."""
        device = next(self.method.parameters()).device
        batch = UnitBatch(*(one[:SHOWN].to(device) for one in self.batches(PREVIEW)))
        torch.manual_seed(0)
        method = copy.deepcopy(self.method)  # whose batch norms may see this batch
        method.generator.eval()
        made = method.translate(batch)
        first = batch.masks, to_unit(made.rendered), made.mask_again
        second = to_unit(batch.pictures), made.read, to_unit(made.picture_again)
        return draw_page([_to_picture(one) for row in (*first, *second) for one in row], len(batch.masks))


def _to_picture(values: Tensor) -> np.ndarray:
    """(3, h, w), -1 to 1 -> (h, w, 3) uint8."""
    pixels = (values.float().clamp(-1, 1) + 1) * 127.5
    return pixels.round().byte().permute(1, 2, 0).cpu().numpy()

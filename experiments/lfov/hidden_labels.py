"""A detector's training on labels of one small square per picture, tried out on pictures that are labelled everywhere.

The labels outside of the squares are hidden from the losses, and tell how many pseudo-labels are right.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from muse_pipeline.core.coords import CELL_PX
from muse_pipeline.data.augment import LabelledBatch
from muse_pipeline.labels.pictures import LabelledImage
from muse_pipeline.methods.detector.consistency import ConsistencyTerm, PseudoLabels, Teacher
from muse_pipeline.methods.detector.data import DetectorData, read_detector_data
from muse_pipeline.methods.detector.method import DetectorTraining
from muse_pipeline.methods.detector.run import DetectorStage
from muse_pipeline.models.heads import NucleusMaps, predicted_positions
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.training.run import Say

REGION_PX = 224
RIGHT_UM = 3.0  # a pseudo-label no further than this from a hidden nucleus of its class is right


class HiddenLabels(NamedTuple):
    """A picture without the labels outside of its square, and the nuclei of these labels."""

    image: LabelledImage
    nuclei: Nuclei


def hide_labels(image: LabelledImage, region_px: int, seed: int) -> HiddenLabels:
    """Keep the labels of one square, which depends on the seed and the picture's name alone.

    Args:
        image: at the model's mpp.
        region_px: side of the square; on a smaller picture it is that picture's.
        seed: of the run.
    """
    generator = np.random.default_rng([seed, zlib.crc32(image.name.encode())])
    size = np.array(image.pixels.shape[1::-1])
    corner = np.floor(generator.random(2) * (np.maximum(size - region_px, 0) + 1)).astype(int)
    region = np.zeros(image.pixels.shape[:2], bool)
    region[corner[1] : corner[1] + region_px, corner[0] : corner[0] + region_px] = True
    visible = ((image.nuclei.xy >= corner) & (image.nuclei.xy < corner + region_px)).all(1)
    if image.region is not None:
        region &= image.region
        column, row = np.clip(image.nuclei.xy.astype(int), 0, size - 1).T
        visible &= image.region[row, column]
    kept = replace(image, nuclei=image.nuclei[visible], region=region, annotated=None)
    return HiddenLabels(kept, image.nuclei[~visible])


class TrialBatch(LabelledBatch):
    """A batch with the same windows of the hidden nuclei beside it, as ``hidden``."""

    hidden: LabelledBatch


class HiddenLabelsStage(DetectorStage):
    """Trains on the squares; ``metrics.jsonl`` has ``pseudo_right`` beside ``pseudo_nuclei``."""

    region_px = REGION_PX

    def read(self, say: Say) -> DetectorData:
        """The pictures with the labels of their squares."""
        plain = replace(self.config, consistency=None, distillation=None)  # the pictures have no regions yet
        data = read_detector_data(plain, self.start)
        found = [hide_labels(image, self.region_px, self.config.seed) for image in data.images]
        self._hidden = [one.nuclei for one in found]
        return replace(data, config=self.config, images=[one.image for one in found])

    def build(self, data: DetectorData) -> DetectorTraining:
        """A detector whose pseudo-labels are compared with the hidden labels."""
        method = super().build(data)
        if method.consistency is not None:
            config = self.config
            method.consistency = JudgedConsistency(config.consistency, method.criterion.class_weights, config.mpp)
        return method

    def batches(self, data: DetectorData, device: torch.device) -> Callable[[int], LabelledBatch]:
        """Augmented windows, and the same windows of the hidden nuclei where pseudo-labels are made."""
        windows = super().batches(data, device)
        if self.config.consistency is None:
            return windows
        pictures = zip(data.images, self._hidden, strict=True)
        images = [replace(image, nuclei=nuclei) for image, nuclei in pictures]
        hidden = replace(data, images=images).make_windows(device)

        def draw(step: int) -> TrialBatch:
            batch = TrialBatch(*windows(step))
            batch.hidden = hidden(step)
            return batch

        return draw


class JudgedConsistency(ConsistencyTerm):
    """Adds how many pseudo-nuclei per window are right."""

    def forward(self, student: NucleusMaps, teacher: Teacher, batch: TrialBatch) -> dict[str, Tensor]:
        """See ``ConsistencyTerm``."""
        terms = super().forward(student, teacher, batch)
        right = self._is_right(teacher.maps, self._chosen, batch.hidden)
        return {**terms, "pseudo_right": right.sum() / len(self._chosen.nuclei)}

    def choose(self, teacher: Teacher, outside: Tensor) -> PseudoLabels:
        """See ``ConsistencyTerm``."""
        self._chosen = super().choose(teacher, outside)
        return self._chosen

    def _is_right(self, maps: NucleusMaps, chosen: PseudoLabels, hidden: LabelledBatch) -> Tensor:
        """(P,) bool: whether a hidden nucleus of the same class lies where the cell of each pseudo-nucleus points."""
        window, _, row, column = chosen.nuclei.nonzero(as_tuple=True)
        point = predicted_positions(maps.offset)[window, :, row, column]
        distance_um = (hidden.xy[window] / CELL_PX - point[:, None]).norm(dim=2) * self.cell_um
        same = hidden.label[window] == chosen.label[window, 0, row, column][:, None]
        return ((distance_um <= RIGHT_UM) & same).any(1)

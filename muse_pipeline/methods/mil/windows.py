"""Batches of windows with targets for the classes of tissue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy import ndarray
from torch import Tensor
from torch.nn import functional

from muse_pipeline.core.coords import CELL_PX
from muse_pipeline.data.windows import PictureWindows, WindowSettings, read_window_cells
from muse_pipeline.methods.mil.tissue import UNKNOWN, TissueImage


class RegionBatch(NamedTuple):
    """B windows with targets for K classes: all classes but the first."""

    pixels: Tensor  # (B, 3, S, S) float, 0 to 255
    colour: Tensor  # (B, 3, 4) map in optical density
    label: Tensor  # (B, K) label of the image, 1 or 0; -1 if its pixels are labelled instead
    # (B, K, S / 4, S / 4) 1 or 0: the labels of the pixels or, everywhere, the label of the image
    target: Tensor
    known: Tensor  # (B, K, S / 4, S / 4) 1 where the target is known, 0 elsewhere


class RegionWindows(PictureWindows):
    """Batches of windows; arguments are those of ``LabelledWindows``.

    All classes are sampled equally often, as are all images of a class. Images with labelled pixels
    form another class. The first of ``n_classes`` classes has no target.
    """

    def __init__(
        self,
        images: Sequence[TissueImage],
        colours: ndarray,
        stains: ndarray,
        n_classes: int,
        settings: WindowSettings,
        device: torch.device,
    ):
        margin = settings.window_px // 2  # rotated windows reach beyond pictures of the same size
        pictures = [
            cv2.copyMakeBorder(image.pixels, *[margin] * 4, cv2.BORDER_REFLECT_101)
            for image in images
        ]
        boxes = [
            (margin, margin, picture.shape[1] - margin, picture.shape[0] - margin)
            for picture in pictures
        ]
        self.n_classes = n_classes
        self.labels = torch.tensor([image.label for image in images])
        # ``bincount`` counts from 0, but images with labelled pixels have the label -1.
        weights = 1.0 / torch.bincount(self.labels + 1)[self.labels + 1]
        super().__init__(pictures, boxes, weights, colours, stains, settings, device)
        self.maps = [
            None if image.target is None else _shifted(image.target, margin, device)
            for image in images
        ]

    def __call__(self, step: int) -> RegionBatch:
        """The batch of ``step``."""
        drawn = self.draw(step, most_reach=self.settings.window_px / 2)
        classes = torch.stack(
            [self._classes(int(i), *view) for i, *view in zip(*drawn[:3], strict=True)]
        )
        is_known = (classes >= 0)[:, None].expand(-1, self.n_classes - 1, -1, -1)
        target = functional.one_hot(classes.clamp(min=0), self.n_classes).permute(0, 3, 1, 2)[:, 1:]
        labels = self.labels[drawn.chosen]
        label = functional.one_hot(labels.clamp(min=0), self.n_classes)[:, 1:]
        label = torch.where(labels[:, None] < 0, -1, label).to(self.device)
        return RegionBatch(
            drawn.pixels, drawn.colour, label.float(), (target * is_known).float(), is_known.float()
        )

    def _classes(self, index: int, centre: Tensor, linear: Tensor) -> Tensor:
        """(S / 4, S / 4) class index of each cell of a window; -1 where unknown."""
        cells = self.settings.window_px // CELL_PX
        if self.maps[index] is None:
            return torch.full((cells, cells), int(self.labels[index]), device=self.device)
        read = read_window_cells([self.maps[index]], centre[None], linear[None], cells)
        return read[0].long() - 1


def _shifted(target: ndarray, margin: int, device: torch.device) -> Tensor:
    """The target plus 1, padded by ``margin``; unknown pixels are 0, as in
    ``read_window_cells``.
    """
    shifted = np.where(target == UNKNOWN, 0, target + 1).astype(np.uint8)
    return torch.from_numpy(np.pad(shifted, margin)).to(device)

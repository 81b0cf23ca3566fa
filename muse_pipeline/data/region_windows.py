"""An endless, seeded stream of augmented windows of pictures with a label of the image, or of some of its pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from muse_pipeline.core.coords import CELL_PX
from muse_pipeline.data.augment import Augmentation, random_linear, vary_appearance
from muse_pipeline.data.stream import seed_of_step
from muse_pipeline.data.windows import cut_windows, draw_centres, read_cells
from muse_pipeline.labels.tissue import UNKNOWN, TissueImage


class RegionBatch(NamedTuple):
    """B windows with the K classes but the first.

    Attributes:
        pixels: (B, 3, S, S) float, 0 to 255.
        colour: (B, 3, 4) map in optical density.
        label: (B, K) 1 or 0, of the image; -1 where pixels are labelled instead.
        target: (B, K, S / 4, S / 4) 1 or 0; the image's label everywhere, or that of pixels.
        known: (B, K, S / 4, S / 4) 1 where the target is known, else 0.
    """

    pixels: Tensor
    colour: Tensor
    label: Tensor
    target: Tensor
    known: Tensor


class RegionWindows:
    """Draws batches; one ``step`` always gives one batch on a CPU. Classes are drawn alike, and images within a class.

    Args:
        images: images at one mpp; those with labelled pixels count as one more class.
        colours: (N, 3, 4) colour map of each image.
        stains: (2, 3) reference stains, along which colour is varied.
        n_classes: C.
        mpp: um per pixel.
        window_px: side of a window.
        batch: windows per batch.
        augmentation: strength of the variation of windows.
        seed: seed of the run.
        device: device that holds the images and makes the windows.
    """

    def __init__(
        self,
        images: Sequence[TissueImage],
        colours: np.ndarray,
        stains: np.ndarray,
        *,
        n_classes: int,
        mpp: float,
        window_px: int,
        batch: int,
        augmentation: Augmentation,
        seed: int,
        device: torch.device,
    ):
        self.n_classes, self.mpp, self.window_px, self.batch = n_classes, mpp, window_px, batch
        self.augmentation, self.seed, self.device = augmentation, seed, device
        margin = window_px // 2  # rotated windows reach beyond a picture of their own size
        pictures = [cv2.copyMakeBorder(one.pixels, *[margin] * 4, cv2.BORDER_REFLECT_101) for one in images]
        self.pictures = [torch.from_numpy(one).permute(2, 0, 1).contiguous().to(device) for one in pictures]
        self.sizes = torch.tensor([one.shape[1::-1] for one in pictures], dtype=torch.float32)
        boxes = [(margin, margin, one.shape[1] - margin, one.shape[0] - margin) for one in pictures]
        self.boxes = torch.tensor(boxes, dtype=torch.float32)
        self.labels = torch.tensor([one.label for one in images])
        self.maps = [None if one.target is None else _shifted(one.target, margin, device) for one in images]
        self.colours = torch.as_tensor(colours, dtype=torch.float32, device=device)
        self.stains = torch.as_tensor(stains, dtype=torch.float32, device=device)
        self.weights = 1.0 / torch.bincount(self.labels + 1)[self.labels + 1]

    def __call__(self, step: int) -> RegionBatch:
        """The batch of ``step``."""
        generator = torch.Generator().manual_seed(seed_of_step(self.seed, step))
        chosen = torch.multinomial(self.weights, self.batch, replacement=True, generator=generator)
        linear = random_linear(self.batch, self.augmentation, generator)
        reach = self.window_px / 2 / torch.linalg.det(linear).abs().sqrt()[:, None]
        centre = draw_centres(self.sizes[chosen], self.boxes[chosen], reach.clamp(max=self.window_px / 2), generator)
        sharp = cut_windows([self.pictures[i] for i in chosen], centre, linear, self.window_px)
        own_colour = self.colours[chosen.to(self.device)]
        pixels, colour = vary_appearance(sharp, own_colour, self.stains, self.mpp, self.augmentation, generator)
        classes = torch.stack([self._classes(int(i), *view) for i, *view in zip(chosen, centre, linear, strict=True)])
        known = (classes >= 0)[:, None].expand(-1, self.n_classes - 1, -1, -1)
        target = functional.one_hot(classes.clamp(min=0), self.n_classes).permute(0, 3, 1, 2)[:, 1:]
        label = functional.one_hot(self.labels[chosen].clamp(min=0), self.n_classes)[:, 1:]
        label = torch.where(self.labels[chosen][:, None] < 0, -1, label).to(self.device)
        return RegionBatch(pixels, colour, label.float(), (target * known).float(), known.float())

    def _classes(self, index: int, centre: Tensor, linear: Tensor) -> Tensor:
        """(S / 4, S / 4) class index of each cell of a window; -1 where unknown."""
        cells = self.window_px // CELL_PX
        if self.maps[index] is None:
            return torch.full((cells, cells), int(self.labels[index]), device=self.device)
        return read_cells([self.maps[index]], centre[None], linear[None], cells, CELL_PX)[0].long() - 1


def _shifted(target: np.ndarray, margin: int, device: torch.device) -> Tensor:
    """The target plus one, so that unknown is 0 as in ``read_cells``; with a margin of unknown."""
    known = np.where(target == UNKNOWN, 0, target + 1).astype(np.uint8)
    return torch.from_numpy(np.pad(known, margin)).to(device)

"""An endless, seeded stream of windows without labels, from pictures in memory and from stores of slides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from muse_pipeline.data.seeds import seed_of_step
from muse_pipeline.errors import StoreError

PLACE_PX = 16  # places in a picture are drawn by such cells


class Image(Protocol):
    """What windows are cut from; ``tiles.store.Store`` is one, and is only ever read window by window."""

    size_px: tuple[int, int]
    tissue: tuple[np.ndarray, float]

    def read(self, xy: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
        """(h, w, 3) uint8 of ``size`` = (width, height) px whose corner is at ``xy``."""


class Picture:
    """A picture in memory; all of it is tissue, and what lies beyond its border mirrors it.

    Args:
        pixels: (h, w, 3) uint8.
    """

    def __init__(self, pixels: np.ndarray):
        self.pixels = pixels
        self.size_px = pixels.shape[1], pixels.shape[0]
        self.tissue = np.ones((-(-pixels.shape[0] // PLACE_PX), -(-pixels.shape[1] // PLACE_PX)), bool), float(PLACE_PX)

    def read(self, xy: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
        """See ``Image``."""
        (x, y), (width, height) = xy, size
        left, top, right, bottom = (
            max(x, 0),
            max(y, 0),
            min(x + width, self.size_px[0]),
            min(y + height, self.size_px[1]),
        )
        inside = self.pixels[top:bottom, left:right]
        if inside.shape[:2] == (height, width):
            return inside
        borders = top - y, y + height - bottom, left - x, x + width - right
        return np.pad(inside, (borders[:2], borders[2:], (0, 0)), "symmetric")


class WindowSampler:
    """Windows centred on tissue and as far as can be inside their image.

    Images are drawn in proportion to their tissue, and places of tissue alike within an image.

    Args:
        images: pictures and stores at one mpp.
        window_px: side of a window.

    Raises:
        StoreError: there is no tissue in any of them.
    """

    def __init__(self, images: Sequence[Image], window_px: int):
        self.images, self.window_px = images, window_px
        self._places = [(np.flatnonzero(mask), mask.shape[1], side) for mask, side in (one.tissue for one in images)]
        area = np.array([len(places) * side**2 for places, _, side in self._places], float)
        if not area.sum():
            raise StoreError("no image has tissue to draw windows from; name slides or pictures that hold some")
        self._share = area / area.sum()

    def __call__(self, n: int, generator: np.random.Generator) -> np.ndarray:
        """(n, S, S, 3) uint8."""
        chosen = generator.choice(len(self.images), n, p=self._share)
        return np.stack([self._cut(int(index), generator) for index in chosen])

    def _cut(self, index: int, generator: np.random.Generator) -> np.ndarray:
        image, (places, columns, side) = self.images[index], self._places[index]
        row, column = divmod(int(places[generator.integers(len(places))]), columns)
        centre = (np.array([column, row]) + generator.random(2)) * side
        last = np.maximum(np.array(image.size_px) - self.window_px, 0)
        x, y = np.floor(centre - self.window_px / 2).clip(0, last).astype(int).tolist()
        return image.read((x, y), (self.window_px, self.window_px))


class UnlabelledWindows:
    """Draws batches; one ``step`` always gives one batch, so a resumed run sees what it would have seen.

    Args:
        images: pictures and stores at one mpp.
        window_px: side of a window.
        batch: windows per batch.
        seed: of the run.
        device: where batches go.
    """

    def __init__(self, images: Sequence[Image], window_px: int, batch: int, seed: int, device: torch.device):
        self.draw = WindowSampler(images, window_px)
        self.batch, self.seed, self.device = batch, seed, device

    def __call__(self, step: int) -> Tensor:
        """The batch of ``step``: (B, 3, S, S) float, 0 to 255."""
        generator = np.random.default_rng(seed_of_step(self.seed, step))
        windows = self.draw(self.batch, generator)
        return torch.from_numpy(windows).to(self.device).permute(0, 3, 1, 2).float()

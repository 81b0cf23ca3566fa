"""An endless, seeded stream of augmented windows of pictures that have masks in place of nuclei."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from muse_pipeline.data.augment import Augmentation, random_linear, vary_appearance
from muse_pipeline.data.stream import seed_of_step
from muse_pipeline.data.windows import cut_windows, place_windows, read_cells


@dataclass(frozen=True, eq=False)
class MaskedPicture:
    """A picture and what is known of its pixels.

    Attributes:
        pixels: (h, w, 3) uint8.
        mask: (h, w) uint8: 1 nucleus, 0 background, 255 unknown.
        voronoi: (h, w) uint8 likewise, see ``proposals.points``; None where no points are known yet.
        colour: (3, 4) map in optical density, to the run's reference.
    """

    pixels: np.ndarray
    mask: np.ndarray
    voronoi: np.ndarray | None
    colour: np.ndarray


class MaskBatch(NamedTuple):
    """B windows.

    Attributes:
        pixels: (B, 3, S, S) float, 0 to 255.
        colour: (B, 3, 4).
        mask: (B, S, S): 1 nucleus, 0 background, -1 unknown or beyond the picture.
        voronoi: likewise, or None.
    """

    pixels: Tensor
    colour: Tensor
    mask: Tensor
    voronoi: Tensor | None


class MaskWindows:
    """Draws batches; one ``step`` always gives one batch on a CPU.

    Pictures are drawn in proportion to their area.

    Args:
        pictures: at one mpp; all of them with Voronoi labels, or none.
        stains: (2, 3) reference stains, along which colour is varied.
        mpp: um per pixel.
        window_px: side of a window.
        batch: windows per batch.
        augmentation: how far windows are varied.
        seed: of the run.
        device: where pictures live and windows are made.
    """

    def __init__(
        self,
        pictures: list[MaskedPicture],
        stains: np.ndarray,
        *,
        mpp: float,
        window_px: int,
        batch: int,
        augmentation: Augmentation,
        seed: int,
        device: torch.device,
    ):
        self.mpp, self.window_px, self.batch = mpp, window_px, batch
        self.augmentation, self.seed = augmentation, seed
        self.sizes = torch.tensor([one.pixels.shape[1::-1] for one in pictures], dtype=torch.float32)
        self.pixels = [torch.from_numpy(one.pixels).permute(2, 0, 1).contiguous().to(device) for one in pictures]
        self.masks = [_shifted(one.mask, device) for one in pictures]
        has_points = all(one.voronoi is not None for one in pictures)
        self.voronoi = [_shifted(one.voronoi, device) for one in pictures] if has_points else None
        self.colours = torch.tensor(np.stack([one.colour for one in pictures]), dtype=torch.float32, device=device)
        self.stains = torch.as_tensor(stains, dtype=torch.float32, device=device)

    def __call__(self, step: int) -> MaskBatch:
        """The batch of ``step``."""
        generator = torch.Generator().manual_seed(seed_of_step(self.seed, step))
        chosen = torch.multinomial(self.sizes.prod(1), self.batch, replacement=True, generator=generator)
        linear = random_linear(self.batch, self.augmentation, generator)
        reach = self.window_px / 2 / torch.linalg.det(linear).abs().sqrt()[:, None]
        whole = torch.cat([torch.zeros_like(self.sizes), self.sizes], 1)[chosen]
        centre = place_windows(self.sizes[chosen], whole, reach, generator)
        sharp = cut_windows([self.pixels[i] for i in chosen], centre, linear, self.window_px)
        own_colour = self.colours[chosen.to(self.colours.device)]
        pixels, colour = vary_appearance(sharp, own_colour, self.stains, self.mpp, self.augmentation, generator)

        def read(labels: list[Tensor]) -> Tensor:
            return read_cells([labels[i] for i in chosen], centre, linear, self.window_px, 1) - 1

        return MaskBatch(pixels, colour, read(self.masks), self.voronoi and read(self.voronoi))


def _shifted(label: np.ndarray, device: torch.device) -> Tensor:
    """The label plus one, so that unknown (255) is 0: what ``read_cells`` gives beyond a picture."""
    return torch.from_numpy(label.astype(np.uint8) + np.uint8(1)).to(device)

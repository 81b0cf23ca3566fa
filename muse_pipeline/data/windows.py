"""An endless, seeded stream of augmented training windows from labelled images held in memory."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from muse_pipeline.data.augment import (
    WHITE,
    Augmentation,
    LabelledBatch,
    move_nuclei,
    part_way,
    random_linear,
    vary_colour,
    vary_sharpness,
    warp_windows,
)
from muse_pipeline.data.labels import LabelledImage

FAR = -1e6


class LabelledWindows:
    """Draws batches; one ``step`` always gives one batch on a CPU, so a resumed run sees what it would have seen.

    Args:
        images: labelled images at one mpp.
        colours: (N, 3, 4) colour map of each image.
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
        images: list[LabelledImage],
        colours: np.ndarray,
        stains: np.ndarray,
        mpp: float,
        window_px: int,
        batch: int,
        augmentation: Augmentation,
        seed: int,
        device: torch.device,
    ):
        self.mpp, self.window_px, self.batch = mpp, window_px, batch
        self.augmentation, self.seed, self.device = augmentation, seed, device
        self.sizes = torch.tensor([image.pixels.shape[1::-1] for image in images], dtype=torch.float32)
        self.weights = torch.tensor([image.weight for image in images])
        self.pictures = _stack_pictures(images).to(device)
        self.xy, self.label, self.rays = (column.to(device) for column in _stack_nuclei(images))
        self.colours = torch.as_tensor(colours, dtype=torch.float32, device=device)
        self.stains = torch.as_tensor(stains, dtype=torch.float32, device=device)

    def __call__(self, step: int) -> LabelledBatch:
        """The batch of ``step``."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        chosen = torch.multinomial(self.weights, self.batch, replacement=True, generator=generator)
        linear = random_linear(self.batch, self.augmentation, generator)
        reach = self.window_px / 2 / torch.linalg.det(linear).abs().sqrt()[:, None]
        low = torch.minimum(reach, self.sizes[chosen] / 2)
        centre = low + torch.rand(self.batch, 2, generator=generator) * (self.sizes[chosen] - 2 * low)
        chosen, linear, centre = chosen.to(self.device), linear.to(self.device), centre.to(self.device)
        pixels = warp_windows(self.pictures[chosen].float(), centre, linear, self.window_px)
        pixels = vary_sharpness(pixels, self.mpp, self.augmentation, generator)
        share = torch.empty(self.batch).uniform_(self.augmentation.partial_colour, 1, generator=generator)
        xy, rays = move_nuclei(self.xy[chosen], self.rays[chosen], centre, linear, self.window_px)
        inside = ((xy > -8) & (xy < self.window_px + 8)).all(2)
        order = (~inside).int().argsort(dim=1, stable=True)[:, : max(int(inside.sum(1).max()), 1)]
        xy = torch.where(inside[..., None], xy, torch.full_like(xy, FAR))
        return LabelledBatch(
            pixels,
            vary_colour(part_way(self.colours[chosen], share), self.stains, self.augmentation, generator),
            xy.gather(1, order[..., None].expand(-1, -1, 2)),
            self.label[chosen].gather(1, order),
            rays.gather(1, order[..., None].expand(-1, -1, rays.shape[2])),
        )


def _stack_pictures(images: list[LabelledImage]) -> Tensor:
    height, width = (max(image.pixels.shape[axis] for image in images) for axis in (0, 1))
    stack = np.full((len(images), height, width, 3), int(WHITE), np.uint8)
    for picture, image in zip(stack, images, strict=True):
        picture[: image.pixels.shape[0], : image.pixels.shape[1]] = image.pixels
    return torch.from_numpy(stack).permute(0, 3, 1, 2).contiguous()


def _stack_nuclei(images: list[LabelledImage]) -> tuple[Tensor, Tensor, Tensor]:
    n, most = len(images), max(1, *(len(image.nuclei) for image in images))
    n_rays = images[0].nuclei.rays.shape[1]
    xy = torch.full((n, most, 2), FAR)
    label = torch.full((n, most), -1)
    rays = torch.full((n, most, n_rays), float("nan"))
    for i, image in enumerate(images):
        m = len(image.nuclei)
        xy[i, :m] = torch.from_numpy(image.nuclei.xy).float()
        label[i, :m] = torch.from_numpy(image.nuclei.label).long()
        rays[i, :m] = torch.from_numpy(image.nuclei.rays)
    return xy, label, rays

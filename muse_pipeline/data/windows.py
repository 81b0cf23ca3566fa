"""An endless, seeded stream of augmented training windows from labelled images held in memory."""

from __future__ import annotations

import cv2
import numpy as np
import torch

from muse_pipeline.coords import CELL_PX
from muse_pipeline.data.augment import (
    Augmentation,
    HiddenNuclei,
    LabelledBatch,
    WeakView,
    part_way,
    random_linear,
    vary_colour,
    vary_sharpness,
)
from muse_pipeline.data.crops import cut_windows, place_windows, read_cells
from muse_pipeline.data.labelled_image import LabelledImage
from muse_pipeline.data.nuclei_stack import NucleiStack
from muse_pipeline.data.seeds import seed_of_step

DEEP = 255  # px inside a region, or more


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
        weak_view: whether a batch carries the windows of a teacher too.
        around: whether windows reach over the borders of regions, see ``crops.place_windows``.
    """

    def __init__(
        self,
        images: list[LabelledImage],
        colours: np.ndarray,
        stains: np.ndarray,
        *,
        mpp: float,
        window_px: int,
        batch: int,
        augmentation: Augmentation,
        seed: int,
        device: torch.device,
        weak_view: bool = False,
        around: bool = False,
    ):
        self.mpp, self.window_px, self.batch = mpp, window_px, batch
        self.augmentation, self.seed, self.device = augmentation, seed, device
        self.weak_view, self.around = weak_view, around
        self.sizes = torch.tensor([image.pixels.shape[1::-1] for image in images], dtype=torch.float32)
        self.regions = torch.tensor([image.annotated_box for image in images], dtype=torch.float32)
        self.weights = torch.tensor([image.weight for image in images])
        self.pictures = [torch.from_numpy(image.pixels).permute(2, 0, 1).contiguous().to(device) for image in images]
        has_regions = any(image.region is not None for image in images)
        self.depths = [torch.from_numpy(_depth(image)).to(device) for image in images] if has_regions else None
        self.nuclei = NucleiStack([image.nuclei for image in images], device)
        hidden = [image.hidden for image in images]
        self.hidden = NucleiStack(hidden, device) if all(nuclei is not None for nuclei in hidden) else None
        self.colours = torch.as_tensor(colours, dtype=torch.float32, device=device)
        self.stains = torch.as_tensor(stains, dtype=torch.float32, device=device)

    def __call__(self, step: int) -> LabelledBatch:
        """The batch of ``step``."""
        generator = torch.Generator().manual_seed(seed_of_step(self.seed, step))
        chosen = torch.multinomial(self.weights, self.batch, replacement=True, generator=generator)
        linear = random_linear(self.batch, self.augmentation, generator)
        reach = self.window_px / 2 / torch.linalg.det(linear).abs().sqrt()[:, None]
        centre = place_windows(self.sizes[chosen], self.regions[chosen], reach, generator, self.around)
        sharp = cut_windows([self.pictures[i] for i in chosen], centre, linear, self.window_px)
        pixels = vary_sharpness(sharp, self.mpp, self.augmentation, generator)
        least = self.augmentation.partial_colour
        share = torch.empty(self.batch).uniform_(least, 1, generator=generator)
        own_colour = self.colours[chosen.to(self.device)]
        colour = vary_colour(part_way(own_colour, share), self.stains, self.augmentation, generator)
        view = chosen.to(self.device), centre.to(self.device), linear.to(self.device)
        batch = LabelledBatch(pixels, colour, *self.nuclei.move(*view, self.window_px))
        if self.depths is not None:
            depths = [self.depths[i] for i in chosen]
            depth = read_cells(depths, centre, linear, self.window_px // CELL_PX, CELL_PX)
            batch = batch._replace(region=depth * self.mpp)
        if self.weak_view:
            batch = batch._replace(weak=WeakView(sharp, part_way(own_colour, torch.full_like(share, (1 + least) / 2))))
        if self.hidden is not None:
            batch = batch._replace(hidden=HiddenNuclei(*self.hidden.move(*view, self.window_px)[:2]))
        return batch


def _depth(image: LabelledImage) -> np.ndarray:
    """(h, w) int16: px inwards from the border of the region, at least 1 inside; not from that of the picture.

    0 where nobody annotated, -1 in other regions, whose nuclei this image does not have.
    """
    if image.region is None or image.region.all():
        return np.full(image.pixels.shape[:2], DEEP, np.int16)
    distance = cv2.distanceTransform(image.region.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    depth = distance.clip(0, DEEP).astype(np.int16)
    depth[~image.region & ~image.unannotated] = -1
    return depth

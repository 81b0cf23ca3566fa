"""Small labelled pictures, continued as their mirror images: a window of several times their side is mostly white."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import torch

from muse_pipeline.data.augment import move_nuclei
from muse_pipeline.data.labelled_image import LabelledImage
from muse_pipeline.nuclei.table import Nuclei

SEAM_UM = 3.0  # nuclei that the border of a picture cuts look like others when they are mirrored


def continue_mirrored(image: LabelledImage, window_px: int, mpp: float) -> LabelledImage:
    """A picture smaller than half a window, with whole mirror images to its right and below until it fills one.

    Nothing of it counts as annotated within 3 um of a seam or of the old border. Larger pictures stay as they are.

    Args:
        image: with its nuclei in its own pixels.
        window_px: side of the windows that are cut from it.
        mpp: um per pixel.
    """
    height, width = image.pixels.shape[:2]
    if 2 * min(width, height) >= window_px:
        return image
    repeats_x, repeats_y = (-(-window_px // side) for side in (width, height))
    to_right, below = width * (repeats_x - 1), height * (repeats_y - 1)
    region = np.ones((height, width), bool) if image.region is None else image.region.copy()
    seam = int(np.ceil(SEAM_UM / mpp))
    region[:seam] = region[-seam:] = region[:, :seam] = region[:, -seam:] = False
    pixels, region = (
        cv2.copyMakeBorder(array, 0, below, 0, to_right, cv2.BORDER_REFLECT)
        for array in (image.pixels, region.astype(np.uint8))
    )
    mosaic = (width, height), (repeats_x, repeats_y)
    hidden = None if image.hidden is None else _repeat(image.hidden, *mosaic)
    nuclei = _repeat(image.nuclei, *mosaic)
    return replace(image, pixels=pixels, region=region > 0, annotated=None, nuclei=nuclei, hidden=hidden)


def _repeat(nuclei: Nuclei, size_px: tuple[int, int], repeats: tuple[int, int]) -> Nuclei:
    """The nuclei of every mirror image; every second column and row of them is reversed."""
    size, parts = np.array(size_px), []
    xy, rays = torch.from_numpy(nuclei.xy).float()[None], torch.from_numpy(nuclei.rays)[None]
    for row, column in np.ndindex(repeats[1], repeats[0]):
        flip = torch.diag(torch.tensor([1.0 - 2 * (column % 2), 1.0 - 2 * (row % 2)]))[None]
        moved, turned = move_nuclei(xy, rays, torch.from_numpy(size / 2).float()[None], flip, 0)
        middle = (np.array([column, row]) + 0.5) * size
        parts.append(replace(nuclei, xy=moved[0].numpy() + middle, rays=turned[0].numpy()))
    return Nuclei.concatenate(parts)

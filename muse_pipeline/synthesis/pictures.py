"""Masks as pictures, in the colours that UNITPathSSL's networks use, and a page of examples."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from muse_pipeline.synthesis.masks import InstanceMask, contours
from muse_pipeline.synthesis.settings import EPITHELIAL, STROMA

CONTOUR = 255
FILL, FILL_DEVIATION, FILL_RANGE = 110.0, 30.0, (40.0, 190.0)  # measured in the authors' figure
GRAIN_UM = (0.5, 0.75)  # sigma of the noise in fills
CHANNEL = {STROMA: 1, EPITHELIAL: 2}  # contours are channel 0
GUTTER_PX = 6


def stylise(mask: InstanceMask, mpp: float, rng: np.random.Generator) -> np.ndarray:
    """(h, w, 3) uint8: contours red, stroma nuclei green, epithelial nuclei blue, both filled with smooth noise.

    Args:
        mask: the mask with its instances.
        mpp: um per pixel.
        rng: generator of the noise.
    """
    sigma_px = rng.uniform(*GRAIN_UM) / mpp
    noise = cv2.GaussianBlur(rng.standard_normal(mask.instances.shape, np.float32), (0, 0), sigma_px)
    fill = (FILL + FILL_DEVIATION / noise.std() * noise).clip(*FILL_RANGE).astype(np.uint8)
    kind = np.append(len(CHANNEL), mask.kinds)[mask.instances]
    edge = contours(mask.instances)
    picture = np.zeros((*mask.instances.shape, 3), np.uint8)
    for number, channel in CHANNEL.items():
        picture[..., channel] = fill * ((kind == number) & ~edge)
    picture[..., 0] = CONTOUR * edge
    return picture


def draw_page(pictures: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Pictures (h, w, 3) of one size in rows on white; the last row may be shorter."""
    height, width = pictures[0].shape[:2]
    rows = -(-len(pictures) // columns)
    page = np.full(
        (rows * (height + GUTTER_PX) + GUTTER_PX, columns * (width + GUTTER_PX) + GUTTER_PX, 3), 255, np.uint8
    )
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        top, left = GUTTER_PX + row * (height + GUTTER_PX), GUTTER_PX + column * (width + GUTTER_PX)
        page[top : top + height, left : left + width] = picture
    return page

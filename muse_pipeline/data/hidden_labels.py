"""The setting of labels on a small square in a large field, tried out on pictures that are labelled everywhere."""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np

from muse_pipeline.labels.pictures import LabelledImage


def hide_labels(images: list[LabelledImage], region_px: int, seed: int) -> list[LabelledImage]:
    """Keep the labels of one square per picture; the others are hidden for good, and there to be compared with.

    The square depends on the seed and the picture's name alone: every fold and every step has the same one.

    Args:
        images: at the model's mpp.
        region_px: side of the square; on a smaller picture it is that picture's.
        seed: of the run.
    """
    return [_hide(image, region_px, np.random.default_rng([seed, zlib.crc32(image.name.encode())])) for image in images]


def _hide(image: LabelledImage, region_px: int, generator: np.random.Generator) -> LabelledImage:
    size = np.array(image.pixels.shape[1::-1])
    corner = np.floor(generator.random(2) * (np.maximum(size - region_px, 0) + 1)).astype(int)
    region = np.zeros(image.pixels.shape[:2], bool)
    region[corner[1] : corner[1] + region_px, corner[0] : corner[0] + region_px] = True
    visible = ((image.nuclei.xy >= corner) & (image.nuclei.xy < corner + region_px)).all(1)
    if image.region is not None:
        region &= image.region
        column, row = np.clip(image.nuclei.xy.astype(int), 0, size - 1).T
        visible &= image.region[row, column]
    return replace(image, nuclei=image.nuclei[visible], region=region, annotated=None, hidden=image.nuclei[~visible])

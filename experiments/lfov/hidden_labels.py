"""A detector's training on labels of one small square per picture, tried out on pictures labelled everywhere."""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np

from muse_pipeline.labels.pictures import LabelledImage
from muse_pipeline.methods.detector.data import DetectorData, read_detector_data
from muse_pipeline.methods.detector.run import DetectorStage
from muse_pipeline.training.run import Say

REGION_PX = 224


def hide_labels(image: LabelledImage, region_px: int, seed: int) -> LabelledImage:
    """The picture with the labels of one square alone, which depends on the seed and the picture's name alone.

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
    return replace(image, nuclei=image.nuclei[visible], region=region, annotated=None)


class HiddenLabelsStage(DetectorStage):
    """Trains on the squares."""

    region_px = REGION_PX

    def read(self, say: Say) -> DetectorData:
        """The pictures with the labels of their squares."""
        plain = replace(self.config, distillation=None)  # the pictures have no regions yet
        data = read_detector_data(plain, self.start)
        images = [hide_labels(image, self.region_px, self.config.seed) for image in data.images]
        return replace(data, config=self.config, images=images)

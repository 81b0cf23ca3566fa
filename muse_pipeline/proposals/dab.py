"""Immunohistochemistry for proposers that go by stain: a picture in which brown nuclei look like blue ones."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from muse_pipeline.inference.dab import ABSOLUTE, BLUE, density_to_pixels, split_stains
from muse_pipeline.proposals.base import SlideSample, shrink_factor, to_work_mpp
from muse_pipeline.proposals.otsu_mask import otsu_threshold
from muse_pipeline.tissue.stains import TEXTBOOK

CAP = 2.0  # times the threshold of blue nuclei: brown ones may be ten times as dense, and would raise it beyond them
MIN_CAP = 0.6
BLUR_UM = 0.5  # grain


@dataclass(frozen=True)
class BluePaint:
    """Shows a slide's nuclei, brown and blue, as a haematoxylin of one hue; whatever seeks blue ones finds both.

    Attributes:
        mpp: um per pixel of what is painted.
        most: optical density beyond which nothing is painted.
    """

    mpp: float
    most: float

    @classmethod
    def fit(cls, sample: SlideSample) -> BluePaint:
        """Paint ends well above the density of blue nuclei, which Otsu's cut finds among what is not brown."""
        blue = [np.zeros(0, np.float32)]
        for picture in sample.pictures:
            stains = split_stains(to_work_mpp(picture, sample.mpp))
            stains = cv2.GaussianBlur(stains, (0, 0), BLUR_UM / (sample.mpp * shrink_factor(sample.mpp)))
            blue.append(stains.sum(-1)[stains[..., 1] < ABSOLUTE])
        density = np.concatenate(blue)
        cut = otsu_threshold(density) if len(density) else np.inf
        return cls(sample.mpp, round(max(CAP * cut, MIN_CAP), 6) if np.isfinite(cut) else MIN_CAP)

    @property
    def work_mpp(self) -> float:
        """Um per pixel of what comes out."""
        return self.mpp * shrink_factor(self.mpp)

    def __call__(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The painted picture (h', w', 3) uint8 of ``pixels`` (h, w, 3) uint8, and the DAB (h', w') float32 in them."""
        stains = split_stains(to_work_mpp(pixels, self.mpp))
        density = np.minimum(stains[..., 0] + stains[..., 1], np.float32(self.most))
        painted = density_to_pixels(cv2.transform(density, BLUE[:, None]))
        return painted, np.ascontiguousarray(stains[..., 1])

    def sample(self, sample: SlideSample) -> SlideSample:
        """``sample`` as it is painted; its stain is the textbook's."""
        return SlideSample(self.work_mpp, tuple(self(one)[0] for one in sample.pictures), TEXTBOOK, sample.info)

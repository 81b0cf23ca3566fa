"""Nuclei by Otsu's threshold on a slide's haematoxylin; the mask is cut into single nuclei, which
are outlined.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

import cv2
import numpy as np
from scipy import ndimage

from muse_pipeline.core.config import Between
from muse_pipeline.nuclei.masks import label_image_to_nuclei
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.proposals import PROPOSERS
from muse_pipeline.proposals.base import (
    N_RAYS,
    Proposer,
    SlideSample,
    proposer_facts,
    shrink,
    shrink_factor,
)
from muse_pipeline.proposals.otsu_mask import OtsuMask, blend_stains, fit_otsu
from muse_pipeline.tissue.background import clear_foreign_colours

PACKAGES = ("muse-pipeline", "numpy", "opencv-python-headless", "scipy")
MIN_DENSITY = (
    0.15  # lower limit of the threshold; without nuclei, Otsu's would separate two shades of pink
)
# minimum density above that of the tissue around; up to 0.15 in stroma, 0.35 or more in nuclei
MIN_CONTRAST = 0.2
AROUND_UM = 5.0  # sigma of the Gaussian that averages the surrounding tissue


@dataclass(frozen=True)
class OtsuSettings:
    """Settings of the proposer.

    Attributes:
        strictness: factor of the slide's threshold; higher values give fewer, more certain nuclei.
        max_nucleus_um2: maximum area of a nucleus; larger objects are folds, dirt or smears.
    """

    strictness: Annotated[float, Between(0.05, 5)] = 1.0
    max_nucleus_um2: Annotated[float, Between(10, 10_000)] = 400.0


@PROPOSERS.register("otsu")
@dataclass(frozen=True, eq=False)
class OtsuFinder(Proposer):
    """Finds the nuclei in a slide's windows."""

    Settings = OtsuSettings
    name = "otsu"

    settings: OtsuSettings  # settings of the proposer
    # stain vectors, threshold and spread of the slide, for windows shrunk by ``shrink_factor``
    fitted: OtsuMask

    @classmethod
    def fit(cls, sample: SlideSample, settings: OtsuSettings) -> OtsuFinder:
        """Estimate the threshold from the sample; if it has no pictures, the finder finds
        nothing.
        """
        factor = shrink_factor(sample.mpp)
        work_mpp = sample.mpp * factor
        stains = blend_stains(sample.stains).round(6)
        if not sample.pictures:
            return cls(sample.mpp, settings, OtsuMask(stains, np.inf, work_mpp, 1.0))
        mask = fit_otsu(
            [shrink(picture, factor) for picture in sample.pictures], work_mpp, sample.stains
        )
        threshold = max(settings.strictness * mask.threshold, MIN_DENSITY)
        fitted = replace(
            mask, stains=stains, threshold=round(threshold, 6), spread=round(mask.spread, 8)
        )
        return cls(sample.mpp, settings, fitted)

    def find(self, pixels: np.ndarray) -> Nuclei:
        """The nuclei (frame: window) of (h, w, 3) uint8 ``pixels`` of any size, highest score
        first.
        """
        small = shrink(pixels, shrink_factor(self.mpp))
        density = clear_foreign_colours(self.fitted.density(small), small)
        labels = self.fitted.cut(density)
        work_mpp = self.fitted.mpp
        nuclei = label_image_to_nuclei(labels, (work_mpp, work_mpp), N_RAYS)
        numbers = np.arange(1, len(nuclei) + 1)
        area_um2 = np.bincount(labels.ravel(), minlength=1)[1:] * work_mpp**2
        # The mean density of the nearby pixels outside the mask.
        outside, sigma_px = (labels == 0).astype(np.float32), AROUND_UM / work_mpp
        share = cv2.GaussianBlur(outside, (0, 0), sigma_px)
        around = cv2.GaussianBlur(density * outside, (0, 0), sigma_px) / np.maximum(share, 1e-3)
        means = (ndimage.mean(values, labels, numbers) for values in (density, around))
        mean, mean_around = (np.asarray(values).reshape(-1) for values in means)
        order = np.argsort(-mean, kind="stable")
        sound = (area_um2 <= self.settings.max_nucleus_um2) & (mean - mean_around >= MIN_CONTRAST)
        order = order[sound[order]][: self.card.capacity]
        n = len(order)
        return replace(
            nuclei[order],
            xy=nuclei.xy[order] * shrink_factor(self.mpp),
            label=np.zeros(n, np.int32),
            score=(mean[order] / (mean[order] + self.fitted.threshold)).astype(np.float32),
            prob=np.ones((n, 1), np.float32),
        )

    def facts(self) -> dict[str, Any]:
        """Settings and estimates of the proposer, with their checksum."""
        stains = self.fitted.stains.tolist()
        threshold = self.fitted.threshold if np.isfinite(self.fitted.threshold) else None
        fitted = {"threshold": threshold, "spread": self.fitted.spread, "stains": stains}
        proposer = {"method": "otsu", "settings": asdict(self.settings), "fitted": fitted}
        return proposer_facts(proposer, stains, PACKAGES)

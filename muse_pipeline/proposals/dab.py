"""Brown of immunohistochemistry (DAB) beside haematoxylin: how much there is of both, and a picture of their sum.

Ruifrok & Johnston, "Quantification of histochemical staining by color deconvolution", Anal Quant Cytol Histol 2001.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from muse_pipeline.nuclei.rays import ray_directions
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.proposals.base import SlideSample, shrink_factor, to_work_mpp
from muse_pipeline.proposals.otsu_mask import otsu_threshold
from muse_pipeline.tissue.stains import DENSITY, TEXTBOOK

DAB = np.array([0.268, 0.570, 0.776])  # Ruifrok's, OD of r, g, b; QuPath begins with it for "Brightfield (H-DAB)" too
ABSOLUTE = round(0.2 * float(np.log(10)), 6)  # of DAB: where QuPath's positive cells begin, 0.2 to the base 10
CAP = 2.0  # times the threshold of blue nuclei: brown ones may be ten times as dense, and would raise it beyond them
MIN_CAP = 0.6
BLUR_UM = 0.5  # grain
N_RINGS = 4  # a nucleus' mean is that of as many points of equal area on each of its rays

_STAINS = np.array([stain / np.linalg.norm(stain) for stain in (TEXTBOOK[0], DAB, np.cross(TEXTBOOK[0], DAB))])
_SHARES = np.linalg.inv(_STAINS).T[:2].astype(np.float32)  # the third stain is what neither explains
_BLUE = _STAINS[0][:, None].astype(np.float32)


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
        painted = 256 * cv2.exp(-cv2.transform(density, _BLUE)) - 1
        return np.clip(np.rint(painted), 0, 255).astype(np.uint8), np.ascontiguousarray(stains[..., 1])

    def sample(self, sample: SlideSample) -> SlideSample:
        """``sample`` as it is painted; its stain is the textbook's."""
        return SlideSample(self.work_mpp, tuple(self(one)[0] for one in sample.pictures), TEXTBOOK, sample.info)


def split_stains(pixels: np.ndarray) -> np.ndarray:
    """Optical density (natural logarithm, at least 0), (h, w, 2) float32, of haematoxylin and of DAB.

    Args:
        pixels: (h, w, 3) uint8.
    """
    density = cv2.LUT(np.ascontiguousarray(pixels), DENSITY)
    return np.maximum(cv2.transform(density, _SHARES), 0)


def mean_within(values: np.ndarray, nuclei: Nuclei, mpp: float) -> np.ndarray:
    """(N,) float64 mean of ``values`` (h, w) float32, at ``mpp`` um per pixel, over ``nuclei`` (frame: window)."""
    n, n_rays = nuclei.rays.shape
    if not n:
        return np.zeros(0)
    reach_px = nuclei.rays[..., None] * np.sqrt((np.arange(N_RINGS) + 0.5) / N_RINGS) / mpp
    xy = nuclei.xy[:, None, None] + reach_px[..., None] * ray_directions(n_rays)[:, None]  # (N, R, rings, 2)
    places = (xy.reshape(n, n_rays * N_RINGS, 2) - 0.5).astype(np.float32)
    found = cv2.remap(values, places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    sector = np.square(nuclei.rays, dtype=float)  # twice its area, but for a factor
    return (found.reshape(n, n_rays, N_RINGS).mean(-1, dtype=float) * sector).sum(-1) / sector.sum(-1)

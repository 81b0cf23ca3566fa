"""The simplest mask without labels: Otsu's threshold on the haematoxylin of a slide, cut into
nuclei.

Otsu, "A threshold selection method from gray-level histograms", IEEE Trans. SMC 1979. Lengths are
in um, so that results depend little on the pixel size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy import ndarray

from muse_pipeline.nuclei.masks import MIN_NUCLEUS_UM2, cut_relief, depth_um
from muse_pipeline.tissue.components import drop_small
from muse_pipeline.tissue.stain import TEXTBOOK, fit_macenko, weigh_density

BLUR_UM = 0.5  # sigma that removes the grain of camera and chromatin
OPEN_UM = 0.5  # radius of the opening that removes fibres and bridges thinner than 1 um
MAX_HOLE_UM2 = 20.0  # smaller holes are pale chromatin, and are filled
MAX_SAMPLE = 1_000_000  # number of pixels sampled from all pictures together
N_BINS = 256
# ends of the histogram; the full range, with dirt and folds, would make its bins too wide
PERCENTILES = (0.5, 99.5)


@dataclass(frozen=True)
class OtsuMask:
    """A threshold fitted to a slide; a call returns the mask of a picture of the slide."""

    stains: ndarray  # (2, 3) unit vectors in optical density, haematoxylin first
    threshold: float  # optical density of haematoxylin above which a pixel is part of a nucleus
    mpp: float  # um per pixel of the pictures
    spread: float  # standard deviation of ``blob_answer`` over the slide

    def __call__(self, pixels: ndarray) -> ndarray:
        """(h, w) bool: the nuclei in (h, w, 3) uint8 ``pixels``, without specks and with holes
        filled.
        """
        return self.mask(self.density(pixels))

    def instances(self, pixels: ndarray) -> ndarray:
        """(h, w) int32: the mask of (h, w, 3) uint8 ``pixels`` cut into nuclei 1..N; 0 is
        background.
        """
        density = self.density(pixels)
        return cut_mask(self.mask(density), density, self.mpp, self.spread)

    def density(self, pixels: ndarray) -> ndarray:
        """(h, w) float32: optical density of haematoxylin, smoothed to remove grain."""
        return cv2.GaussianBlur(haematoxylin(pixels, self.stains), (0, 0), BLUR_UM / self.mpp)

    def mask(self, density: ndarray) -> ndarray:
        """The mask (h, w) bool of a picture, from its ``density``."""
        radius = max(round(OPEN_UM / self.mpp), 1)
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
        opened = (
            cv2.morphologyEx((density > self.threshold).astype(np.uint8), cv2.MORPH_OPEN, disc) > 0
        )
        nuclei = drop_small(opened, MIN_NUCLEUS_UM2 / self.mpp**2)
        return ~drop_small(~nuclei, MAX_HOLE_UM2 / self.mpp**2, connectivity=4)


def fit_otsu(pictures: Sequence[ndarray], mpp: float, stains: ndarray | None = None) -> OtsuMask:
    """Fit the threshold to a random sample of up to about a million pixels of (h, w, 3) uint8
    pictures of tissue.

    The stain vectors (2, 3) of the slide are estimated from the same sample if they are None.
    """
    share = min(1.0, MAX_SAMPLE / sum(picture[..., 0].size for picture in pictures))
    random = np.random.default_rng(0)
    drawn = [random.random(picture.shape[:2]) < share for picture in pictures]
    if stains is None:
        fit = fit_macenko(
            np.concatenate([picture[here] for picture, here in zip(pictures, drawn, strict=True)])
        )
        stains = fit and fit.stains
    mask = OtsuMask(blend_stains(stains), np.inf, mpp, 1.0)
    densities, answers = [], []
    for picture, here in zip(pictures, drawn, strict=True):
        density = mask.density(picture)
        densities.append(density[here])
        answers.append(blob_answer(density, mpp)[here])
    spread = float(np.concatenate(answers).std(dtype=float))
    return replace(mask, threshold=otsu_threshold(np.concatenate(densities)), spread=spread)


def otsu_threshold(values: ndarray) -> float:
    """Otsu's threshold of ``values`` (N,); infinite if all values between ``PERCENTILES`` are
    equal.

    The mean of equally good thresholds is returned, which lies in the middle of the gap between the
    two groups.
    """
    low, high = np.percentile(values, PERCENTILES)
    if not low < high:
        return float("inf")
    # Values beyond the ends are clipped to them, so that the first and last bins are never empty.
    counts, edges = np.histogram(np.clip(values, low, high), N_BINS, (low, high))
    centres = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(counts)[:-1]
    sum_below = np.cumsum(counts * centres)[:-1]
    above = counts.sum() - below
    sum_above = (counts * centres).sum() - sum_below
    between = below * above * (sum_below / below - sum_above / above) ** 2
    return float(edges[1:-1][np.isclose(between, between.max())].mean())


# Both constants, and ``BLUR_UM``, were chosen on the points of BRCA-M2C's training pictures
# (docs/guide/label-free.md).
RADIUS_UM = 3.0  # radius of the blob filter, that of a small nucleus
# weight of the filter's response divided by its spread; depth divided by RADIUS_UM has weight 1
STAIN_SHARE = 0.5


def cut_mask(mask: ndarray, density: ndarray, mpp: float, spread: float | None = None) -> ndarray:
    """Split a mask (h, w) bool by a watershed: (h, w) int32, 1..N in raster order of the peaks, 0
    elsewhere.

    The relief is the smoothed depth within the mask plus the response of a blob filter to the
    stain's ``density`` (h, w), so that touching nuclei are separated at a neck of the mask or at a
    pale line between them. Parts below 9 um2 are dropped. ``spread`` is the standard deviation of
    ``blob_answer`` over the slide, so that all its windows are cut alike; if None, that over this
    picture.
    """
    blobs = blob_answer(density, mpp)
    unit = max(float(blobs.std()) if spread is None else spread, 1e-9)
    return cut_relief(mask, depth_um(mask, mpp) / RADIUS_UM + STAIN_SHARE * blobs / unit, mpp)


def blob_answer(density: ndarray, mpp: float) -> ndarray:
    """(h, w) float32: negative Laplacian of Gaussian of a ``density`` (h, w), at the radius of a
    small nucleus.
    """
    blurred = cv2.GaussianBlur(density.astype(np.float32), (0, 0), RADIUS_UM / np.sqrt(2) / mpp)
    return -cv2.Laplacian(blurred, cv2.CV_32F)


# weight of the slide's own vectors, which fit its stain but are biased by its kind of tissue
OWN_SHARE = 0.4


def blend_stains(own: ndarray | None) -> ndarray:
    """Unit stain vectors (2, 3), haematoxylin first: 40 % the slide's own and 60 % textbook
    vectors.

    Without a fit of its own (``colour.json``), only the textbook vectors are used.
    """
    blend = (
        TEXTBOOK
        if own is None
        else OWN_SHARE * _unit(np.asarray(own, float)) + (1 - OWN_SHARE) * _unit(TEXTBOOK)
    )
    return _unit(blend)


def haematoxylin(pixels: ndarray, stains: ndarray) -> ndarray:
    """Optical density (h, w) float32, at least 0, of the first of two ``stains`` (2, 3) in (h, w,
    3) uint8 ``pixels``.

    It is fitted by least squares; density outside the plane of both stains is ignored.
    """
    return np.maximum(weigh_density(pixels, np.linalg.pinv(np.asarray(stains, float))[:, 0]), 0)


def _unit(stains: ndarray) -> ndarray:
    return stains / np.linalg.norm(stains, axis=1, keepdims=True)

"""The plainest mask without labels: Otsu's threshold on the haematoxylin of a slide, cut into nuclei.

Otsu, "A threshold selection method from gray-level histograms", IEEE Trans. SMC 1979. Lengths are um, so that a slide
comes out alike at any resolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from muse_pipeline.errors import ConfigError
from muse_pipeline.proposals.cut import MIN_NUCLEUS_UM2, blob_answer, cut_mask
from muse_pipeline.proposals.haematoxylin_density import blend_stains, haematoxylin
from muse_pipeline.tissue.macenko import fit_macenko
from muse_pipeline.tissue.specks import drop_small

BLUR_UM = 0.5  # grain of camera and chromatin
OPEN_UM = 0.5  # radius: fibres and bridges thinner than 1 um go
MAX_HOLE_UM2 = 20.0  # pale chromatin within a nucleus
MAX_SAMPLE = 1_000_000  # pixels, of all pictures together
N_BINS = 256
PERCENTILES = (0.5, 99.5)  # ends of the histogram: dirt and folds would stretch its bins


@dataclass(frozen=True)
class OtsuMask:
    """A threshold that was fitted on a slide; calling it gives the mask of any of its pictures.

    Attributes:
        stains: (2, 3) unit vectors in optical density, haematoxylin first.
        threshold: optical density of haematoxylin from which a pixel is nucleus.
        mpp: um per pixel of the pictures.
        spread: of ``cut.blob_answer`` over the slide.
    """

    stains: np.ndarray
    threshold: float
    mpp: float
    spread: float

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """(h, w) bool: where (h, w, 3) uint8 ``pixels`` are nucleus, specks dropped and holes filled."""
        return self.mask(self.density(pixels))

    def instances(self, pixels: np.ndarray) -> np.ndarray:
        """(h, w) int32: the mask of (h, w, 3) uint8 ``pixels`` cut into nuclei 1..N, 0 is background."""
        return self.cut(self.density(pixels))

    def cut(self, density: np.ndarray) -> np.ndarray:
        """``instances`` of what ``density`` gave."""
        return cut_mask(self.mask(density), density, self.mpp, self.spread)

    def density(self, pixels: np.ndarray) -> np.ndarray:
        """(h, w) float32: haematoxylin without its grain."""
        return cv2.GaussianBlur(haematoxylin(pixels, self.stains), (0, 0), BLUR_UM / self.mpp)

    def mask(self, density: np.ndarray) -> np.ndarray:
        """The mask of what ``density`` gave."""
        radius = max(round(OPEN_UM / self.mpp), 1)
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
        opened = cv2.morphologyEx((density > self.threshold).astype(np.uint8), cv2.MORPH_OPEN, disc) > 0
        nuclei = drop_small(opened, MIN_NUCLEUS_UM2 / self.mpp**2)
        return ~drop_small(~nuclei, MAX_HOLE_UM2 / self.mpp**2, connectivity=4)


def fit_otsu(pictures: Sequence[np.ndarray], mpp: float, stains: np.ndarray | None = None, seed: int = 0) -> OtsuMask:
    """Fit the threshold on a drawn sample of the pixels of a slide.

    Args:
        pictures: one or more (h, w, 3) uint8 of its tissue.
        mpp: um per pixel.
        stains: (2, 3) the slide's own stains (``colour.json``); estimated from the same sample where None.
        seed: of the sample, up to a million pixels.

    Raises:
        ConfigError: there is no picture.
    """
    if not pictures:
        raise ConfigError("Otsu's threshold was asked for without a picture; give at least one of the slide's tissue")
    share = min(1.0, MAX_SAMPLE / sum(picture[..., 0].size for picture in pictures))
    random = np.random.default_rng(seed)
    drawn = [random.random(picture.shape[:2]) < share for picture in pictures]
    if stains is None:
        fit = fit_macenko(np.concatenate([picture[here] for picture, here in zip(pictures, drawn, strict=True)]))
        stains = fit and fit.stains
    mask = OtsuMask(blend_stains(stains), np.inf, mpp, 1.0)
    densities, answers = [], []
    for picture, here in zip(pictures, drawn, strict=True):
        density = mask.density(picture)
        densities.append(density[here])
        answers.append(blob_answer(density, mpp)[here])
    spread = float(np.concatenate(answers).std(dtype=float))
    return replace(mask, threshold=otsu_threshold(np.concatenate(densities)), spread=spread)


def otsu_threshold(values: np.ndarray) -> float:
    """The cut of values (N,) into two groups whose means lie furthest apart; infinite where all are equal.

    It is the middle of the cuts that do this equally well, so that it lies between the groups and not at one of them.
    """
    low, high = np.percentile(values, PERCENTILES)
    if not low < high:
        return float("inf")
    counts, edges = np.histogram(np.clip(values, low, high), N_BINS, (low, high))
    centres = (edges[1:] + edges[:-1]) / 2
    below, sum_below = np.cumsum(counts)[:-1], np.cumsum(counts * centres)[:-1]
    above, sum_above = counts.sum() - below, (counts * centres).sum() - sum_below
    between = below * above * (sum_below / below - sum_above / above) ** 2
    return float(edges[1:-1][np.isclose(between, between.max())].mean())

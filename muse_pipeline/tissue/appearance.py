"""How a slide looks, in a dozen numbers: what says whether it resembles the pictures that a model was trained on.

All are measured over fields of tissue at about 0.5 um a pixel, on slides (``colour.json``) and on training pictures
(the model's card, ``inference.appearance``) alike.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from muse_pipeline.tissue.channels import highest, lowest
from muse_pipeline.tissue.macenko import MacenkoFit, fit_macenko, is_stained
from muse_pipeline.tissue.stains import is_brown, optical_density

SAMPLE_UM = 0.5  # as the models see it: coarser pixels mix nuclei with what is around them
FIELD_UM = 128.0
NEAR_BLACK, NEAR_WHITE = 25, 250  # brightest, darkest channel: dirt and holes
MIN_TISSUE = 0.25  # of a field, for its detail to be measured
MIN_CONTRAST = 2.0  # grey levels; less is an empty field, whose detail is noise
FINE_UM, COARSE_UM = (0.25, 0.5), (1.0, 4.0)  # Gaussians between which detail is measured
STAINED_DENSITY = 0.15  # of the channel that absorbs most
CERTAIN_DENSITY = 0.3  # |OD| from which the direction of a colour is no noise
DARKEST = 90.0  # percentile: the tenth that absorbs most is nuclei
BLOCK_PX = 4  # averaged before a pixel is called brown: colours of single pixels are fringes of the scanner
MIN_PIXELS = 500


def usable_pixels(pixels: np.ndarray) -> np.ndarray:
    """Which of (h, w, 3) uint8 pixels are neither dirt nor hole: (h, w) bool."""
    return (highest(pixels) > NEAR_BLACK) & (lowest(pixels) < NEAR_WHITE)


class AppearanceSample:
    """Gathers fields of tissue and measures them.

    Args:
        mpp: um per pixel of the fields.
    """

    def __init__(self, mpp: float):
        self.mpp = mpp
        self._sharpness: list[float] = []
        self._contrast: list[float] = []
        self._pixels = [np.empty((0, 3), np.uint8)]
        self._n_brown = self._n_blocks = 0

    def add(self, pixels: np.ndarray, tissue: np.ndarray) -> None:
        """Take a field, (h, w, 3) uint8, of which the part in ``tissue`` (h, w) bool counts."""
        usable = tissue & usable_pixels(pixels)
        self._pixels.append(pixels[usable])
        self._count_brown(pixels, usable)
        if usable.mean() >= MIN_TISSUE:
            fine, contrast = _detail(pixels, usable, self.mpp)
            self._contrast.append(contrast)
            if contrast > MIN_CONTRAST:
                self._sharpness.append(fine / contrast)

    @property
    def pixels(self) -> np.ndarray:
        """(N, 3) uint8, all that count."""
        return np.concatenate(self._pixels)

    def measure(self, fit: MacenkoFit | None) -> dict[str, float]:
        """The numbers by name; what cannot be told is left out.

        Args:
            fit: of the stains of these pixels.
        """
        found: dict[str, float] = {}
        if self._sharpness:
            found["sharpness"] = float(np.log(max(np.median(self._sharpness), 1e-3)))
        if self._contrast:
            found["contrast"] = float(np.log(max(np.median(self._contrast), 1e-3)))
        if self._n_blocks:
            found["brown"] = self._n_brown / self._n_blocks
        found |= _colours(optical_density(self.pixels))
        if fit is not None:
            for name, stain, strong in zip(("haematoxylin", "eosin"), fit.stains, fit.strong, strict=True):
                found |= {f"{name} red": stain[0], f"{name} blue": stain[2], f"{name} strength": float(np.log(strong))}
        # rounded, so that the order in which a library adds up cannot be seen
        return {name: round(float(value), 4) for name, value in sorted(found.items())}

    def _count_brown(self, pixels: np.ndarray, usable: np.ndarray) -> None:
        size = max(1, pixels.shape[1] // BLOCK_PX), max(1, pixels.shape[0] // BLOCK_PX)
        density = optical_density(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))
        counted = cv2.resize(usable.view(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
        self._n_brown += np.count_nonzero(is_brown(density) & counted)
        self._n_blocks += np.count_nonzero(counted & (highest(density) > STAINED_DENSITY))


def measure_picture(pixels: np.ndarray, mpp: float) -> dict[str, float]:
    """The numbers of a picture (h, w, 3) uint8 that is tissue from wall to wall, as of a slide's sample."""
    factor = max(round(SAMPLE_UM / mpp), 1)
    if factor > 1:
        size = max(pixels.shape[1] // factor, 1), max(pixels.shape[0] // factor, 1)
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    sample = AppearanceSample(mpp * factor)
    for field in cut_fields(pixels, sample.mpp):
        sample.add(np.ascontiguousarray(field), np.ones(field.shape[:2], bool))
    return sample.measure(fit_macenko(sample.pixels))


def cut_fields(pixels: np.ndarray, mpp: float) -> Iterator[np.ndarray]:
    """A picture (h, w, 3) in fields of 128 um; a rest of less than half of one, to the right or below, is left out."""
    side = round(FIELD_UM / mpp)
    height, width = pixels.shape[:2]
    for top in range(0, max(height - side // 2, 1), side):
        for left in range(0, max(width - side // 2, 1), side):
            yield pixels[top : top + side, left : left + side]


def _colours(density: np.ndarray) -> dict[str, float]:
    """Colours of what is stained: ratios of the channels' densities over all of it and over its darkest tenth."""
    stained = density[highest(density) > STAINED_DENSITY]
    if len(stained) < MIN_PIXELS:
        return {}
    total = stained.sum(1)
    darkest = stained[total >= np.percentile(total, DARKEST)]
    found = {}
    for name, part in (("tissue", stained), ("nuclei", darkest)):
        red, green, blue = np.log(np.maximum(part.mean(0), 1e-3))
        strength = np.log(part.sum(1).mean())
        found |= {f"{name} red": red - green, f"{name} blue": blue - green, f"{name} density": strength}
    certain = stained[np.sqrt(np.einsum("ij,ij->i", stained, stained)) > CERTAIN_DENSITY]
    if len(certain) >= MIN_PIXELS:
        found["foreign"] = 1 - is_stained(certain).mean()
    return found


def _detail(pixels: np.ndarray, usable: np.ndarray, mpp: float) -> tuple[float, float]:
    """Deviations, in grey levels, of the detail of 0.25 to 0.5 um and of 1 to 4 um."""
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)
    blurred = (cv2.GaussianBlur(grey, (0, 0), sigma / mpp) for sigma in (*FINE_UM, *COARSE_UM))
    finest, fine, middle, coarse = blurred
    return float((finest - fine)[usable].std()), float((middle - coarse)[usable].std())

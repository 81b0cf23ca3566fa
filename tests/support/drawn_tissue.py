"""Synthetic tissue of lymphocytes and tumour nuclei, with the appearances of two laboratories.

In the labelled pictures all nuclei are round, lymphocytes dark and tumour nuclei pale. On the slide
most nuclei are dark, some of either kind are faint, tumour nuclei are elongated, and there are
small flecks of dirt.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

CLASSES = ("Lymphocyte", "Tumour")
GLASS, GROUND = (244, 244, 244), (228, 176, 208)
DARK, PALE, FAINT = (88, 52, 128), (158, 104, 176), (205, 150, 195)
DIRT, DIRT_UM = (80, 64, 100), 2.1
SPACING_UM, JITTER_UM, RADIUS_UM = 15.0, 2.5, (3.0, 3.6)
LONG = (1.5, 0.68)  # axes relative to those of a round nucleus


@dataclass(frozen=True, eq=False)
class DrawnTissue:
    """A picture and its N nuclei.

    Attributes:
        pixels: (h, w, 3) uint8.
        xy: (N, 2) centres in px of the picture, pixel edges at integers.
        label: (N,) index into ``CLASSES``.
    """

    pixels: np.ndarray
    xy: np.ndarray
    label: np.ndarray


def draw_labelled_tissue(size_px: tuple[int, int], mpp: float, seed: int) -> DrawnTissue:
    """The picture with the first labels; its tissue extends to the border."""
    rng = np.random.default_rng(seed)
    xy = _jitter_lattice(size_px, mpp, 0, rng)
    label = rng.integers(len(CLASSES), size=len(xy))
    image = np.full((size_px[1], size_px[0], 3), GROUND, np.uint8)
    for centre, kind in zip(xy, label, strict=True):
        _press(image, centre, (1, 1), (DARK, PALE)[kind], mpp, rng)
    return DrawnTissue(_photograph(image, mpp, rng), xy, label)


def draw_other_tissue(
    size_px: tuple[int, int], mpp: float, margin_px: int, seed: int
) -> DrawnTissue:
    """The picture of the slide: a rectangle of tissue on glass."""
    rng = np.random.default_rng(seed)
    xy = _jitter_lattice(size_px, mpp, margin_px, rng)
    label, is_faint = rng.integers(len(CLASSES), size=len(xy)), rng.random(len(xy)) < 0.2
    image = np.full((size_px[1], size_px[0], 3), GLASS, np.uint8)
    image[margin_px:-margin_px, margin_px:-margin_px] = GROUND
    for centre, kind, faint in zip(xy, label, is_faint, strict=True):
        _press(image, centre, ((1, 1), LONG)[kind], FAINT if faint else DARK, mpp, rng)
    for centre in xy[rng.random(len(xy)) < 0.25]:  # dirt between the rows of nuclei
        middle = tuple((centre + SPACING_UM / 2 / mpp).astype(int))
        cv2.circle(image, middle, round(DIRT_UM / mpp), DIRT, -1, cv2.LINE_AA)
    return DrawnTissue(_photograph(image, mpp, rng), xy, label)


def _jitter_lattice(
    size_px: tuple[int, int], mpp: float, margin_px: int, rng: np.random.Generator
) -> np.ndarray:
    """(N, 2) px: lattice positions with jitter."""
    step = SPACING_UM / mpp
    first = margin_px + step / 2
    axes = [np.arange(first, side - first + 1e-6, step) for side in size_px]
    xy = np.stack(np.meshgrid(*axes), -1).reshape(-1, 2)
    return xy + rng.uniform(-JITTER_UM, JITTER_UM, xy.shape) / mpp


def _press(
    image: np.ndarray,
    centre: np.ndarray,
    axes: tuple[float, float],
    colour: tuple[int, int, int],
    mpp: float,
    rng: np.random.Generator,
) -> None:
    """Paint one nucleus, about as dark as ``colour`` and turned by a random angle."""
    diameters = 2 * rng.uniform(*RADIUS_UM) * np.array(axes) / mpp
    shade = (np.array(colour) + rng.integers(-8, 9)).tolist()
    middle = tuple((centre - 0.5).tolist())  # OpenCV counts from the centre of the first pixel
    cv2.ellipse(image, (middle, tuple(diameters), rng.uniform(0, 180)), shade, -1, cv2.LINE_AA)


def _photograph(image: np.ndarray, mpp: float, rng: np.random.Generator) -> np.ndarray:
    """Add blur and grain."""
    seen = cv2.GaussianBlur(image, (0, 0), 0.4 / mpp) + rng.normal(0, 4, (*image.shape[:2], 1))
    return np.clip(seen, 0, 255).round().astype(np.uint8)

"""Background and foreign colours: empty glass, felt pens, DAB, pigment, bile, and black areas that
were not scanned.
"""

from __future__ import annotations

import cv2
import numpy as np

from muse_pipeline.core.types import Slide, SlideInfo
from muse_pipeline.slides.base import WHITE
from muse_pipeline.tissue.components import Components
from muse_pipeline.tissue.overview import map_strips, strips
from muse_pipeline.tissue.stain import DENSITY, MAX_RED_TO_GREEN, is_brown

DEFAULT_GLASS = 243.0  # level assumed for glass in a picture that shows only tissue
MIN_GLASS = 195  # minimum level of every channel in glass
# standard deviation among neighbours at 8 um/px: 0.3 to 1.2 in glass, 2 to 10 in the palest stroma
MAX_ROUGHNESS = 1.5
# (maximum difference between channels, minimum fraction of the picture): glass is nearly white or
# tinted by the scanner; tinted glass is accepted only if it covers much of the picture.
KINDS = ((10, 0.02), (35, 0.2))
FREQUENT = 0.1  # a level is frequent if this fraction of the candidates is within +-1 of it


def estimate_glass(pixels: np.ndarray) -> np.ndarray:
    """Colour (3,) float of glass in (h, w, 3) uint8: the brightest frequent colour of pale and flat
    areas.
    """

    def is_pale_and_flat(strip: np.ndarray) -> np.ndarray:
        low = lowest(strip)
        return (
            (low >= MIN_GLASS) & (low < WHITE) & (measure_roughness(strip[..., 1]) < MAX_ROUGHNESS)
        )

    candidates = map_strips(is_pale_and_flat, pixels, halo=1)
    n_scanned = sum(int((lowest(pixels[strip]) < WHITE).sum()) for strip in strips(len(pixels)))
    for max_tint, min_share in KINDS:
        counts = count_levels(pixels, candidates, max_tint)[1]
        if counts.sum() >= max(min_share * n_scanned, 1):
            frequent = np.convolve(counts, np.ones(3), "same") >= FREQUENT * counts.sum()
            green = int(np.flatnonzero(frequent).max())
            near = count_levels(pixels, candidates, max_tint, (green - 2, green + 2))
            return np.array([median_level(levels) for levels in near])
    return np.full(3, DEFAULT_GLASS)


def count_levels(
    pixels: np.ndarray, candidates: np.ndarray, max_tint: int, greens: tuple[int, int] = (0, 255)
) -> np.ndarray:
    """(3, 256) counts of each level in each channel of (h, w, 3) uint8 pixels.

    Counts only ``candidates`` (h, w) bool whose channels differ by at most ``max_tint`` and whose
    green channel lies in the inclusive range ``greens``.
    """
    counts = np.zeros((3, 256), int)
    for strip in strips(len(pixels)):
        colours = pixels[strip][candidates[strip]]
        green = colours[:, 1].astype(int)
        chosen = (spread(colours) <= max_tint) & (green >= greens[0]) & (green <= greens[1])
        counts += [np.bincount(channel, minlength=256) for channel in colours[chosen].T]
    return counts


def median_level(counts: np.ndarray) -> float:
    """The median level of a histogram ``counts`` (256,) with at least one count."""
    until, n = counts.cumsum(), counts.sum()
    return float(
        np.mean([np.searchsorted(until, rank, side="right") for rank in ((n - 1) // 2, n // 2)])
    )


def measure_roughness(grey: np.ndarray) -> np.ndarray:
    """(h, w) float32, standard deviation among the 3 x 3 neighbours of each pixel of (h, w)
    uint8.
    """
    values = grey.astype(np.float32)
    mean = cv2.blur(values, (3, 3))
    return np.sqrt(np.maximum(cv2.blur(values * values, (3, 3)) - mean * mean, 0))


def absorbed(pixels: np.ndarray, glass: np.ndarray) -> np.ndarray:
    """Optical density (natural log) of (h, w, 3) uint8 relative to ``glass``, float32, at least
    0.
    """
    steps = np.arange(1, 257, dtype=np.float32)
    tables = np.maximum(np.log((np.asarray(glass)[:, None] + 1) / steps), 0).astype(np.float32)
    return np.stack([table[pixels[..., i]] for i, table in enumerate(tables)], -1)


def lowest(pixels: np.ndarray) -> np.ndarray:
    """(...) smallest channel of (..., 3)."""
    return np.minimum(np.minimum(pixels[..., 0], pixels[..., 1]), pixels[..., 2])


def highest(pixels: np.ndarray) -> np.ndarray:
    """(...) largest channel of (..., 3)."""
    return np.maximum(np.maximum(pixels[..., 0], pixels[..., 1]), pixels[..., 2])


def spread(pixels: np.ndarray) -> np.ndarray:
    """(...) largest minus smallest channel of (..., 3)."""
    return highest(pixels) - lowest(pixels)


def is_ink(density: np.ndarray, max_red: float = 0.3) -> np.ndarray:
    """(h, w) bool: pixels whose (h, w, 3) ``density`` relative to glass (``absorbed``) has the
    colour of an ink.

    For red ink, ``max_red`` limits the density of red relative to that of green, which is at least
    0.18 in blood.
    """
    red, green, blue = np.moveaxis(density, -1, 0)
    # Haematoxylin and eosin absorb green most, and haematoxylin about as much red as green.
    is_green = (red > 0.25) & (green < 0.8 * red) & (green < 1.1 * blue)
    is_blue = (red > 0.25) & (red > 1.4 * green) & (blue < green)
    return is_green | is_blue | is_red(density, max_red) | is_black(density)


def is_red(density: np.ndarray, max_red: float = 0.3) -> np.ndarray:
    """True for red ink, which absorbs little red, and green and blue about equally; eosin absorbs
    less blue.
    """
    red, green, blue = np.moveaxis(density, -1, 0)
    return (green > 0.8) & (blue > 0.85 * green) & (red < max_red * green)


def is_black(density: np.ndarray) -> np.ndarray:
    """True for black ink, which absorbs all colours strongly and about equally."""
    return (lowest(density) > 0.9) & (spread(density) < 0.35 * highest(density))


COARSE = 4  # pixels averaged along each side, since the scanner may colour single pixels
PEN_PX = 7  # width in averaged pixels, about 14 um; narrower areas are nuclei of an unusual colour
FAINT_DENSITY = 0.06  # density of red: fainter edges of a pen cannot be mistaken for nuclei


def clear_foreign_colours(haematoxylin: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """``haematoxylin`` (h, w) float32, zero where (h, w, 3) uint8 ``pixels`` at about 0.5 um/px are
    ink or brown.
    """
    height, width = haematoxylin.shape
    density = DENSITY[coarsen(pixels)]
    foreign = find_ink(density) | is_brown(density)
    if not foreign.any():
        return haematoxylin
    enlarged = cv2.resize(
        foreign.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST
    )
    return np.where(enlarged > 0, np.float32(0), haematoxylin)


def find_ink(density: np.ndarray) -> np.ndarray:
    """(h', w') bool: felt pen in coarse ``density`` (h', w', 3), including faint edges and ink that
    shines through.
    """
    red, green, _ = np.moveaxis(density, -1, 0)
    bluish = (red > FAINT_DENSITY) & (red > MAX_RED_TO_GREEN * green)
    stroke = np.ones((PEN_PX, PEN_PX), np.uint8)
    strong = cv2.morphologyEx(
        (is_red(density) | is_black(density)).astype(np.uint8), cv2.MORPH_OPEN, stroke
    )
    return bluish | (cv2.dilate(strong, stroke) > 0)


def coarsen(pixels: np.ndarray) -> np.ndarray:
    """``pixels`` averaged ``COARSE``-fold along each side."""
    height, width = (max(1, side // COARSE) for side in pixels.shape[:2])
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)


UNSCANNED_BLACK = (
    10  # highest level of an unscanned pixel at 8 um; felt pens have 15 to 40, from light and noise
)
UNSCANNED_DARK = (
    50  # the same for pixels of the slide, since JPEG mixes them with those of the scan at its edge
)
BRIGHT_EDGE = (
    100  # lowest median level at the edge of a scan; fluorescence and shadows fade into black
)
_SQUARE = np.ones((3, 3), np.uint8)


def find_unscanned(pixels: np.ndarray) -> np.ndarray | None:
    """(h, w) bool: black areas of (h, w, 3) uint8 at about 8 um per pixel that touch the border;
    None without any.
    """
    black = highest(pixels) <= UNSCANNED_BLACK
    if not black.any():
        return None
    components = Components(black)
    unscanned = components.choose(components.at_border())
    near = grow(unscanned)
    edge = grow(near) & ~near
    if not edge.any() or np.median(highest(pixels[edge])) < BRIGHT_EDGE:
        return None
    return unscanned


def grow(mask: np.ndarray) -> np.ndarray:
    """A mask (h, w) bool, grown by one pixel."""
    return cv2.dilate(np.ascontiguousarray(mask).view(np.uint8), _SQUARE).view(bool)


class ScannedSlide:
    """A slide that is white where it was not scanned.

    The areas ``unscanned`` (h, w) bool from ``find_unscanned``, with pixels of ``mpp`` (2,) um,
    cover the whole of level 0.
    """

    def __init__(self, slide: Slide, info: SlideInfo, unscanned: np.ndarray, mpp: np.ndarray):
        self.path = slide.path
        self._slide, self._info, self._near = (
            slide,
            info,
            grow(unscanned),
        )  # the edge lies somewhere in the next pixel
        self._step = np.array(info.mpp) / mpp

    def read_region(
        self, xy_level0: tuple[int, int], level: int, size: tuple[int, int]
    ) -> np.ndarray:
        """Read pixels as ``Slide.read_region`` does."""
        pixels = self._slide.read_region(xy_level0, level, size)
        columns, rows = (
            ((start + (np.arange(n) + 0.5) * downsample) * step).astype(int).clip(0, last - 1)
            for start, n, downsample, step, last in zip(
                xy_level0,
                size,
                self._info.level_downsamples[level],
                self._step,
                self._near.shape[::-1],
                strict=True,
            )
        )
        near = self._near[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        if not near.any():
            return pixels
        is_white = near[np.ix_(rows - rows[0], columns - columns[0])] & (
            highest(pixels) <= UNSCANNED_DARK
        )
        return np.where(is_white[..., None], np.uint8(WHITE), pixels)

    def close(self) -> None:
        """Release the file."""
        self._slide.close()

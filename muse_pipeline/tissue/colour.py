"""Appearance of a slide in a dozen numbers, for comparison with the pictures that a model was
trained on.

The numbers are measured over fields of tissue at about 0.5 um per pixel, in the same way on slides
(``colour.json``) and on training pictures (the model's card, ``inference.doubts``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from muse_pipeline.core.errors import SlideError
from muse_pipeline.core.types import Slide, SlideInfo
from muse_pipeline.tissue.background import highest, lowest
from muse_pipeline.tissue.mask import TissueMask
from muse_pipeline.tissue.overview import choose_overview_level, strips
from muse_pipeline.tissue.stain import (
    DENSITY,
    MIN_DENSITY,
    MIN_PIXELS,
    NOT_FOUND,
    MacenkoFit,
    find_third_stain,
    fit_density,
    is_brown,
    is_stained,
    optical_density,
)

SAMPLE_UM = (
    0.5  # resolution of the models' input; coarser pixels mix nuclei with their surroundings
)
FIELD_UM = 128.0
NEAR_BLACK, NEAR_WHITE = (
    25,
    250,
)  # maximum level of all channels in dirt, and minimum level of all channels in holes
MIN_TISSUE = 0.25  # minimum fraction of tissue in a field for its detail to be measured
MIN_CONTRAST = 2.0  # grey levels; a field with less is empty, and its detail is noise
FINE_UM, COARSE_UM = (
    (0.25, 0.5),
    (1.0, 4.0),
)  # sigmas of two pairs of Gaussians; detail is the difference of a pair
STAINED_DENSITY = 0.15  # a pixel is stained if the channel that absorbs most exceeds this density
DARKEST = 90.0  # percentile; the tenth of pixels that absorbs most is taken for nuclei
MIN_MEASURED_PIXELS = 500
# The palest pixels (percentile) are glass if their density of blue is below MAX_TINT, and their
# summed density below GLASS_SHARE of the median of the field.
PALEST, MAX_TINT, GLASS_SHARE = 1.0, 0.6, 0.6


def usable_pixels(pixels: np.ndarray) -> np.ndarray:
    """(h, w) bool: pixels of (h, w, 3) uint8 that are neither dirt nor holes."""
    return (highest(pixels) > NEAR_BLACK) & (lowest(pixels) < NEAR_WHITE)


SPOT_UM = 1.25  # sigma of the Gaussian that averages a spot
AROUND_UM = 17.0  # side of the square that a spot is compared with
APART_UM = (
    2.5  # half the side of the square in which a spot absorbs red most; eosin hardly absorbs red
)
MIN_ADDED = 0.08  # minimum density of red that a spot adds to the tissue around it
# minimum density of blue that a brown spot adds; dust and compression of pale pictures add less
MIN_BLUE = 0.2
# minimum ratio of red to green in what a brown spot adds, and in brown areas; blood has less
MIN_RED = 0.3
# docs/guide/confidence.md states how often H&E and immunohistochemistry are recognised.
# minimum number of brown spots, or of cells with brown around a spot, and their share of all
MIN_SPOTS, MIN_SHARE = 5, 0.025
CELL_UM = 8.0  # distance from a spot within which tissue belongs to its cell
# minimum brown share of the tissue within a distance (um) of the spot of a brown cell
MIN_AROUND, AROUND_SPOT_UM = 0.1, 6.0
# minimum ratio of the brown share of cells to that of the tissue between them
MIN_RATIO = 3.0
# minimum share of strong brown in cells, as in cytoplasm, and its ratio to that between them
MIN_STRONG, MIN_STRONG_RATIO = 0.01, 1.25
MIN_BETWEEN = 0.05  # minimum share of tissue between cells, with which cells are compared
# The share of pink in stained tissue from which eosin is present: mixtures of haematoxylin and DAB
# are not pink. Pink absorbs green most, by these ratios.
MAX_PINK, PINK_TO_RED, PINK_TO_BLUE, PINK_DENSITY = 0.01, 1.5, 1.15, 0.2
# side of the averaged blocks in which brown and pink are looked for, since the scanner may colour
# single pixels; grains of pigment are hardly larger
BLOCK_PX = 2


class BrownSample:
    """Sums up fields of tissue to decide whether they show immunohistochemistry, by brown (DAB) in
    or around nuclei.

    The colour of a nucleus alone does not separate the stains: with blood, much eosin or a yellow
    tint, nuclei of H&E absorb as much blue as nuclei with DAB over haematoxylin. What differs is
    what a nucleus adds to the tissue around it: haematoxylin absorbs blue least, and more red than
    the pink around it; DAB absorbs blue most, and less red than the pale blue around it. In H&E,
    brown is pigment, ink or collagen: there is eosin too, or the brown lies between the cells.
    """

    def __init__(self) -> None:
        self._n_spots = self._n_brown_spots = self._n_brown_cells = 0
        # numbers of stained blocks in cells and between them: all, strong brown, brown, pink
        self._n_blocks = np.zeros((2, 4), int)

    def add(self, pixels: np.ndarray, usable: np.ndarray, mpp: float) -> None:
        """Add a field (h, w, 3) uint8 of which the part ``usable`` (h, w) bool counts."""
        if not usable.any():
            return
        spots, brown_spots = find_spots(pixels, usable, mpp)
        self._n_spots += np.count_nonzero(spots)
        self._n_brown_spots += np.count_nonzero(brown_spots)
        density, stained = _average_blocks(pixels, usable)
        red, green, blue = np.moveaxis(density, -1, 0)
        brown = (blue > MIN_BLUE) & (blue > green) & (blue > red)
        pink = (green > PINK_DENSITY) & (green > PINK_TO_RED * red) & (green > PINK_TO_BLUE * blue)
        kinds = np.ones_like(stained), is_brown(density), brown, pink
        row, column = (
            np.minimum(at // BLOCK_PX, n - 1)
            for at, n in zip(np.nonzero(spots), stained.shape, strict=True)
        )
        block_um = BLOCK_PX * mpp
        around = _disc(AROUND_SPOT_UM / block_um).astype(np.float32)
        share = cv2.filter2D(brown.astype(np.float32), -1, around / around.sum())
        self._n_brown_cells += np.count_nonzero(share[row, column] > MIN_AROUND)
        cells = np.zeros_like(stained, np.uint8)
        cells[row, column] = 1
        cells = cv2.dilate(cells, _disc(CELL_UM / block_um)) > 0
        self._n_blocks += [
            [np.count_nonzero(kind & stained & there) for kind in kinds]
            for there in (cells, ~cells)
        ]

    @property
    def area_share(self) -> float | None:
        """Brown share of the stained area; None if nothing is stained."""
        n, n_brown, *_ = self._n_blocks.sum(0)
        return n_brown / n if n else None

    @property
    def has_eosin(self) -> bool:
        """True if the fields are pink, as mixtures of haematoxylin and DAB are not."""
        n, *_, n_pink = self._n_blocks.sum(0)
        return bool(n_pink > MAX_PINK * n)

    @property
    def is_ihc(self) -> bool:
        """True if the fields show immunohistochemistry."""
        n = self._n_blocks[:, 0].sum()
        if not n or self.has_eosin:
            return False
        (n_in, *of_cells, _), (n_between, *between, _) = self._n_blocks.tolist()
        strong, brown = (part / max(n_in, 1) for part in of_cells)
        # where cells are crowded, the few blocks between them prove little
        strong_between, brown_between = (part / max(n_between, MIN_BETWEEN * n) for part in between)
        least = max(MIN_SPOTS, MIN_SHARE * self._n_spots)
        if self._n_brown_spots >= max(least, brown_between * self._n_spots):
            return True
        stands_out = n_between >= MIN_BETWEEN * n and brown >= MIN_RATIO * brown_between
        is_strong = strong >= max(MIN_STRONG, MIN_STRONG_RATIO * strong_between)
        return bool(self._n_brown_cells >= least and (stands_out or is_strong))


def _average_blocks(pixels: np.ndarray, usable: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Densities (h', w', 3) of a field averaged in blocks, without a tint, and which blocks are
    stained tissue (h', w') bool.
    """
    size = max(1, pixels.shape[1] // BLOCK_PX), max(1, pixels.shape[0] // BLOCK_PX)
    density = optical_density(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))
    inside = cv2.resize(usable.view(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    if inside.any():
        density[inside] = _without_tint(density[inside])
    return density, inside & (highest(density) > STAINED_DENSITY)


def _disc(radius_px: float) -> np.ndarray:
    side = 2 * round(radius_px) + 1
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))


def find_spots(pixels: np.ndarray, usable: np.ndarray, mpp: float) -> tuple[np.ndarray, np.ndarray]:
    """The centres of dark spots of the size of nuclei, and of the brown ones among them, in a field
    (h, w, 3) uint8: two masks (h, w) bool.

    Only spots whose centres are ``usable`` (h, w) bool are found.
    """
    density = cv2.LUT(np.ascontiguousarray(pixels), DENSITY)
    side, reach = (2 * max(round(um / mpp), 1) + 1 for um in (AROUND_UM / 2, APART_UM))
    spot, around = cv2.GaussianBlur(density, (0, 0), SPOT_UM / mpp), cv2.blur(density, (side, side))
    red = np.ascontiguousarray(spot[..., 0])
    is_spot = (
        (red == cv2.dilate(red, np.ones((reach, reach), np.uint8)))
        & (red - around[..., 0] > MIN_ADDED)
        & usable
    )
    spot, around = spot[is_spot], around[is_spot]
    red, green, blue = (spot - around).T
    is_brown = (blue > MIN_BLUE) & (blue > green) & (spot[:, 2] > spot[:, 0])
    # a brown spot has a lower ratio of red to green than its surroundings
    is_brown &= (red > MIN_RED * green) & (red * around[:, 1] < around[:, 0] * green)
    brown_spots = np.zeros_like(is_spot)
    brown_spots[is_spot] = is_brown
    return is_spot, brown_spots


class AppearanceSample:
    """Collects fields of tissue at ``mpp`` um per pixel and measures them."""

    def __init__(self, mpp: float):
        self.mpp = mpp
        self._sharpness: list[float] = []
        self._contrast: list[float] = []
        self._pixels = [np.empty((0, 3), np.uint8)]
        self.brown = BrownSample()

    def add(self, pixels: np.ndarray, tissue: np.ndarray) -> None:
        """Add a field, (h, w, 3) uint8, of which only the part in ``tissue`` (h, w) bool counts."""
        usable = tissue & usable_pixels(pixels)
        self._pixels.append(pixels[usable])
        self.brown.add(pixels, usable, self.mpp)
        if usable.mean() >= MIN_TISSUE:
            fine, contrast = _detail(pixels, usable, self.mpp)
            self._contrast.append(contrast)
            if contrast > MIN_CONTRAST:
                self._sharpness.append(fine / contrast)

    @property
    def pixels(self) -> np.ndarray:
        """(N, 3) uint8: the usable tissue pixels of all fields."""
        return np.concatenate(self._pixels)

    def measure(self) -> tuple[MacenkoFit | None, dict[str, float]]:
        """Macenko's fit of the stains, None if it fails, and the measures by name; those that
        cannot be determined are left out.
        """
        density = optical_density(self.pixels)
        stained = density.compress(is_stained(density), axis=0)
        n_stained, fit = len(stained), fit_density(stained)
        del stained
        measures: dict[str, float] = {}
        for name, values in (("sharpness", self._sharpness), ("contrast", self._contrast)):
            if values:
                measures[name] = float(np.log(max(np.median(values), 1e-3)))
        if self.brown.area_share is not None:
            measures["brown"] = self.brown.area_share
        measures |= _colours(density, n_stained)
        if fit is not None:
            for name, stain, strong in zip(
                ("haematoxylin", "eosin"), fit.stains, fit.strong, strict=True
            ):
                measures |= {
                    f"{name} red": stain[0],
                    f"{name} blue": stain[2],
                    f"{name} strength": np.log(strong),
                }
        # rounded, so that results do not depend on the order of summation
        return fit, {name: round(float(value), 4) for name, value in sorted(measures.items())}


def _without_tint(density: np.ndarray) -> np.ndarray:
    """Subtract the density of the glass from densities (N, 3) of a field if the camera or the lamp
    made it yellow.
    """
    total = density.sum(1)
    tint = np.median(density[total <= np.percentile(total, PALEST)], axis=0)
    is_yellow_glass = tint[1] < tint[2] < MAX_TINT and tint.sum() < GLASS_SHARE * np.median(total)
    return np.maximum(density - tint, 0) if is_yellow_glass else density


def measure_picture(pixels: np.ndarray, mpp: float) -> dict[str, float]:
    """Measure a picture (h, w, 3) uint8 that shows only tissue, in the same way as slides."""
    factor = max(round(SAMPLE_UM / mpp), 1)
    if factor > 1:
        size = max(pixels.shape[1] // factor, 1), max(pixels.shape[0] // factor, 1)
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    sample = AppearanceSample(mpp * factor)
    for field in cut_fields(pixels, sample.mpp):
        sample.add(np.ascontiguousarray(field), np.ones(field.shape[:2], bool))
    return sample.measure()[1]


def cut_fields(pixels: np.ndarray, mpp: float) -> Iterator[np.ndarray]:
    """Cut a picture (h, w, 3) into fields of 128 um; a remainder of less than half a field is left
    out.
    """
    side = round(FIELD_UM / mpp)
    height, width = pixels.shape[:2]
    for top in range(0, max(height - side // 2, 1), side):
        for left in range(0, max(width - side // 2, 1), side):
            yield pixels[top : top + side, left : left + side]


def _colours(density: np.ndarray, n_possible: int) -> dict[str, float]:
    """Log ratios and sums of channel densities in stained pixels and their darkest tenth, and share
    of foreign hues, if ``n_possible`` pixels can be mixtures of haematoxylin and eosin.
    """
    # compressing rows takes a quarter of the time of a mask, and adding columns a tenth of that of
    # ``sum``
    stained = density.compress(highest(density) > STAINED_DENSITY, axis=0)
    if len(stained) < MIN_MEASURED_PIXELS:
        return {}
    total = stained[:, 0] + stained[:, 1] + stained[:, 2]
    is_dark = total >= np.percentile(total, DARKEST)
    measures = {}
    for name, part, sums in (
        ("tissue", stained, total),
        ("nuclei", stained[is_dark], total[is_dark]),
    ):
        red, green, blue = np.log(np.maximum(part.mean(0), 1e-3))
        strength = np.log(sums.mean())
        measures |= {
            f"{name} red": red - green,
            f"{name} blue": blue - green,
            f"{name} density": strength,
        }
    size = np.sqrt(np.einsum("ij,ij->i", stained, stained))
    n_certain = np.count_nonzero(size > MIN_DENSITY)  # the directions of paler colours are noise
    if n_certain >= MIN_MEASURED_PIXELS:
        measures["foreign"] = 1 - n_possible / n_certain
    return measures


def _detail(pixels: np.ndarray, usable: np.ndarray, mpp: float) -> tuple[float, float]:
    """Standard deviations, in grey levels, of detail between 0.25 and 0.5 um and between 1 and 4
    um.
    """
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)
    blurred = (cv2.GaussianBlur(grey, (0, 0), sigma / mpp) for sigma in (*FINE_UM, *COARSE_UM))
    finest, fine, middle, coarse = blurred
    return float((finest - fine)[usable].std()), float((middle - coarse)[usable].std())


SEED = 0
MAX_PIXELS = 1_000_000


@dataclass(frozen=True, eq=False)
class SlideColour:
    """Stains and appearance of a slide: the content of ``colour.json``."""

    macenko: MacenkoFit | None = None  # the stains, or None if they cannot be estimated
    appearance: dict[str, float] | None = (
        None  # measures by name (``AppearanceSample.measure``); None in older files
    )
    dark_background: bool = (
        False  # True if the slide is a fluorescence image instead of bright-field
    )
    n_pixels: int = 0  # number of measured tissue pixels
    mpp: float = SAMPLE_UM  # um per pixel of the measured pixels
    warnings: tuple[str, ...] = ()  # sentences for the report
    fingerprint: str | None = None  # checksum of the slide; None in older files
    third_stain: tuple[float, ...] | None = (
        None  # unit vector of a stain besides haematoxylin and DAB, if found
    )
    is_ihc: bool = False  # True if the tissue has the brown of immunohistochemistry
    has_eosin: bool = False  # True if the tissue is pink as with eosin; False in older files

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary."""
        fit = self.macenko
        values = {
            name: value for name, value in vars(self).items() if name != "third_stain" or value
        }
        return values | {
            "macenko": fit and {"stains": fit.stains.tolist(), "strong": fit.strong.tolist()},
            "warnings": list(self.warnings),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SlideColour:
        """The inverse of ``to_dict``; values missing in an older file take their defaults."""
        fit = values["macenko"]
        fit = fit and MacenkoFit(np.array(fit["stains"], float), np.array(fit["strong"], float))
        return cls(**{**values, "macenko": fit, "warnings": tuple(values.get("warnings", ()))})


def measure_colour(
    slide: Slide,
    info: SlideInfo,
    tissue: TissueMask,
    dark_background: bool = False,
    warnings: Sequence[str] = (),
    third_stain: bool = False,
) -> SlideColour:
    """Fit the stains over the tissue of a slide and measure its appearance.

    For ``dark_background``, see ``find.is_fluorescence``. The ``warnings`` from the search for
    tissue come first in the result. With ``third_stain``, a stain besides haematoxylin and DAB is
    looked for.
    """
    sample, unread = sample_tissue(slide, info, tissue)
    warnings = [*warnings, *unread]
    pixels = sample.pixels
    fit, measures = sample.measure()
    if fit is None and not tissue.is_empty:
        few = len(pixels) < MIN_PIXELS
        reason = (
            "too few stained pixels"
            if few
            else "the colours are not those of haematoxylin and eosin"
        )
        warnings.append(f"the stains cannot be estimated: {reason}; colours are left as they are")
    # rounded, so that results do not depend on the order of summation
    rounded = fit and MacenkoFit(fit.stains.round(6), fit.strong.round(6))
    third = find_third_stain(pixels) if third_stain else None
    if third_stain and third is None and not tissue.is_empty:
        warnings.append(NOT_FOUND)
    return SlideColour(
        rounded,
        measures,
        dark_background,
        len(pixels),
        round(sample.mpp, 6),
        tuple(warnings),
        info.fingerprint,
        third,
        sample.brown.is_ihc,
        sample.brown.has_eosin,
    )


def sample_tissue(
    slide: Slide, info: SlideInfo, tissue: TissueMask
) -> tuple[AppearanceSample, list[str]]:
    """Read up to about 1 MP of tissue at about 0.5 um per pixel in random fields; return the sample
    and warnings.
    """
    level, factors = choose_overview_level(info, SAMPLE_UM)
    mpp = np.multiply(info.mpp, info.level_downsamples[level]) * factors
    fields, slide = choose_fields(tissue, mpp), tissue.scanned(slide, info)
    sample, n_failed = AppearanceSample(float(mpp.mean())), 0
    for field in fields:
        try:
            sample.add(*_read_field(slide, info, tissue, level, factors, field))
        except SlideError:
            n_failed += 1
    warnings = (
        [f"{n_failed} of {len(fields)} fields for the stains cannot be decoded"] if n_failed else []
    )
    return sample, warnings


def choose_fields(tissue: TissueMask, mpp: np.ndarray) -> np.ndarray:
    """Corners (N, 2), in um, of fields of 128 um that touch tissue; a random subset if tissue
    exceeds 1 MP.
    """
    n_rows, n_columns = tissue.mask.shape
    mpp_x, mpp_y = tissue.mask_mpp
    column, row = (
        (np.arange(n) * um // FIELD_UM).astype(int)
        for n, um in ((n_columns, mpp_x), (n_rows, mpp_y))
    )
    touched = np.zeros((column[-1] + 1, row[-1] + 1), bool)
    for strip in strips(n_rows):
        rows, columns = np.nonzero(tissue.mask[strip])
        touched[column[columns], row[strip][rows]] = True
    fields = np.argwhere(touched)
    n_pixels = int(tissue.mask.sum()) * np.prod(tissue.mask_mpp) / np.prod(mpp)
    n_fields = int(np.ceil(len(fields) * min(1.0, MAX_PIXELS / max(n_pixels, 1))))
    drawn = np.random.default_rng(SEED).permutation(len(fields))[:n_fields]
    return fields[np.sort(drawn)] * FIELD_UM


def _read_field(
    slide: Slide, info: SlideInfo, tissue: TissueMask, level: int, factors, corner_um
) -> tuple[np.ndarray, np.ndarray]:
    """Read the field at ``corner_um``, averaged over ``factors`` (x, y) pixels: (h, w, 3) uint8,
    and its tissue.
    """
    downsample = np.array(info.level_downsamples[level])
    level_mpp = info.mpp * downsample
    first = np.round(corner_um / level_mpp).astype(int)
    n = (
        np.minimum(np.ceil(FIELD_UM / level_mpp), info.level_sizes_px[level] - first).astype(int)
        // factors
    )
    if n.min() < 1:
        return np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1), bool)
    x, y = (round(float(at)) for at in first * downsample)
    pixels = slide.read_region((x, y), level, (int(n[0] * factors[0]), int(n[1] * factors[1])))
    pixels = cv2.resize(pixels, (int(n[0]), int(n[1])), interpolation=cv2.INTER_AREA)
    # The mask comes from a coarser level, which may end a few pixels before a finer level does.
    column, row = (
        ((first[i] + (np.arange(n[i]) + 0.5) * factors[i]) * level_mpp[i] / tissue.mask_mpp[i])
        .astype(int)
        .clip(max=last)
        for i, last in enumerate((tissue.mask.shape[1] - 1, tissue.mask.shape[0] - 1))
    )
    return pixels, tissue.mask[row[:, None], column]

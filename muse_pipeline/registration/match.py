"""Measure, tile by tile, how far a registered partner is still from its slide.

Tiles are compared by the optical density of their nuclei, which both stains show.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy import ndarray

from muse_pipeline.core.process import map_in_order
from muse_pipeline.registration.transform import Transform
from muse_pipeline.slides.base import WHITE
from muse_pipeline.store.resample import AreaReader
from muse_pipeline.tissue.stain import DENSITY

# the correlation of a tile's best position must exceed that of all other positions by this
CLEAR = 0.1
MIN_CORRELATION = 0.2
OTHER_POSITION_UM = 8.0  # positions farther than this from the best one count as other positions
FLAT = 0.02  # standard deviation of optical density; a tile that varies less shows no nuclei
COVERED = 0.25  # minimum share of tissue in a tile that is used for a fit
MIN_SEEN = 0.8  # minimum share of a tile, as far as it lies on the slide, that lies on the partner


class SlidePicture:
    """A slide at one resolution, held in memory."""

    def __init__(self, pixels: ndarray, mpp: ndarray):
        self._pixels, self.mpp = pixels, np.asarray(mpp)
        self.size_px = pixels.shape[1], pixels.shape[0]

    @property
    def size_um(self) -> ndarray:
        """(width, height) in um."""
        return self.size_px * self.mpp

    def read(self, xy: tuple[int, int], size: tuple[int, int]) -> ndarray:
        """A rectangle of the picture, (h, w, 3) uint8, which must not extend beyond it."""
        return self._pixels[xy[1] : xy[1] + size[1], xy[0] : xy[0] + size[0]]

    def shrunk(self, target_um: float) -> SlidePicture:
        """The picture with pixels of about ``target_um``."""
        size = np.maximum(np.round(self.size_um / target_um), 1).astype(int)
        pixels = cv2.resize(self._pixels, size.tolist(), interpolation=cv2.INTER_AREA)
        return SlidePicture(pixels, self.size_um / size)


PixelReader = AreaReader | SlidePicture  # readers of a slide at one resolution


def grid_um(corner_um: ndarray, step_um: float, size: tuple[int, int]) -> ndarray:
    """(h, w, 2) float64: centres, in um, of a grid of (width, height) = ``size`` pixels of side
    ``step_um``.
    """
    x, y = (
        start + (np.arange(n) + 0.5) * step_um for start, n in zip(corner_um, size, strict=True)
    )
    return np.stack(np.meshgrid(x, y), -1)


def sample(reader: PixelReader, um: ndarray, interpolation: int = cv2.INTER_LINEAR) -> ndarray:
    """Colours (h, w, 3) uint8 at positions (h, w, 2) in um from the corner of level 0; white beyond
    the slide.
    """
    at = um / reader.mpp
    # Cubic interpolation reads two pixels on either side of a position.
    low = np.maximum(np.floor(at.min((0, 1))).astype(int) - 2, 0)
    high = np.minimum(np.ceil(at.max((0, 1))).astype(int) + 3, reader.size_px)
    if (high <= low).any():
        return np.full((*um.shape[:2], 3), WHITE, np.uint8)
    pixels = reader.read(tuple(low.tolist()), tuple((high - low).tolist()))
    column, row = np.moveaxis((at - 0.5 - low).astype(np.float32), -1, 0)
    border = {"borderMode": cv2.BORDER_CONSTANT, "borderValue": (WHITE,) * 3}
    return cv2.remap(pixels, column, row, interpolation, **border)


def nuclear_density(pixels: ndarray) -> ndarray:
    """Optical density of red, (h, w) float32; haematoxylin and brown DAB absorb red, but eosin
    hardly does.
    """
    return DENSITY[pixels[..., 0]]


@dataclass(eq=False)
class WarpedReader:
    """A partner, read at about ``mpp``, as an image of ``size_px`` in the frame of its slide."""

    partner: PixelReader
    transform: Transform
    size_px: tuple[int, int]
    mpp: float

    def read(self, xy: tuple[int, int], size: tuple[int, int]) -> ndarray:
        """(h, w, 3) uint8: ``size`` = (width, height) pixels from corner ``xy``; white beyond the
        partner.
        """
        um = self.transform.to_partner(grid_um(np.multiply(xy, self.mpp), self.mpp, size))
        return sample(self.partner, um, cv2.INTER_CUBIC)


@dataclass(frozen=True)
class Power:
    """Resolution and size of the tiles that are compared."""

    um: float  # um per pixel
    tile_um: float  # side of a tile
    # a tile is searched for up to this distance in x and y from its expected position
    reach_um: float

    @property
    def tile_px(self) -> int:
        """Side of a tile in pixels."""
        return round(self.tile_um / self.um)

    @property
    def reach_px(self) -> int:
        """``reach_um`` in pixels."""
        return round(self.reach_um / self.um)


@dataclass(frozen=True, eq=False)
class TileMatches:
    """Measurements of N tiles."""

    centre_um: ndarray  # (N, 2) centres on the slide
    # (N, 2) correction on the slide: the transform maps ``centre_um`` + ``shift_um`` to the match
    shift_um: ndarray
    # (N,) bool, True if the tile lies on the partner, which is not uniform there
    is_seen: ndarray
    # (N,) bool, True if the best position is much better than all other positions
    is_clear: ndarray
    # (N,) bool, True if the tile correlates with the partner at its expected position, or is
    # uniform
    is_alike: ndarray

    def partner_um(self, transform: Transform) -> ndarray:
        """(N, 2) positions on the partner that match the tiles' centres; ``transform`` as given to
        ``match_tiles``.
        """
        return transform.to_partner(self.centre_um + self.shift_um)


def match_tiles(
    slide: PixelReader,
    partner: PixelReader,
    transform: Transform,
    centre_um: ndarray,
    power: Power,
    threads: int = 1,
) -> TileMatches:
    """Find the tiles around ``centre_um`` (N, 2) on the partner, near the positions that
    ``transform`` predicts.
    """

    def match(centre: ndarray) -> TileMatch:
        return _match_tile(slide, partner, transform, centre, power)

    tiles = list(map_in_order(match, centre_um, threads))
    columns = [np.array([getattr(tile, name) for tile in tiles]) for name in TileMatch._fields]
    return TileMatches(
        np.asarray(centre_um).reshape(-1, 2), columns[0].reshape(-1, 2), *columns[1:]
    )


class TileMatch(NamedTuple):
    """One tile of ``TileMatches``."""

    shift_um: ndarray
    is_seen: bool
    is_clear: bool
    is_alike: bool


UNSEEN = TileMatch(np.zeros(2), False, False, False)
EVEN = TileMatch(np.zeros(2), True, False, True)


def _match_tile(
    slide: PixelReader, partner: PixelReader, transform: Transform, centre: ndarray, power: Power
) -> TileMatch:
    side, reach = power.tile_px, power.reach_px
    corner = centre - side * power.um / 2
    # Only the part of the tile that lies on the slide is compared.
    on_slide = np.round((np.asarray(slide.size_px) * slide.mpp - corner) / power.um).astype(int)
    width, height = on_slide.clip(1, side).tolist()
    inner = grid_um(corner, power.um, (width, height))
    outer = grid_um(corner - reach * power.um, power.um, (width + 2 * reach, height + 2 * reach))
    on_partner = transform.to_partner(outer)
    is_on = ((on_partner >= 0) & (on_partner < np.asarray(partner.size_px) * partner.mpp)).all(-1)
    if is_on[reach : reach + height, reach : reach + width].mean() < MIN_SEEN:
        return UNSEEN
    tile = nuclear_density(sample(slide, inner))
    around = nuclear_density(sample(partner, on_partner))
    if around.std() < FLAT:
        return UNSEEN
    if tile.std() < FLAT:
        return EVEN
    score = cv2.matchTemplate(around, tile, cv2.TM_CCOEFF_NORMED)
    position = np.array(np.unravel_index(score.argmax(), score.shape))
    best = float(score[tuple(position)])
    near = round(OTHER_POSITION_UM / power.um) + 1
    others = score.copy()
    others[tuple(slice(max(at - near, 0), at + near + 1) for at in position)] = -1
    # The score may rise further beyond the edge of the search.
    at_edge = (position == 0).any() or (position == 2 * reach).any()
    clear = not at_edge and best >= MIN_CORRELATION and best - float(others.max()) >= CLEAR
    shift = (position + _subpixel(score, position) - reach)[::-1] * power.um
    return TileMatch(shift, True, bool(clear), bool(score[reach, reach] >= MIN_CORRELATION))


def _subpixel(score: ndarray, position: ndarray) -> ndarray:
    """Subpixel offset (row, column) of the best score, from parabolas through it and its
    neighbours.
    """
    offset = np.zeros(2)
    for axis in range(2):
        before, after = (position.copy() for _ in range(2))
        before[axis], after[axis] = before[axis] - 1, after[axis] + 1
        if before[axis] < 0 or after[axis] >= score.shape[axis]:
            continue
        low, middle, high = (float(score[tuple(at)]) for at in (before, position, after))
        curvature = low - 2 * middle + high
        if curvature < 0:
            offset[axis] = np.clip((low - high) / (2 * curvature), -0.5, 0.5)
    return offset


def lattice(mask: ndarray, mask_mpp: ndarray, side_um: float, least: int, most: int) -> ndarray:
    """Centres (N, 2) in um of tiles of ``side_um`` with at least ``COVERED`` tissue.

    Tiles lie side by side from the slide's corner. If there are more than ``most``, they are spaced
    out; if there are fewer than ``least``, they overlap, with steps of at least a quarter of their
    side.
    """
    step_um = side_um
    centre = tiles_on_tissue(mask, mask_mpp, side_um, side_um, COVERED)
    while len(centre) < least and step_um > side_um / 4:
        step_um /= 2
        centre = tiles_on_tissue(mask, mask_mpp, side_um, step_um, COVERED)
    while len(centre) > most:
        step_um *= 1.02 * np.sqrt(len(centre) / most)
        centre = tiles_on_tissue(mask, mask_mpp, side_um, step_um, COVERED)
    return centre


def tiles_on_tissue(
    mask: ndarray, mask_mpp: ndarray, side_um: float, step_um: float, covered: float
) -> ndarray:
    """Centres (N, 2) in um of tiles ``step_um`` apart; tissue covers at least the share ``covered``
    of each.
    """
    total = cv2.integral(np.ascontiguousarray(mask).view(np.uint8))
    extent_um = np.array(mask.shape[::-1]) * mask_mpp
    axes = [np.arange(0, max(end - side_um / 2, 1), step_um) + side_um / 2 for end in extent_um]
    centre = np.stack(np.meshgrid(*axes), -1).reshape(-1, 2)
    ends = [(centre + sign * side_um / 2) / mask_mpp for sign in (-1, 1)]
    (left, top), (right, bottom) = (
        np.round(end).astype(int).clip(0, mask.shape[::-1]).T for end in ends
    )
    n_tissue = total[bottom, right] - total[top, right] - total[bottom, left] + total[top, left]
    return centre[n_tissue >= max(covered * side_um**2 / np.prod(mask_mpp), 1)]

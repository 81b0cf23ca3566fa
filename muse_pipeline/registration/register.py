"""Register a partner: search, refine, and check every tile of the result."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

# loads its modules at first use, because loading takes longer than processing a small slide
import scipy
from numpy import ndarray

from muse_pipeline.core.errors import MisfitError, MppError, RegistrationError
from muse_pipeline.core.types import Slide, SlideInfo
from muse_pipeline.registration.match import SlidePicture, tiles_on_tissue
from muse_pipeline.registration.placement import (
    MIN_FITTING,
    LowPower,
    Pair,
    Power,
    choose_placement,
    find_placements,
    refine,
)
from muse_pipeline.registration.transform import Transform
from muse_pipeline.slides.inspect import inspect_slide
from muse_pipeline.tissue.find import find_tissue

LIMIT_UM = 5.0  # the radius of a nucleus
MIN_COVERED = 0.02  # minimum share of tissue in a tile that is measured
# minimum share of the tiles on the partner that are kept; below it, the partner does not fit
MIN_KEPT = 0.1
LEAST_NEIGHBOURS = 3
KEPT, ABOVE_LIMIT, NO_MATCH, OUTSIDE = "kept", "above limit", "no match", "outside"


@dataclass(frozen=True, eq=False)
class TileResiduals:
    """The quality of registration in each of N tiles of a slide."""

    side_um: float  # side of a tile; tiles lie side by side from the corner of level 0
    centre_um: ndarray  # (N, 2) centres on the slide
    # (N,) distance between slide and partner that remains; NaN if it is unknown
    residual_um: ndarray
    # (N,) bool, True if the residual was measured in the tile itself. A tile that only correlates
    # with the partner has the largest residual of its neighbours
    is_measured: ndarray
    # (N,) bool, True if the tile lies on the partner, which is not uniform there
    is_seen: ndarray
    limit_um: float  # largest residual of a tile that is kept

    @property
    def is_kept(self) -> ndarray:
        """(N,) bool: True if the residual is known and within the limit."""
        return self.residual_um <= self.limit_um

    @property
    def status(self) -> ndarray:
        """(N,) one of ``KEPT``, ``ABOVE_LIMIT``, ``NO_MATCH`` and ``OUTSIDE`` for each tile."""
        has_residual = ~np.isnan(self.residual_um)
        return np.select(
            [self.is_kept, has_residual, self.is_seen], [KEPT, ABOVE_LIMIT, NO_MATCH], OUTSIDE
        )

    def kept_grid(self, size_um: ndarray) -> ndarray:
        """(rows, columns) bool over a slide of ``size_um``: True for tiles that are kept."""
        # A rest of less than half a tile belongs to the last tile.
        columns, rows = np.ceil(size_um / self.side_um - 0.5).astype(int).clip(1)
        kept = np.zeros((rows, columns), bool)
        column, row = (self.centre_um[self.is_kept] // self.side_um).astype(int).T
        kept[row, column] = True
        return kept


@dataclass(frozen=True, eq=False)
class Registration:
    """The result of a registration."""

    slide: SlideInfo  # the H&E slide
    partner: SlideInfo  # its partner
    transform: Transform  # the best transform
    power: Power  # power at which tiles were compared
    tiles: TileResiduals  # residuals of ``transform``


def register_partner(
    pair: Pair, start: Transform | None = None, limit_um: float = LIMIT_UM
) -> Registration:
    """Find the transform from slide to partner, beginning with ``start`` or, if it is None, with a
    search.

    Tiles with residuals up to ``limit_um`` are kept.
    """
    starts = [start] if start else find_placements(pair.low, pair.partner_low, pair.threads)
    placed, part = choose_placement(pair, starts)
    if part < MIN_FITTING:
        raise MisfitError(_misfit(pair, start, part))
    transform, power = refine(pair, placed)
    tiles = measure_tiles(pair, transform, power, limit_um)
    if tiles.is_kept.sum() < MIN_KEPT * max(tiles.is_seen.sum(), 1):
        raise MisfitError(
            f"{pair.partner_info.path}: {tiles.is_kept.sum()} of {tiles.is_seen.sum()} tiles lie"
            f" within {limit_um:g} um of slide '{pair.info.slide_id}', and {MIN_KEPT:.0%} are"
            " needed; it may show a different section, or be bent"
        )
    return Registration(pair.info, pair.partner_info, transform, power, tiles)


def open_pair(
    slide: Slide, info: SlideInfo, partner: Slide, partner_info: SlideInfo, threads: int = 1
) -> Pair:
    """Find the tissue of a slide and its partner and return them as a ``Pair``."""
    cv2.setNumThreads(1)
    low = _low_power(slide, info)
    return Pair(slide, info, low, partner, partner_info, _low_power(partner, partner_info), threads)


def inspect_for_pair(path: Path, slide_id: str, mpp: float | None, advice: str) -> SlideInfo:
    """The facts about a file of a pair, as from ``inspect_slide``; ``mpp`` overrides the file.

    ``advice`` ends the error about an um per pixel that is unknown or impossible.
    """
    try:
        return inspect_slide(path, slide_id, mpp)
    except MppError as error:
        raise MppError(f"{str(error).rpartition('; ')[0]}; {advice}") from error


def measure_tiles(pair: Pair, transform: Transform, power: Power, limit_um: float) -> TileResiduals:
    """Compare every tile of the slide's tissue with the partner."""
    centre = tiles_on_tissue(
        pair.low.mask, pair.low.picture.mpp, power.tile_um, power.tile_um, MIN_COVERED
    )
    matches = pair.match_at(transform, power, centre)
    residual = np.where(matches.is_clear, np.linalg.norm(matches.shift_um, axis=1), np.nan)
    unknown = np.flatnonzero(matches.is_alike & ~matches.is_clear)
    measured = np.flatnonzero(matches.is_clear)
    if len(measured):
        tree = scipy.spatial.cKDTree(centre[measured])
        # A radius of 1.5 sides includes the eight neighbours of a tile; diagonal ones are 1.41
        # sides away.
        for tile, near in zip(
            unknown, tree.query_ball_point(centre[unknown], 1.5 * power.tile_um), strict=True
        ):
            if len(near) >= LEAST_NEIGHBOURS:
                residual[tile] = residual[measured[near]].max()
    return TileResiduals(
        power.tile_um, centre, residual, matches.is_clear, matches.is_seen, limit_um
    )


def _low_power(slide: Slide, info: SlideInfo) -> LowPower:
    search = find_tissue(slide, info)
    if search.tissue.is_empty:
        why = search.warnings[-1] if search.warnings else "no tissue found"
        raise RegistrationError(
            f"{info.path}: {why}, so it cannot be registered; both slides must show dark tissue on"
            " bright background"
        )
    return LowPower(SlidePicture(search.overview.pixels, search.overview.mpp), search.tissue.mask)


def _misfit(pair: Pair, start: Transform | None, part: float) -> str:
    """Name the limits of a registration, beside what the pair has."""
    how = "as given" if start else "at any angle, mirrored or not"
    areas_mm2 = [
        np.prod(low.picture.mpp) * low.mask.sum() / 1e6 for low in (pair.low, pair.partner_low)
    ]
    return (
        f"{pair.partner_info.path}: does not fit slide '{pair.info.slide_id}' {how}: nuclei agree"
        f" in {part:.0%} of the tiles, and {MIN_FITTING:.0%} are needed. Both must show the same"
        f" nuclei and share half of the tissue (the slide has {areas_mm2[0]:.3g} mm2, the partner"
        f" {areas_mm2[1]:.3g}), and the um per pixel (slide {pair.info.mpp[0]:.4g}, partner"
        f" {pair.partner_info.mpp[0]:.4g}) must be right within 6 %"
    )

"""Place a partner on its slide: search at low power, then refine to a fraction of a nucleus.

The search tries all angles and shifts, mirrored and not. It correlates two maps of each slide by
FFT: the tissue, and the density of its nuclear stain. The best of the few placements that it finds
is chosen at finer resolution, and refined to an affine map.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product

import cv2
import numpy as np

# loads its modules at first use, because loading takes longer than processing a small slide
import scipy
from numpy import ndarray

from muse_pipeline.core.process import map_in_order
from muse_pipeline.core.types import Slide, SlideInfo
from muse_pipeline.registration.match import (
    PixelReader,
    Power,
    SlidePicture,
    TileMatches,
    lattice,
    match_tiles,
    nuclear_density,
)
from muse_pipeline.registration.transform import Transform
from muse_pipeline.store.resample import MAX_COARSER, AreaReader

CANVAS_PX = 192  # longer side of a slide in the search, in pixels
FINEST_UM = 8.0  # smallest pixel size of the search
STEP_DEGREES = 3.0
APART_DEGREES = 9.0  # minimum angle between two placements that are refined
SCALES = (0.94, 0.97, 1.0, 1.03, 1.06)  # scales that are tried for the best placements
# weight of glass, less than that of tissue (1), because it is on every slide; unscanned areas weigh
# 0
GLASS = -0.3
N_PLACEMENTS = 6
# at these, overviews are compared
LOW_POWERS = (Power(16.0, 1024.0, 400.0), Power(8.0, 512.0, 160.0))
HIGH_POWERS = (Power(4.0, 320.0, 60.0), Power(2.0, 256.0, 16.0))
MOST_TILES = 300  # largest number of tiles for a fit
LEAST_TILES = 6
FEW_TILES = 60  # number of tiles for the comparison of placements
# minimum share of the tiles on the partner that agree with an affine map; by chance, few do
MIN_FITTING = 0.25
SURE_FITTING = 0.6  # if this share of tiles agrees, no further placements are tried
# tiles within this distance agree with an affine map; mild bends of the section explain the
# distance
AGREE_UM = 40.0


@dataclass(frozen=True)
class LowPower:
    """A slide at low power, for the search."""

    picture: SlidePicture  # picture at about 8 um per pixel
    mask: ndarray  # (h, w) bool mask of its tissue

    def maps(self, um: float) -> tuple[ndarray, ndarray]:
        """Maps of tissue and nuclear stain, (h, w, 2) float32, at about ``um`` per pixel; and their
        exact mpp (2,).
        """
        size = np.maximum(np.round(self.picture.size_um / um), 1).astype(int)
        density = nuclear_density(self.picture.read((0, 0), self.picture.size_px))
        inside = density[self.mask]
        depth = np.where(self.mask, (density - inside.mean()) / max(inside.std(), 1e-6), 0).astype(
            np.float32
        )
        tissue = np.where(self.mask, 1, GLASS).astype(np.float32)
        both = cv2.resize(np.dstack([tissue, depth]), size.tolist(), interpolation=cv2.INTER_AREA)
        # Both maps are given the same energy, so that neither dominates the sum of their
        # correlations.
        both[..., 1] *= np.linalg.norm(both[..., 0]) / max(np.linalg.norm(both[..., 1]), 1e-6)
        return both, self.picture.size_um / size


@dataclass(frozen=True, eq=False)
class Placement:
    """A placement of the partner, found by the search; ``score`` is the cosine similarity of the
    maps.
    """

    degrees: float
    mirrored: bool
    transform: Transform
    score: float


def find_placements(slide: LowPower, partner: LowPower, threads: int) -> list[Transform]:
    """The most likely placements of the partner, best first."""
    search = _Search(slide, partner)
    turns = product(np.arange(-180, 180, STEP_DEGREES), (False, True))
    tried = list(map_in_order(lambda turn: search.correlate(*turn, 1.0), turns, threads))
    chosen = map_in_order(search.refine, islice(_best_apart(tried), N_PLACEMENTS), threads)
    return [
        placement.transform for placement in sorted(chosen, key=lambda placement: -placement.score)
    ]


class _Search:
    """Correlates one slide with one partner that is rotated about its centre."""

    def __init__(self, slide: LowPower, partner: LowPower):
        self.um = max(
            FINEST_UM, *(np.max(low.picture.size_um) / CANVAS_PX for low in (slide, partner))
        )
        fixed, _ = slide.maps(self.um)
        self.moving, self.moving_um = partner.maps(self.um)
        self.half_um = partner.picture.size_um / 2
        # The canvas is large enough for the partner at every angle and scale.
        self.side = int(np.ceil(2 * np.linalg.norm(self.half_um) / self.um * max(SCALES))) + 2
        self.fixed_shape = fixed.shape[:2]
        self.shape = [scipy.fft.next_fast_len(n + self.side, real=True) for n in self.fixed_shape]
        self.spectrum = self.fourier(fixed)
        self.energy = float(np.linalg.norm(fixed) * np.linalg.norm(self.moving))

    def fourier(self, maps: ndarray) -> ndarray:
        """The Fourier transform of maps (h, w, 2), padded so that no shift wraps around."""
        return scipy.fft.rfft2(np.moveaxis(maps, -1, 0), self.shape)

    def refine(self, placement: Placement) -> Placement:
        """The best placement at similar angles and all ``SCALES``."""
        angles = placement.degrees + STEP_DEGREES * np.linspace(-2 / 3, 2 / 3, 5)
        around = [
            self.correlate(angle, placement.mirrored, scale)
            for angle, scale in product(angles, SCALES)
        ]
        return max(around, key=lambda candidate: candidate.score)

    def correlate(self, degrees: float, mirrored: bool, scale: float) -> Placement:
        """The placement with the best shift at an angle and scale."""
        matrix = similarity(degrees, mirrored, scale)
        spectrum = self.spectrum * self.fourier(self.turn(matrix)).conj()
        score = scipy.fft.irfft2(spectrum.sum(0), self.shape)
        at = np.array(np.unravel_index(score.argmax(), score.shape))
        # The Fourier transform is periodic, so that positions beyond the slide stand for negative
        # shifts.
        shift = np.where(at >= self.fixed_shape, at - self.shape, at)[::-1] * self.um
        # The partner's centre lies in the middle of its canvas, whose corner is at ``shift`` on the
        # slide.
        corner_um = self.half_um - matrix @ (shift + self.side * self.um / 2)
        best = float(score[tuple(at)]) / self.energy
        return Placement(
            float(degrees), mirrored, Transform(np.column_stack([matrix, corner_um])), best
        )

    def turn(self, matrix: ndarray) -> ndarray:
        """The partner's maps (side, side, 2), turned about its centre to the orientation of the
        slide.
        """
        to_pixels = matrix * self.um / self.moving_um[:, None]
        first = self.half_um / self.moving_um - 0.5 - to_pixels @ np.full(2, (self.side - 1) / 2)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(
            self.moving, np.column_stack([to_pixels, first]), (self.side, self.side), flags=flags
        )


def similarity(degrees: float, mirrored: bool, scale: float) -> ndarray:
    """(2, 2) matrix that maps vectors on the slide to vectors on the partner."""
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return scale * turn @ np.diag([-1.0 if mirrored else 1.0, 1.0])


def _best_apart(placements: Sequence[Placement]) -> Iterator[Placement]:
    """Yield placements, best first, except those with nearly the same angle as a better one."""
    kept = []
    for placement in sorted(placements, key=lambda candidate: -candidate.score):
        same_side = [other.degrees for other in kept if other.mirrored == placement.mirrored]
        turns = [abs((placement.degrees - degrees + 180) % 360 - 180) for degrees in same_side]
        if min(turns, default=180.0) >= APART_DEGREES:
            kept.append(placement)
            yield placement


@dataclass(frozen=True)
class Pair:
    """A slide and its partner, both open, with their overviews."""

    slide: Slide  # open slide
    info: SlideInfo  # facts about the slide
    low: LowPower  # overview and tissue of the slide
    partner: Slide  # open partner
    partner_info: SlideInfo  # facts about the partner
    partner_low: LowPower  # overview and tissue of the partner
    threads: int = 1  # number of tiles compared at a time

    @property
    def finest_um(self) -> float:
        """Um per pixel of the finest possible comparison."""
        return max(*self.info.mpp, *self.partner_info.mpp) / MAX_COARSER

    def readers(self, um: float) -> tuple[PixelReader, PixelReader]:
        """Readers of both slides at ``um`` per pixel."""
        if um >= LOW_POWERS[-1].um:
            return self.low.picture.shrunk(um), self.partner_low.picture.shrunk(um)
        return AreaReader(self.slide, self.info, um), AreaReader(
            self.partner, self.partner_info, um
        )

    def match(self, transform: Transform, power: Power, most: int = MOST_TILES) -> TileMatches:
        """Compare up to ``most`` tiles that are spread over the tissue."""
        centre_um = lattice(
            self.low.mask, self.low.picture.mpp, power.tile_um, 4 * LEAST_TILES, most
        )
        return self.match_at(transform, power, centre_um)

    def match_at(self, transform: Transform, power: Power, centre_um: ndarray) -> TileMatches:
        """Compare the tiles around ``centre_um`` (N, 2)."""
        return match_tiles(*self.readers(power.um), transform, centre_um, power, self.threads)


def choose_placement(pair: Pair, starts: Sequence[Transform]) -> tuple[Transform, float]:
    """The placement that most tiles agree with, improved at low power, and their share of the tiles
    on the partner.
    """
    best, best_part = starts[0], 0.0
    for start in starts:
        transform, part = place_roughly(pair, start)
        if part >= best_part:
            best, best_part = transform, part
        if part >= SURE_FITTING:
            break
    return best, best_part


def place_roughly(pair: Pair, start: Transform) -> tuple[Transform, float]:
    """A placement improved at low power, and the share of the tiles on the partner that agree with
    it.
    """
    transform, part = start, 0.0
    for power in (*LOW_POWERS, HIGH_POWERS[0]):
        fitted = fit_affine(pair.match(transform, power, FEW_TILES), transform)
        # At low power, too few tiles may match although the placement is right, so only the last
        # power decides.
        if fitted is None and power is HIGH_POWERS[0]:
            return transform, 0.0
        transform, part = fitted or (transform, part)
    return transform, part


def refine(pair: Pair, start: Transform) -> tuple[Transform, Power]:
    """Fit an affine map at increasing power, as long as enough tiles of the two stains match.

    Returns the map, and the finest power at which tiles match, at least the first of
    ``HIGH_POWERS``.
    """
    transform, reached = start, HIGH_POWERS[0]
    for power in HIGH_POWERS:
        if power.um < pair.finest_um:
            break
        matches = pair.match(transform, power)
        fitted = fit_affine(matches, transform)
        if fitted is None or fitted[1] < MIN_FITTING:
            break
        transform, reached = fitted[0], power
    return transform, reached


def fit_affine(matches: TileMatches, measured_with: Transform) -> tuple[Transform, float] | None:
    """The affine map that most tiles agree with, and their share of the tiles on the partner.

    None if fewer than ``LEAST_TILES`` agree, or if the map stretches or shrinks a direction by more
    than a quarter.
    """
    clear = matches.is_clear
    if clear.sum() < LEAST_TILES:
        return None
    source = matches.centre_um[clear]
    target = matches.partner_um(measured_with)[clear]
    # OpenCV uses the same seed in each call, so the result is reproducible.
    matrix, agrees = cv2.estimateAffine2D(
        source,
        target,
        method=cv2.RANSAC,
        ransacReprojThreshold=AGREE_UM,
        maxIters=5000,
        confidence=0.999,
    )
    if matrix is None or agrees.sum() < LEAST_TILES:
        return None
    stretch = np.linalg.svd(matrix[:, :2], compute_uv=False)
    if not (stretch.min() > 0.75 and stretch.max() < 1.33):
        return None
    return Transform(matrix), float(agrees.sum()) / int(matches.is_seen.sum())

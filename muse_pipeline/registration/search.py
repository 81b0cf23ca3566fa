"""Search for the placement of a partner on its glass: every angle, both sides, all shifts, at low power.

Two maps of each slide are correlated by FFT: the tissue and the depth of its nuclear stain. The result is the best few
placements; the right one is chosen at finer resolution.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product

import cv2
import numpy as np
import scipy  # its modules are loaded at the first call: that takes longer than a small slide

from muse_pipeline.core.process import map_in_order
from muse_pipeline.registration.match import Picture, nuclear_density
from muse_pipeline.registration.transform import Transform

CANVAS_PX = 192  # the longer side of a slide at the search's resolution
FINEST_UM = 8.0
STEP_DEGREES = 3.0
APART_DEGREES = 9.0  # between placements that are tried
SCALES = (0.94, 0.97, 1.0, 1.03, 1.06)  # around which the best placements are tried again
GLASS = -0.3  # glass is on every slide, so it counts less than tissue (1); unscanned area is 0
N_PLACEMENTS = 6


@dataclass(frozen=True)
class LowPower:
    """A slide at low power, for the search.

    Attributes:
        picture: picture at about 8 um per pixel.
        mask: (h, w) bool mask of its tissue.
    """

    picture: Picture
    mask: np.ndarray

    def maps(self, um: float) -> tuple[np.ndarray, np.ndarray]:
        """(h, w, 2) float32 of about ``um`` per pixel, tissue and depth of nuclei; and (2,) the exact um per pixel."""
        size = np.maximum(np.round(self.picture.size_um / um), 1).astype(int)
        density = nuclear_density(self.picture.read((0, 0), self.picture.size_px))
        inside = density[self.mask]
        depth = np.where(self.mask, (density - inside.mean()) / max(inside.std(), 1e-6), 0).astype(np.float32)
        tissue = np.where(self.mask, 1, GLASS).astype(np.float32)
        both = cv2.resize(np.dstack([tissue, depth]), size.tolist(), interpolation=cv2.INTER_AREA)
        both[..., 1] *= np.linalg.norm(both[..., 0]) / max(np.linalg.norm(both[..., 1]), 1e-6)
        return both, self.picture.size_um / size


@dataclass(frozen=True, eq=False)
class Placement:
    """A placement of the partner without bend, and its score: the cosine between the maps, at most 1."""

    degrees: float
    mirrored: bool
    transform: Transform
    score: float


def find_placements(slide: LowPower, partner: LowPower, threads: int = 1) -> list[Transform]:
    """The likeliest placements of the partner, the best first."""
    search = _Search(slide, partner)
    turns = product(np.arange(-180, 180, STEP_DEGREES), (False, True))
    tried = list(map_in_order(lambda turn: search.correlate(*turn, 1.0), turns, threads))
    chosen = map_in_order(search.refine, islice(_best_apart(tried), N_PLACEMENTS), threads)
    return [placement.transform for placement in sorted(chosen, key=lambda placement: -placement.score)]


class _Search:
    """Correlates one slide with one partner that is rotated about its centre."""

    def __init__(self, slide: LowPower, partner: LowPower):
        self.um = max(FINEST_UM, *(np.max(each.picture.size_um) / CANVAS_PX for each in (slide, partner)))
        fixed, _ = slide.maps(self.um)
        self.moving, self.moving_um = partner.maps(self.um)
        self.half_um = partner.picture.size_um / 2
        self.side = int(np.ceil(2 * np.linalg.norm(self.half_um) / self.um * max(SCALES))) + 2
        self.fixed_shape = fixed.shape[:2]
        self.shape = [scipy.fft.next_fast_len(n + self.side, real=True) for n in self.fixed_shape]
        self.spectrum = self.fourier(fixed)
        self.energy = float(np.linalg.norm(fixed) * np.linalg.norm(self.moving))

    def fourier(self, maps: np.ndarray) -> np.ndarray:
        """The Fourier transform of maps (h, w, 2), padded so that no shift wraps around."""
        return scipy.fft.rfft2(np.moveaxis(maps, -1, 0), self.shape)

    def refine(self, placement: Placement) -> Placement:
        """The best of nearby angles and scales."""
        angles = placement.degrees + STEP_DEGREES * np.linspace(-2 / 3, 2 / 3, 5)
        around = [self.correlate(angle, placement.mirrored, scale) for angle, scale in product(angles, SCALES)]
        return max(around, key=lambda one: one.score)

    def correlate(self, degrees: float, mirrored: bool, scale: float) -> Placement:
        """The best shift of the partner at one angle and scale."""
        matrix = similarity(degrees, mirrored, scale)
        spectrum = self.spectrum * self.fourier(self.turn(matrix)).conj()
        score = scipy.fft.irfft2(spectrum.sum(0), self.shape)
        at = np.array(np.unravel_index(score.argmax(), score.shape))
        shift = np.where(at >= self.fixed_shape, at - self.shape, at)[::-1] * self.um
        corner_um = self.half_um - matrix @ (shift + self.side * self.um / 2)
        best = float(score[tuple(at)]) / self.energy
        return Placement(float(degrees), mirrored, Transform(np.column_stack([matrix, corner_um])), best)

    def turn(self, matrix: np.ndarray) -> np.ndarray:
        """The partner's maps (side, side, 2) about its centre, rotated to the directions of the slide."""
        to_pixels = matrix * self.um / self.moving_um[:, None]
        first = self.half_um / self.moving_um - 0.5 - to_pixels @ np.full(2, (self.side - 1) / 2)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(self.moving, np.column_stack([to_pixels, first]), (self.side, self.side), flags=flags)


def similarity(degrees: float, mirrored: bool, scale: float) -> np.ndarray:
    """(2, 2) matrix from directions on the slide to those on the partner."""
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return scale * turn @ np.diag([-1.0 if mirrored else 1.0, 1.0])


def _best_apart(placements: Sequence[Placement]) -> Iterator[Placement]:
    """Placements from the best down, without those close in angle to a better one."""
    kept: list[Placement] = []
    for placement in sorted(placements, key=lambda one: -one.score):
        same_side = [other.degrees for other in kept if other.mirrored == placement.mirrored]
        turns = [abs((placement.degrees - degrees + 180) % 360 - 180) for degrees in same_side]
        if min(turns, default=180.0) >= APART_DEGREES:
            kept.append(placement)
            yield placement

"""Synthesis of a mask: nuclei are planned, then drawn as connected instances that are not too
small.

Pictures of masks have the colours of UNITPathSSL's masks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, NamedTuple

import cv2
import numpy as np
from numpy import ndarray
from numpy.random import Generator
from scipy.spatial import cKDTree

from muse_pipeline.core.config import Between, Fraction
from muse_pipeline.core.errors import ArgumentError

# kinds 0 and 1; all nuclei that are not on the rim of a gland are stroma nuclei
KINDS = ("Epithelial", "Stroma")
EPITHELIAL, STROMA = range(2)


@dataclass(frozen=True)
class Population:
    """Sizes and shapes of the nuclei of one kind.

    Attributes:
        major_um: median of the long axis, which is distributed log-normally.
        major_spread: standard deviation of the long axis's logarithm.
        ratio: parameters (alpha, beta) of the Beta distribution of short axis / long axis.
        spindles: fraction of slender nuclei, whose ratio of axes is uniform between 0.13 and 0.25.
    """

    major_um: Annotated[float, Between(1, 100)]
    major_spread: Annotated[float, Between(0, 2)]
    ratio: tuple[float, float]
    spindles: Fraction = 0.05

    def draw_axes(self, n: int, rng: Generator) -> ndarray:
        """Draw the full long and short axes of n nuclei at random: (n, 2) um."""
        major = self.major_um * np.exp(self.major_spread * rng.standard_normal(n))
        slender = rng.random(n) < self.spindles
        ratio = np.where(
            slender,
            rng.uniform(*SPINDLE_RATIO, n),
            rng.beta(*self.ratio, n).clip(SPINDLE_RATIO[1], 1),
        )
        return np.stack([major, ratio * major], 1)

    @property
    def mean_diameter_um(self) -> float:
        """Diameter of a circle with the area of a nucleus that has the median long axis and the
        mean ratio of axes.
        """
        alpha, beta = self.ratio
        return self.major_um * math.sqrt(alpha / (alpha + beta))


SPINDLE_RATIO = (0.13, 0.25)


# The defaults reproduce the statistics of 81 nuclei measured in the example masks of UNITPathSSL's
# framework figure (``experiments/synthetic_masks``; 0.25 um/px is assumed). The authors' generator
# was never published.
@dataclass(frozen=True)
class TissueSettings:
    """Settings of synthesised tissue.

    Attributes:
        epithelial: nuclei side by side on the rims of glands, with long axes across the rim.
        stroma: nuclei between glands, at least 0.8 mean diameters apart, with random angles.
        stroma_per_mm2: nuclei outside glands per mm2.
        sparsest: minimum factor of ``stroma_per_mm2``; each mask gets a factor chosen uniformly
            between this and 1.
        magnification: m; the scale of each mask is chosen log-uniformly between 1 / m and m.
    """

    epithelial: Population = Population(9.6, 0.21, (2.7, 2.2), 0.04)
    stroma: Population = Population(7.8, 0.28, (2.5, 1.5), 0.03)
    stroma_per_mm2: Annotated[float, Between(1, 30_000)] = 3800.0
    sparsest: Annotated[float, Between(0.01, 1)] = 1.0
    magnification: Annotated[float, Between(1, 3)] = 1.0


GLANDS_PER_MM2 = 110.0  # closed curves that are tried; those that cross an earlier one are left out
GLAND_RADIUS_UM = 22.5, 55.0  # range of the mean radius, which is chosen uniformly
GLAND_WOBBLE = 0.15  # standard deviation of the rim's k-th amplitude, in units of mean radius / k
RIM_SPACING = 0.9, 1.3  # range of the distance between neighbours on a rim, in short axes
RIM_JITTER_UM = 0.75  # standard deviation of positions across the rim
RIM_TILT_DEG = 20.0  # standard deviation of the angle between long axes and the rim's normal
CLEAR_BAND, CLEAR_BAND_UM = 0.5, (3.75, 15.0)  # share of glands with an empty band; its width
ROUGHNESS = 0.04, 0.08  # range of the amplitude of an outline's Fourier series, in radii
MAX_OVERLAP = 0.1  # largest share of its area that a nucleus may lose to earlier ones
MIN_AREA_UM2 = 10.0  # of an instance, or of its part inside the mask; smaller ones are left out
# nuclei are planned up to this far outside the field, because they may reach into it
MARGIN_UM = 8.0
RIM_POINTS = 128
RIM_HARMONICS = np.arange(2, 5)
APART = 0.8  # minimum distance between scattered nuclei, in mean diameters
# largest density of scattered nuclei, as a share of that of the densest Matern process
PACKED = 0.95


class NucleusPlan(NamedTuple):
    """N nuclei, in the order in which they are drawn."""

    xy: ndarray  # (N, 2) centres, um
    axes: ndarray  # (N, 2) full long and short axes, um
    angle: ndarray  # (N,) angle of the long axis, from +x towards +y
    kind: ndarray  # (N,) index into ``KINDS``

    def where(self, chosen: ndarray) -> NucleusPlan:
        """Select nuclei by a bool array or by indices."""
        return NucleusPlan(*(column[chosen] for column in self))


@dataclass(frozen=True, eq=False)
class Gland:
    """A closed curve ``r(t) = radius (1 + sum_k a_k cos(k t + phase_k))`` around a centre, and the
    band around it.
    """

    centre: ndarray  # (2,) position, um
    radius: float  # mean distance of the rim from the centre, um
    amplitude: ndarray  # (3,) a_k for k = 2, 3, 4
    phase: ndarray  # (3,) phase_k for k = 2, 3, 4
    band: float  # width of the band outside the rim that is free of scattered nuclei, um

    def distance(self, t: ndarray) -> ndarray:
        """Distance from the centre to the rim at angles ``t``."""
        return self.radius * (
            1 + np.cos(t[..., None] * RIM_HARMONICS + self.phase) @ self.amplitude
        )

    def holds(self, xy: ndarray) -> ndarray:
        """(N,) bool: True for positions inside the rim or in the band around it."""
        x, y = (xy - self.centre).T
        return np.hypot(x, y) < self.distance(np.arctan2(y, x)) + self.band


def plan_nuclei(size_um: float, tissue: TissueSettings, rng: Generator) -> NucleusPlan:
    """Plan the nuclei of a field of ``size_um`` x ``size_um``, including those that reach into it
    from outside.
    """
    glands = _sample_glands(size_um, tissue.epithelial.major_um, rng)
    parts = [_line_rim(gland, tissue.epithelial, rng) for gland in glands]
    parts.append(_scatter(size_um, glands, tissue, rng))
    plan = NucleusPlan(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    return plan.where(((plan.xy > -MARGIN_UM) & (plan.xy < size_um + MARGIN_UM)).all(1))


def _sample_glands(size_um: float, gap: float, rng: Generator) -> list[Gland]:
    """Glands at least ``gap`` um apart."""
    reach = GLAND_RADIUS_UM[1] + MARGIN_UM
    side = size_um + 2 * reach
    glands = []
    for _ in range(rng.poisson(GLANDS_PER_MM2 * side**2 / 1e6)):
        gland = Gland(
            centre=rng.uniform(-reach, size_um + reach, 2),
            radius=rng.uniform(*GLAND_RADIUS_UM),
            amplitude=rng.normal(0, GLAND_WOBBLE / RIM_HARMONICS),
            phase=rng.uniform(0, 2 * np.pi, len(RIM_HARMONICS)),
            band=rng.uniform(*CLEAR_BAND_UM) * (rng.random() < CLEAR_BAND),
        )
        if all(
            math.dist(gland.centre, other.centre) > gland.radius + other.radius + gap
            for other in glands
        ):
            glands.append(gland)
    return glands


def _line_rim(gland: Gland, nuclei: Population, rng: Generator) -> NucleusPlan:
    """Place nuclei side by side along the rim, at distances given by their short axes, with long
    axes across it.
    """
    t = np.linspace(0, 2 * np.pi, RIM_POINTS + 1)
    rim = gland.centre + gland.distance(t)[:, None] * np.stack([np.cos(t), np.sin(t)], 1)
    edge = np.diff(rim, axis=0)
    along = np.append(0, np.cumsum(np.hypot(*edge.T)))
    axes = nuclei.draw_axes(int(along[-1]), rng)  # one per um, more than fit on the rim
    minor = axes[:, 1]
    step = (minor + np.roll(minor, 1)) / 2 * rng.uniform(*RIM_SPACING, len(minor))
    at = np.cumsum(step)
    n = np.searchsorted(at, along[-1] - minor[0] / 2)  # the last nucleus leaves room for the first
    at, axes = at[:n], axes[:n]
    segment = np.searchsorted(along, at, side="right") - 1
    # The rim runs from +x towards +y, so that (dy, -dx) points outwards.
    normal = np.arctan2(-edge[segment, 0], edge[segment, 1])
    across = rng.normal(0, RIM_JITTER_UM, n)
    xy = np.stack([np.interp(at, along, rim[:, axis]) for axis in (0, 1)], 1)
    xy += across[:, None] * np.stack([np.cos(normal), np.sin(normal)], 1)
    angle = normal + np.radians(rng.normal(0, RIM_TILT_DEG, n))
    return NucleusPlan(xy, axes, angle, np.full(n, EPITHELIAL, np.uint8))


def _scatter(
    size_um: float, glands: list[Gland], tissue: TissueSettings, rng: Generator
) -> NucleusPlan:
    """Place stroma nuclei by a Matern process of type II (1960).

    Of a Poisson process, only points without an earlier point within a given distance are kept.
    This reduces the density ``p`` of the Poisson process to ``(1 - exp(-p a)) / a``, where ``a`` is
    the area of a disc with this distance as its radius. ``p`` is computed from the wanted density.
    """
    apart = APART * tissue.stroma.mean_diameter_um
    disc = math.pi * apart**2
    wanted = min(tissue.stroma_per_mm2 / 1e6 * disc, PACKED)
    n = rng.poisson(-math.log(1 - wanted) / disc * (size_um + 2 * MARGIN_UM) ** 2)
    xy = rng.uniform(-MARGIN_UM, size_um + MARGIN_UM, (n, 2))
    pairs = cKDTree(xy).query_pairs(apart, output_type="ndarray")
    kept = np.ones(n, bool)
    kept[pairs.max(1, initial=0)] = False
    for gland in glands:
        kept &= ~gland.holds(xy)
    xy = xy[kept]
    n = len(xy)
    return NucleusPlan(
        xy, tissue.stroma.draw_axes(n, rng), rng.uniform(0, np.pi, n), np.full(n, STROMA, np.uint8)
    )


N_VERTICES = 24
HARMONICS = np.arange(2, 8)
LEAST_DIAMETER_PX = 6  # smaller nuclei lose their shape
LEAST_AREA_PX = 9
MOST_PX = 4096  # largest side, because instances have 16 bits
_BITS = 4  # bits of subpixel positions in cv2's drawing
_EXCESS_PX = 1.2  # polygons filled by cv2 are too long and too wide by this
_ANGLES = np.linspace(0, 2 * np.pi, N_VERTICES, endpoint=False)
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)])  # (2, V)
_WAVES = np.concatenate(
    [wave(_ANGLES * HARMONICS[:, None]) / HARMONICS[:, None] ** 2 for wave in (np.cos, np.sin)]
)
CONTOUR = 255
FILL, FILL_DEVIATION, FILL_RANGE = 110.0, 30.0, (40.0, 190.0)  # measured in the authors' figure
GRAIN_UM = (0.5, 0.75)  # sigma of the noise in fills
CHANNEL = {STROMA: 1, EPITHELIAL: 2}  # contours are drawn in channel 0


_WAVES /= np.sqrt((_WAVES**2).sum(0).mean())  # so that an amplitude of 1 has a mean square of 1


@dataclass(frozen=True, eq=False)
class InstanceMask:
    """A mask with exact instances."""

    instances: ndarray  # (h, w) uint16; 0 is background, 1..N are nuclei, each of them connected
    kinds: ndarray  # (N,) uint8; entry i is the index into ``KINDS`` of instance i + 1


def synthesise_mask(
    index: int, seed: int, size_px: int, mpp: float, tissue: TissueSettings
) -> InstanceMask:
    """Synthesise mask ``index`` of the set of a ``seed``; the same arguments always give the same
    mask.
    """
    rng = np.random.default_rng((seed, index))
    if tissue.magnification > 1:
        mpp /= tissue.magnification ** rng.uniform(-1, 1)  # a finer mpp enlarges nuclei
    if tissue.sparsest < 1:
        tissue = replace(
            tissue, stroma_per_mm2=tissue.stroma_per_mm2 * rng.uniform(tissue.sparsest, 1)
        )
    while True:
        mask = paint(plan_nuclei(size_px * mpp, tissue, rng), size_px, mpp, rng)
        if len(mask.kinds) and (mask.instances == 0).any():
            return mask


def require_drawable(size_px: int, mpp: float, tissue: TissueSettings) -> None:
    """Require that nuclei are large enough in pixels and fit into the mask."""
    diameters = [kind.mean_diameter_um for kind in (tissue.epithelial, tissue.stroma)]
    if min(diameters) < LEAST_DIAMETER_PX * mpp:
        raise ArgumentError(
            f"nuclei of {min(diameters):.1f} um are smaller than {LEAST_DIAMETER_PX} px at {mpp:g}"
            f" um/px; choose an mpp of {min(diameters) / LEAST_DIAMETER_PX:.2g} or less"
        )
    least = math.ceil(2 * max(diameters) / mpp)
    if not least <= size_px <= MOST_PX:
        raise ArgumentError(
            f"a mask of {size_px} px at {mpp:g} um/px cannot be drawn; give {least} to {MOST_PX} px"
        )


def paint(plan: NucleusPlan, size_px: int, mpp: float, rng: Generator) -> InstanceMask:
    """Draw planned nuclei; each gets only pixels that no earlier nucleus covers.

    A nucleus is left out if it loses too much of its area, is split, would enclose an earlier one
    or is too small.
    """
    instances = np.zeros((size_px, size_px), np.uint16)
    rings = draw_rings(plan, mpp, rng)
    low = np.floor(rings.min(1)).astype(int).clip(0, size_px)
    high = (np.ceil(rings.max(1)).astype(int) + 2).clip(0, size_px)
    points = np.round((rings - low[:, None]) * (1 << _BITS)).astype(np.int32)
    least_px = max(MIN_AREA_UM2 / mpp**2, LEAST_AREA_PX)
    kept = []
    for index in np.flatnonzero((high > low).all(1)).tolist():
        (left, top), (right, bottom) = low[index], high[index]
        patch = instances[top:bottom, left:right]
        stamp = np.zeros(patch.shape, np.uint8)
        cv2.fillPoly(stamp, points[index : index + 1], 1, cv2.LINE_4, _BITS)
        if _fits(stamp, patch, least_px):
            kept.append(index)
            patch[stamp > 0] = len(kept)
    return InstanceMask(instances, plan.kind[kept])


def _fits(stamp: ndarray, patch: ndarray, least_px: float) -> bool:
    """Remove occupied pixels from the stamp of a nucleus; return True if the remaining pixels can
    be an instance.
    """
    whole = cv2.countNonZero(stamp)
    if whole < least_px:
        return False
    stamp[patch > 0] = 0
    free = cv2.countNonZero(stamp)
    if free == whole:
        return True
    if free < max((1 - MAX_OVERLAP) * whole, least_px):
        return False
    # A single component without holes: OpenCV counts zeros as a component too, so a hole would make
    # 3 of them.
    around = 1 - cv2.copyMakeBorder(stamp, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    return (
        cv2.connectedComponents(stamp, connectivity=4)[0]
        == cv2.connectedComponents(around, connectivity=8)[0]
        == 2
    )


def draw_rings(plan: NucleusPlan, mpp: float, rng: Generator) -> ndarray:
    """Outlines (N, V, 2) for ``cv2.fillPoly``: an ellipse whose radius is varied by harmonics 2 to
    7.

    In cv2, the origin is the centre of the first pixel, and every pixel that an outline touches is
    painted. Instances would therefore be ``_EXCESS_PX`` (measured) too long and wide, which is
    subtracted from both axes.
    """
    n = len(plan.xy)
    amplitude = rng.uniform(*ROUGHNESS, (n, 1))
    radius = 1 + amplitude * (rng.standard_normal((n, len(_WAVES))) @ _WAVES)  # (N, V)
    semi_px = np.maximum(plan.axes / mpp - _EXCESS_PX, 1) / 2
    along, across = (semi_px[:, axis, None] * radius * _CIRCLE[axis] for axis in (0, 1))
    cos, sin = np.cos(plan.angle)[:, None], np.sin(plan.angle)[:, None]
    offsets = np.stack([along * cos - across * sin, along * sin + across * cos], -1)
    return plan.xy[:, None] / mpp - 0.5 + offsets


def contours(instances: ndarray) -> ndarray:
    """(h, w) bool: pixels of instances next to a different instance or background (above, below,
    left or right).

    Contours enclose the rest of their instance; the border of the mask is not a contour.
    """
    edge = np.zeros(instances.shape, bool)
    for first, second in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        differs = instances[first] != instances[second]
        edge[first] |= differs
        edge[second] |= differs
    return edge & (instances > 0)


def fills(instances: ndarray) -> ndarray:
    """(h, w) instances without their contours; an instance that would vanish is kept whole.

    These are the nuclei of rendered tissue, because the generator renders contours as the edges of
    nuclei.
    """
    inner = np.where(contours(instances), 0, instances)
    lost = np.setdiff1d(instances, inner)
    return np.where(np.isin(instances, lost), instances, inner)


def stylise(mask: InstanceMask, mpp: float, rng: Generator) -> ndarray:
    """(h, w, 3) uint8: contours red, stroma nuclei green, epithelial nuclei blue, both filled with
    smooth noise.
    """
    sigma_px = rng.uniform(*GRAIN_UM) / mpp
    noise = cv2.GaussianBlur(
        rng.standard_normal(mask.instances.shape, np.float32), (0, 0), sigma_px
    )
    fill = (FILL + FILL_DEVIATION / noise.std() * noise).clip(*FILL_RANGE).astype(np.uint8)
    kind = np.append(len(CHANNEL), mask.kinds)[mask.instances]
    edge = contours(mask.instances)
    picture = np.zeros((*mask.instances.shape, 3), np.uint8)
    for number, channel in CHANNEL.items():
        picture[..., channel] = fill * ((kind == number) & ~edge)
    picture[..., 0] = CONTOUR * edge
    return picture

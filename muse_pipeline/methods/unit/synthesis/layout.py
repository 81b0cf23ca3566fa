"""Positions of the nuclei of a square of tissue: on the rims of glands, and scattered between them, in um."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from muse_pipeline.methods.unit.synthesis.settings import EPITHELIAL, STROMA, TissueSettings

MARGIN_UM = 8.0  # nuclei this far outside still reach into the field
RIM_POINTS = 128
HARMONICS = np.arange(2, 5)
APART = 0.8  # least distance of scattered nuclei, in mean diameters
PACKED = 0.95  # of the densest Matern process that exists; more is not reached


class Plan(NamedTuple):
    """N nuclei, in the order in which they are drawn.

    Attributes:
        xy: (N, 2) centres.
        axes: (N, 2) full long and short axes.
        angle: (N,) angle of the long axis, from +x towards +y.
        kind: (N,) index into ``settings.KINDS``.
    """

    xy: np.ndarray
    axes: np.ndarray
    angle: np.ndarray
    kind: np.ndarray

    def where(self, chosen: np.ndarray) -> Plan:
        """The nuclei that a mask or an index chooses."""
        return Plan(*(column[chosen] for column in self))


@dataclass(frozen=True, eq=False)
class Gland:
    """A closed curve ``r(t) = radius (1 + sum_k a_k cos(k t + phase_k))`` around a centre, and the band around it.

    Attributes:
        centre: (2,) position.
        radius: mean distance of the rim.
        amplitude: (3,) a_k for k = 2, 3, 4.
        phase: (3,) phase_k.
        band: width free of scattered nuclei outside the rim.
    """

    centre: np.ndarray
    radius: float
    amplitude: np.ndarray
    phase: np.ndarray
    band: float

    def distance(self, t: np.ndarray) -> np.ndarray:
        """Distance from the centre to the rim at angles ``t``."""
        return self.radius * (1 + np.cos(t[..., None] * HARMONICS + self.phase) @ self.amplitude)

    def holds(self, xy: np.ndarray) -> np.ndarray:
        """(N,) bool: True for positions inside the rim or in the band around it."""
        x, y = (xy - self.centre).T
        return np.hypot(x, y) < self.distance(np.arctan2(y, x)) + self.band


def plan_tissue(size_um: float, tissue: TissueSettings, rng: np.random.Generator) -> Plan:
    """The nuclei of a field of ``size_um`` x ``size_um``, those that reach into it from outside included."""
    glands = _sample_glands(size_um, tissue, rng)
    parts = [_line_rim(gland, tissue, rng) for gland in glands]
    parts.append(_scatter(size_um, glands, tissue, rng))
    plan = Plan(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    plan = plan.where(((plan.xy > -MARGIN_UM) & (plan.xy < size_um + MARGIN_UM)).all(1))
    if tissue.placement == "uniform":
        n = len(plan.xy)
        low, high = -MARGIN_UM, size_um + MARGIN_UM
        return plan._replace(xy=rng.uniform(low, high, (n, 2)), angle=rng.uniform(0, np.pi, n))
    return plan


def _sample_glands(size_um: float, tissue: TissueSettings, rng: np.random.Generator) -> list[Gland]:
    reach = tissue.gland_radius_um[1] + MARGIN_UM
    side = size_um + 2 * reach
    glands: list[Gland] = []
    for _ in range(rng.poisson(tissue.glands_per_mm2 * side**2 / 1e6)):
        gland = Gland(
            centre=rng.uniform(-reach, size_um + reach, 2),
            radius=rng.uniform(*tissue.gland_radius_um),
            amplitude=rng.normal(0, tissue.gland_wobble / HARMONICS),
            phase=rng.uniform(0, 2 * np.pi, len(HARMONICS)),
            band=rng.uniform(*tissue.clear_band_um) * (rng.random() < tissue.clear_band),
        )
        gap = tissue.epithelial.major_um
        if all(math.dist(gland.centre, other.centre) > gland.radius + other.radius + gap for other in glands):
            glands.append(gland)
    return glands


def _line_rim(gland: Gland, tissue: TissueSettings, rng: np.random.Generator) -> Plan:
    """Nuclei side by side along the rim, long axes across it; their distances follow their short axes."""
    t = np.linspace(0, 2 * np.pi, RIM_POINTS + 1)
    rim = gland.centre + gland.distance(t)[:, None] * np.stack([np.cos(t), np.sin(t)], 1)
    edge = np.diff(rim, axis=0)
    along = np.append(0, np.cumsum(np.hypot(*edge.T)))
    axes = tissue.epithelial.draw_axes(int(along[-1]), rng)  # one a um is more than fit
    minor = axes[:, 1]
    step = (minor + np.roll(minor, 1)) / 2 * rng.uniform(*tissue.rim_spacing, len(minor))
    at = np.cumsum(step)
    n = np.searchsorted(at, along[-1] - minor[0] / 2)  # the last leaves room for the first
    at, axes = at[:n], axes[:n]
    segment = np.searchsorted(along, at, side="right") - 1
    normal = np.arctan2(-edge[segment, 0], edge[segment, 1])
    across = rng.normal(0, tissue.rim_jitter_um, n)
    xy = np.stack([np.interp(at, along, rim[:, axis]) for axis in (0, 1)], 1)
    xy += across[:, None] * np.stack([np.cos(normal), np.sin(normal)], 1)
    angle = normal + np.radians(rng.normal(0, tissue.rim_tilt_deg, n))
    return Plan(xy, axes, angle, np.full(n, EPITHELIAL, np.uint8))


def _scatter(size_um: float, glands: list[Gland], tissue: TissueSettings, rng: np.random.Generator) -> Plan:
    """A Matern process of type II (1960): of a Poisson process, the points with no earlier one within a distance.

    Of density ``p`` there remains ``(1 - exp(-p a)) / a`` with ``a`` the area of the disc around a point, which is
    solved for ``p`` here.
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
    return Plan(xy, tissue.stroma.draw_axes(n, rng), rng.uniform(0, np.pi, n), np.full(n, STROMA, np.uint8))

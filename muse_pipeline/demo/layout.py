"""The layout of a synthetic glass slide: islands of slightly differently stained tissue, a fold and a pen stroke."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from muse_pipeline.demo.field import Texture, Window

# Optical density (natural logarithm) of red, green and blue per unit of stain.
HAEMATOXYLIN = np.array([0.585, 0.716, 0.380])
EOSIN = np.array([0.140, 0.810, 0.570])
MARGIN_UM, GAP_UM, RAG_UM = 500.0, 380.0, 75.0
N_ANGLES = 1024


@dataclass(frozen=True)
class Island:
    """A section of tissue: the periodic field within an outline.

    Attributes:
        centre_um: (x, y) of the centre on the glass.
        radius_um: (N_ANGLES,) radius of the outline at angles 2 pi k / N_ANGLES.
        shift_um: (x, y) of the origin of the glass in the field.
        stains: (2, 3) optical density per unit of haematoxylin and eosin.
    """

    centre_um: np.ndarray
    radius_um: np.ndarray
    shift_um: np.ndarray
    stains: np.ndarray

    def inside_um(self, x_um: np.ndarray, y_um: np.ndarray, rag: Texture) -> np.ndarray:
        """Approximate depth, in um, of positions on the glass inside the ragged outline; negative outside."""
        x, y = np.broadcast_arrays(x_um - np.float32(self.centre_um[0]), y_um - np.float32(self.centre_um[1]))
        return self._inside_smooth(x, y) + 16 * rag.at(x, y) + 2.5 * rag.at(7 * x, 7 * y)

    def extent_um(self, window: Window) -> tuple[float, float]:
        """Lower and upper bound of ``inside_um`` in a window, with a margin for ragged edges."""
        x, y = Window(window.x_um, window.y_um, window.mpp, (1, 1)).centres()
        steps = np.linspace(0, 1, 9, dtype=np.float32)
        x, y = x + steps * window.size_um[0], y + steps[:, None] * window.size_um[1]
        inside = self._inside_smooth(*np.broadcast_arrays(x - self.centre_um[0], y - self.centre_um[1]))
        room = RAG_UM + max(window.size_um) / 8
        return float(inside.min() - room), float(inside.max() + room)

    def may_show(self, window: Window) -> bool:
        """True if a part of the island may be in a window."""
        return self.extent_um(window)[1] > 0

    def _inside_smooth(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        location = np.arctan2(y, x) * np.float32(N_ANGLES / (2 * np.pi))
        low = np.floor(location)
        part, low = location - low, low.astype(np.int32)
        radius = self.radius_um[low % N_ANGLES] * (1 - part) + self.radius_um[(low + 1) % N_ANGLES] * part
        return radius - np.hypot(x, y)


@dataclass(frozen=True)
class Stroke:
    """A wavy band across the glass, for a fold in the tissue or ink.

    Attributes:
        start_um: (x, y) of the start.
        end_um: (x, y) of the end.
        width_um: width of the band.
        sway_um: amplitude of the waves.
    """

    start_um: np.ndarray
    end_um: np.ndarray
    width_um: float
    sway_um: float

    def inside_um(self, x_um: np.ndarray, y_um: np.ndarray) -> np.ndarray:
        """Depth, in um, of positions inside the band; negative outside."""
        along = self.end_um - self.start_um
        length = np.hypot(*along)
        ux, uy = (along / length).astype(np.float32)
        x, y = x_um - np.float32(self.start_um[0]), y_um - np.float32(self.start_um[1])
        travelled, aside = x * ux + y * uy, y * ux - x * uy
        bend = self.sway_um * np.sin(travelled * np.float32(5.3 / length)) + self.sway_um / 4 * np.sin(travelled / 61)
        taper = self.width_um / 2 * (1 + 0.15 * np.sin(travelled / 83))
        beyond = np.maximum(np.abs(travelled - length / 2) - length / 2 + taper, 0)  # round ends
        return (taper - np.hypot(aside - bend, beyond)).astype(np.float32)

    def may_show(self, window: Window) -> bool:
        """True if a part of the band may be in a window."""
        reach = self.width_um + 1.5 * self.sway_um
        low, high = np.minimum(self.start_um, self.end_um) - reach, np.maximum(self.start_um, self.end_um) + reach
        corner, size = np.array([window.x_um, window.y_um]), np.array(window.size_um)
        return bool(((corner < high) & (corner + size > low)).all())


@dataclass(frozen=True)
class Layout:
    """The glass: its (width, height) in um and all objects on it."""

    size_um: tuple[float, float]
    islands: tuple[Island, ...]
    fold: Stroke
    pen: Stroke


def plan_layout(area_mm2: float, period_um: float, rng: np.random.Generator) -> Layout:
    """Plan two rows of two islands with a total area of ``area_mm2``, a fold in the third island, and a pen stroke."""
    parts = np.array([0.30, 0.22, 0.27, 0.21])
    outlines = [_outline(area_mm2 * 1e6 * part, rng) for part in parts]
    low, high = (np.array([pick(outline, 0) for outline, _ in outlines]) for pick in (np.min, np.max))
    sizes = (high - low).reshape(2, 2, 2)
    rows, columns = sizes[..., 1].max(1), sizes[..., 0].max(0)
    x = MARGIN_UM + np.array([0, columns[0] + GAP_UM])
    y = MARGIN_UM + np.array([0, rows[0] + GAP_UM])
    size = np.array([x[1] + columns[1], y[1] + rows[1]]) + MARGIN_UM
    islands = []
    for i, (_, radius) in enumerate(outlines):
        free = np.array([columns[i % 2], rows[i // 2]]) - (high - low)[i]
        centre = np.array([x[i % 2], y[i // 2]]) + free * rng.uniform(0.2, 0.8, 2) - low[i]
        islands.append(
            Island(centre.astype(np.float32), radius.astype(np.float32), rng.uniform(0, period_um, 2), _stains(i, rng))
        )
    third, reach = islands[2].centre_um, np.sqrt(area_mm2 * 1e6 * parts[2] / np.pi)
    fold = Stroke(third + reach * np.array([-1.5, -0.35]), third + reach * np.array([1.5, 0.45]), 46.0, 0.08 * reach)
    pen = Stroke(np.array([x[1] - 130, 0.05 * size[1]]), np.array([x[1] - 250, 0.40 * size[1]]), 170.0, 45.0)
    return Layout(tuple(size), tuple(islands), fold, pen)


def _outline(area_um2: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    angles = np.arange(N_ANGLES) * (2 * np.pi / N_ANGLES)
    turn, aspect = rng.uniform(-0.5, 0.5), rng.uniform(0.6, 0.8)
    radius = 1 / np.hypot(np.cos(angles - turn), np.sin(angles - turn) / aspect)
    for order in range(2, 14):
        radius *= 1 + 0.17 / order * rng.standard_normal() * np.cos(order * angles + rng.uniform(0, 2 * np.pi))
    radius *= np.sqrt(area_um2 / (np.pi * np.mean(radius**2)))
    return np.stack([np.cos(angles), np.sin(angles)], -1) * radius[:, None], radius.astype(np.float32)


def _stains(i: int, rng: np.random.Generator) -> np.ndarray:
    """Slightly varied stain vectors of island ``i``; one island is pale, one rich in eosin, one in haematoxylin."""
    strength = ((1.0, 1.0), (0.86, 1.18), (1.12, 0.92), (0.84, 0.82))[i % 4]
    vectors = np.stack([HAEMATOXYLIN, EOSIN]) + rng.normal(0, 0.022, (2, 3))
    return (vectors * np.array(strength)[:, None]).astype(np.float32)

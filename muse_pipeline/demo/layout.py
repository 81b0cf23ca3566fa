"""The layout of a synthetic glass slide: islands of slightly differently stained tissue, a fold and a pen stroke."""

from dataclasses import dataclass

import numpy as np

from muse_pipeline.demo.field import N_ANGLES, Texture, Window, draw_outline

# Optical density (natural logarithm) of red, green and blue per unit of stain.
HAEMATOXYLIN = np.array([0.585, 0.716, 0.380])
EOSIN = np.array([0.140, 0.810, 0.570])
MARGIN_UM, GAP_UM, RAG_UM = 300.0, 330.0, 75.0


@dataclass(frozen=True)
class Island:
    """A section of tissue: the periodic field within an outline."""

    centre_um: np.ndarray  # (x, y) of the centre on the glass
    radius_um: np.ndarray  # (N_ANGLES,) radius of the outline at angles 2 pi k / N_ANGLES
    shift_um: np.ndarray  # (x, y) of the origin of the glass in the field
    stains: np.ndarray  # (2, 3) optical density per unit of haematoxylin and eosin

    def inside_um(self, x_um: np.ndarray, y_um: np.ndarray, rag: Texture) -> np.ndarray:
        """Approximate depth, in um, of positions on the glass inside the ragged outline; negative outside."""
        x, y = np.broadcast_arrays(x_um - np.float32(self.centre_um[0]), y_um - np.float32(self.centre_um[1]))
        return self._inside_smooth(x, y) + 16 * rag.at(x, y) + 2.5 * rag.at(7 * x, 7 * y)

    def extent_um(self, window: Window) -> tuple[float, float]:
        """Lower and upper bound of ``inside_um`` in a window, with a margin for ragged edges."""
        x, y = Window(window.x_um, window.y_um, max(window.size_um) / 8, (9, 9)).centres()
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
    """A wavy band across the glass, for a fold in the tissue or ink."""

    start_um: np.ndarray  # (x, y) of the start
    end_um: np.ndarray  # (x, y) of the end
    width_um: float  # width of the band
    sway_um: float  # amplitude of the waves

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
    radii = []
    for part in (0.30, 0.22, 0.27, 0.21):
        angles, radius = draw_outline((1.0, rng.uniform(0.6, 0.8)), 0.17, 14, rng)
        radii.append((radius * np.sqrt(part * area_mm2 * 1e6 / (np.pi * np.mean(radius**2)))).astype(np.float32))
    pitch = 2 * np.max([np.abs([np.cos(angles), np.sin(angles)] * radius).max(1) for radius in radii], 0) + GAP_UM
    width, height = (2 * (MARGIN_UM + pitch)).tolist()
    islands = []
    for i, radius in enumerate(radii):
        centre = (MARGIN_UM + pitch * (np.array([i % 2, i // 2]) + 0.5)).astype(np.float32)
        islands.append(Island(centre, radius, rng.uniform(0, period_um, 2), _stains(i, rng)))
    third, reach = islands[2].centre_um, float(radii[2].mean())
    fold = Stroke(third + reach * np.array([-1.5, -0.6]), third + reach * np.array([1.5, 0.2]), 46.0, 0.08 * reach)
    pen = Stroke(np.array([width / 2 + 60, 0.05 * height]), np.array([width / 2 - 60, 0.40 * height]), 170.0, 45.0)
    return Layout((width, height), tuple(islands), fold, pen)


def _stains(i: int, rng: np.random.Generator) -> np.ndarray:
    """Slightly varied stain vectors of island ``i``; one island is pale, one rich in eosin, one in haematoxylin."""
    strength = ((1.0, 1.0), (0.86, 1.18), (1.12, 0.92), (0.84, 0.82))[i % 4]
    vectors = np.stack([HAEMATOXYLIN, EOSIN]) + rng.normal(0, 0.022, (2, 3))
    return (vectors * np.array(strength)[:, None]).astype(np.float32)

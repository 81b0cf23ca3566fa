"""The plan of a synthetic slide: a periodic field of tissue, and the islands that are cut out of
it.

The field consists of noise for textures, and maps of glands, lymphocytes and blur. It repeats, so a
few megabytes suffice for slides of any size. The glass also has a fold and a pen stroke.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy import ndarray
from numpy.random import Generator
from scipy.spatial import cKDTree

PERIOD_UM, RASTER_UM = 3072.0, 2.0
SIDE = int(PERIOD_UM / RASTER_UM)
# Slope of the fibres along y (``Field.shape``); its rise over ``PERIOD_UM`` is a multiple of their
# texture's period.
FLOW_SLOPE = 0.5
N_GLANDS = 25  # number of glands along a side, where all tissue is tumour
GAP_UM = 3.0  # half the distance between two glands that touch
SOLID_UM = 1e3  # thickness of the epithelium in nests without a lumen, larger than any gland
CROWD_UM = 260.0  # wavelength of the noise whose peaks are crowds of lymphocytes


def smooth_noise(side: int, wavelength: float | tuple[float, float], rng: Generator) -> ndarray:
    """Periodic Gaussian noise (side, side) float32 with mean 0 and standard deviation 1.

    It has hardly any detail finer than ``wavelength``, in pixels, or (along y, along x).
    """
    along_y, along_x = np.broadcast_to(wavelength, 2)
    spectrum = np.fft.rfft2(rng.standard_normal((side, side)).astype(np.float32))
    spectrum *= np.exp(
        -((np.fft.fftfreq(side)[:, None] * along_y) ** 2) - (np.fft.rfftfreq(side) * along_x) ** 2
    )
    spectrum[0, 0] = 0
    noise = np.fft.irfft2(spectrum, (side, side))
    return (noise / noise.std()).astype(np.float32)


def smoothstep(values: ndarray, start: float, end: float) -> ndarray:
    """Smooth step from 0 at ``start`` to 1 at ``end``."""
    t = np.clip((values - start) * np.float32(1 / (end - start)), 0, 1)
    return t * t * (3 - 2 * t)


N_ANGLES = 1024


def draw_outline(
    axes: Sequence[float], wobble: float, n_orders: int, rng: Generator
) -> tuple[ndarray, ndarray]:
    """An uneven ellipse with these half-axes: (N_ANGLES,) angles and radii."""
    angles = np.arange(N_ANGLES) * (2 * np.pi / N_ANGLES)
    radius = 1 / np.hypot(np.cos(angles) / axes[0], np.sin(angles) / axes[1])
    for order in range(2, n_orders):
        radius *= 1 + wobble / order * rng.standard_normal() * np.cos(
            order * angles + rng.uniform(0, 2 * np.pi)
        )
    return angles, radius


@dataclass(frozen=True)
class Window:
    """A rectangle of pixels: corner in um, um per pixel, and (width, height) in pixels."""

    x_um: float
    y_um: float
    mpp: float
    size: tuple[int, int]

    @property
    def size_um(self) -> tuple[float, float]:
        """(width, height) in um."""
        return self.size[0] * self.mpp, self.size[1] * self.mpp

    def moved(self, dx_um: float, dy_um: float) -> Window:
        """The rectangle, moved by a distance in um."""
        return Window(self.x_um + dx_um, self.y_um + dy_um, self.mpp, self.size)

    def widened(self, margin_px: int) -> Window:
        """The rectangle, enlarged by ``margin_px`` on every side."""
        width, height = self.size
        shift = margin_px * self.mpp
        return Window(
            self.x_um - shift,
            self.y_um - shift,
            self.mpp,
            (width + 2 * margin_px, height + 2 * margin_px),
        )

    def centres(self) -> tuple[ndarray, ndarray]:
        """Pixel centres in um: x as (1, w), y as (h, 1), float32."""
        x = self.x_um + (np.arange(self.size[0]) + 0.5) * self.mpp
        y = self.y_um + (np.arange(self.size[1]) + 0.5) * self.mpp
        return x.astype(np.float32)[None], y.astype(np.float32)[:, None]


@dataclass(frozen=True)
class Texture:
    """A periodic picture that can be sampled anywhere, at any pixel size."""

    values: ndarray  # (n, n) or (n, n, C) float32, with C up to 4
    pixel_um: float  # um per pixel

    def view(self, window: Window) -> ndarray:
        """Resample the picture in ``window`` bilinearly: (h, w) or (h, w, C) float32."""
        zoom = window.mpp / self.pixel_um
        x, y = (
            np.mod(start / self.pixel_um, len(self.values)) for start in (window.x_um, window.y_um)
        )
        matrix = np.array([[zoom, 0, x + zoom / 2 - 0.5], [0, zoom, y + zoom / 2 - 0.5]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(
            self.values, matrix, window.size, flags=flags, borderMode=cv2.BORDER_WRAP
        )

    def at(self, x_um: ndarray, y_um: ndarray) -> ndarray:
        """Sample the picture bilinearly at positions (h, w): (h, w) or (h, w, C) float32."""
        side = np.float32(len(self.values))
        scale = np.float32(1 / self.pixel_um)
        pixels = (
            np.asarray(position, np.float32) * scale - np.float32(0.5) for position in (x_um, y_um)
        )
        column, row = (at - np.floor(at / side) * side for at in pixels)
        return cv2.remap(self.values, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)


@dataclass(frozen=True)
class Field:
    """Periodic maps of the tissue."""

    # channels ``depth`` (depth in um inside a gland), ``hollow`` (depth in um inside a lumen),
    # ``flow`` (um; fibres run along the level lines of ``flow + FLOW_SLOPE * y``) and ``loose``
    # (from 0, dense collagen, to 1, loose stroma). Depths are negative outside
    shape: Texture
    # channels ``crowd`` (density of lymphocytes, 0 to 1) and ``focus`` (from 0, sharp, to 1, out of
    # focus)
    state: Texture


def plan_field(rng: Generator) -> Field:
    """Synthesise the maps."""
    noise = {um: smooth_noise(SIDE, um / RASTER_UM, rng) for um in (50.0, 130.0, 300.0, 420.0)}
    depth, wall = _glands(smooth_noise(SIDE, 350 / RASTER_UM, rng), rng)
    depth = _blurred(depth, 2.5) + 1.2 * noise[50.0]
    hollow = np.minimum(_blurred(depth, 9) - wall + 4 * noise[50.0], depth - 11)
    around = -45 * np.exp(_blurred(depth, 6) / 45)  # fibres bend around glands
    flow = around + 48 * noise[420.0] + 11 * noise[130.0] + 3.5 * noise[50.0]
    loose = smoothstep(noise[300.0] + 0.5 * noise[130.0], -0.6, 1.2)
    crowds = smooth_noise(SIDE, CROWD_UM / RASTER_UM, rng) + 0.25 * noise[130.0]
    crowd = smoothstep(crowds, 0.8, 1.5) * smoothstep(-depth, -1, 3)
    focus = smoothstep(smooth_noise(SIDE, 800 / RASTER_UM, rng), 1.3, 2.2)
    return Field(_stack(depth, hollow, flow, loose), _stack(crowd, focus))


def _glands(tumour: ndarray, rng: Generator) -> tuple[ndarray, ndarray]:
    """Depth in um inside the glands of the tumour, and the thickness of their epithelium
    (``SOLID_UM`` without lumen).

    Glands are discs that are cut off half-way to their neighbours, on a lattice that is warped by
    noise.
    """
    lattice = np.indices((N_GLANDS, N_GLANDS)).reshape(2, -1).T
    centres = (lattice + rng.uniform(0.1, 0.9, lattice.shape)) * PERIOD_UM / N_GLANDS
    column, row = (centres / RASTER_UM).astype(int).T
    centres = centres[tumour[row, column] > -0.2]
    n = len(centres)
    radius = np.exp(rng.uniform(*np.log((30, 75)), n))
    is_open = rng.random(n) < np.where(radius > 38, 0.72, 0.15)
    wall = np.where(
        is_open, np.maximum(rng.uniform(17, 25, n), radius * rng.uniform(0.3, 0.7, n)), SOLID_UM
    )
    warp = [9 * smooth_noise(SIDE, 90 / RASTER_UM, rng) for _ in range(2)]
    raster = (np.arange(SIDE) + 0.5) * RASTER_UM
    xy = np.stack(np.meshgrid(raster, raster), -1) + np.stack(warp, -1)
    distance, gland = cKDTree(centres, boxsize=PERIOD_UM).query(np.mod(xy, PERIOD_UM), k=2)
    between = (distance[..., 1] - distance[..., 0]) / 2 - GAP_UM
    depth = np.minimum(radius[gland[..., 0]] - distance[..., 0], between)
    return depth.astype(np.float32), wall[gland[..., 0]].astype(np.float32)


def _blurred(values: ndarray, sigma_um: float) -> ndarray:
    return cv2.GaussianBlur(np.pad(values, 64, mode="wrap"), (0, 0), sigma_um / RASTER_UM)[
        64:-64, 64:-64
    ]


def _stack(*maps: ndarray) -> Texture:
    return Texture(np.ascontiguousarray(np.stack(maps, -1), np.float32), RASTER_UM)


# Optical density (natural logarithm) of red, green and blue per unit of stain.
HAEMATOXYLIN = np.array([0.585, 0.716, 0.380])
EOSIN = np.array([0.140, 0.810, 0.570])
MARGIN_UM, ISLAND_GAP_UM, RAG_UM = 300.0, 330.0, 75.0


@dataclass(frozen=True)
class Island:
    """A section of tissue: the periodic field within an outline."""

    centre_um: ndarray  # (x, y) of the centre on the glass
    radius_um: ndarray  # (N_ANGLES,) radius of the outline at angles 2 pi k / N_ANGLES
    shift_um: ndarray  # (x, y) of the origin of the glass in the field
    stains: ndarray  # (2, 3) optical density per unit of haematoxylin and eosin

    def inside_um(self, x_um: ndarray, y_um: ndarray, rag: Texture) -> ndarray:
        """Approximate depth, in um, of positions on the glass inside the ragged outline; negative
        outside.
        """
        x, y = np.broadcast_arrays(
            x_um - np.float32(self.centre_um[0]), y_um - np.float32(self.centre_um[1])
        )
        return self._inside_smooth(x, y) + 16 * rag.at(x, y) + 2.5 * rag.at(7 * x, 7 * y)

    def extent_um(self, window: Window) -> tuple[float, float]:
        """Lower and upper bound of ``inside_um`` in a window, with a margin for ragged edges."""
        x, y = Window(window.x_um, window.y_um, max(window.size_um) / 8, (9, 9)).centres()
        inside = self._inside_smooth(
            *np.broadcast_arrays(x - self.centre_um[0], y - self.centre_um[1])
        )
        room = RAG_UM + max(window.size_um) / 8
        return float(inside.min() - room), float(inside.max() + room)

    def may_show(self, window: Window) -> bool:
        """True if a part of the island may be in a window."""
        return self.extent_um(window)[1] > 0

    def _inside_smooth(self, x: ndarray, y: ndarray) -> ndarray:
        location = np.arctan2(y, x) * np.float32(N_ANGLES / (2 * np.pi))
        low = np.floor(location)
        part, low = location - low, low.astype(np.int32)
        radius = (
            self.radius_um[low % N_ANGLES] * (1 - part)
            + self.radius_um[(low + 1) % N_ANGLES] * part
        )
        return radius - np.hypot(x, y)


@dataclass(frozen=True)
class Stroke:
    """A wavy band across the glass, for a fold in the tissue or ink."""

    start_um: ndarray  # (x, y) of the start
    end_um: ndarray  # (x, y) of the end
    width_um: float  # width of the band
    sway_um: float  # amplitude of the waves

    def inside_um(self, x_um: ndarray, y_um: ndarray) -> ndarray:
        """Depth, in um, of positions inside the band; negative outside."""
        along = self.end_um - self.start_um
        length = np.hypot(*along)
        ux, uy = (along / length).astype(np.float32)
        x = x_um - np.float32(self.start_um[0])
        y = y_um - np.float32(self.start_um[1])
        travelled, aside = x * ux + y * uy, y * ux - x * uy
        bend = self.sway_um * np.sin(
            travelled * np.float32(5.3 / length)
        ) + self.sway_um / 4 * np.sin(travelled / 61)
        taper = self.width_um / 2 * (1 + 0.15 * np.sin(travelled / 83))
        beyond = np.maximum(np.abs(travelled - length / 2) - length / 2 + taper, 0)  # round ends
        return (taper - np.hypot(aside - bend, beyond)).astype(np.float32)

    def may_show(self, window: Window) -> bool:
        """True if a part of the band may be in a window."""
        reach = self.width_um + 1.5 * self.sway_um
        low = np.minimum(self.start_um, self.end_um) - reach
        high = np.maximum(self.start_um, self.end_um) + reach
        corner = np.array([window.x_um, window.y_um])
        size = np.array(window.size_um)
        return bool(((corner < high) & (corner + size > low)).all())


@dataclass(frozen=True)
class Layout:
    """The glass: its (width, height) in um and all objects on it."""

    size_um: tuple[float, float]
    islands: tuple[Island, ...]
    fold: Stroke
    pen: Stroke


def plan_layout(area_mm2: float, period_um: float, rng: Generator) -> Layout:
    """Plan two rows of two islands with a total area of ``area_mm2``, a fold in the third island,
    and a pen stroke.
    """
    radii = []
    for part in (0.30, 0.22, 0.27, 0.21):
        angles, radius = draw_outline((1.0, rng.uniform(0.6, 0.8)), 0.17, 14, rng)
        radii.append(
            (radius * np.sqrt(part * area_mm2 * 1e6 / (np.pi * np.mean(radius**2)))).astype(
                np.float32
            )
        )
    extent = np.max(
        [np.abs([np.cos(angles), np.sin(angles)] * radius).max(1) for radius in radii], 0
    )
    pitch = 2 * extent + ISLAND_GAP_UM
    width, height = (2 * (MARGIN_UM + pitch)).tolist()
    islands = []
    for i, radius in enumerate(radii):
        centre = (MARGIN_UM + pitch * (np.array([i % 2, i // 2]) + 0.5)).astype(np.float32)
        islands.append(Island(centre, radius, rng.uniform(0, period_um, 2), _stains(i, rng)))
    third, reach = islands[2].centre_um, float(radii[2].mean())
    fold = Stroke(
        third + reach * np.array([-1.5, -0.6]),
        third + reach * np.array([1.5, 0.2]),
        46.0,
        0.08 * reach,
    )
    pen = Stroke(
        np.array([width / 2 + 60, 0.05 * height]),
        np.array([width / 2 - 60, 0.40 * height]),
        170.0,
        45.0,
    )
    return Layout((width, height), tuple(islands), fold, pen)


def _stains(i: int, rng: Generator) -> ndarray:
    """Slightly varied stain vectors of island ``i``; one island is pale, one rich in eosin, one in
    haematoxylin.
    """
    strength = ((1.0, 1.0), (0.86, 1.18), (1.12, 0.92), (0.84, 0.82))[i % 4]
    vectors = np.stack([HAEMATOXYLIN, EOSIN]) + rng.normal(0, 0.022, (2, 3))
    return (vectors * np.array(strength)[:, None]).astype(np.float32)

"""The periodic field of a synthetic slide: noise for textures, and maps of glands, vessels, fat and lymphocytes.

Islands of any size are cut out of the repeating field, so a few megabytes suffice for slides of any size.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.spatial import cKDTree

PERIOD_UM, RASTER_UM = 3072.0, 2.0
SIDE = int(PERIOD_UM / RASTER_UM)
# Slope of the fibres along y (``Field.shape``); its rise over ``PERIOD_UM`` is a multiple of their texture's period.
FLOW_SLOPE = 0.5
SOLID_UM = 1e3  # thickness of the epithelium in nests without a lumen, larger than any gland


def smooth_noise(side: int, wavelength: float | tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """Periodic Gaussian noise with mean 0 and standard deviation 1, and hardly any detail finer than ``wavelength``.

    Args:
        side: number of rows and of columns.
        wavelength: finest detail in pixels, or (along y, along x).
        rng: source of randomness.

    Returns:
        (side, side) float32.
    """
    along_y, along_x = np.broadcast_to(wavelength, 2)
    spectrum = np.fft.rfft2(rng.standard_normal((side, side)).astype(np.float32))
    spectrum *= np.exp(-((np.fft.fftfreq(side)[:, None] * along_y) ** 2) - (np.fft.rfftfreq(side) * along_x) ** 2)
    spectrum[0, 0] = 0
    noise = np.fft.irfft2(spectrum, (side, side))
    return (noise / noise.std()).astype(np.float32)


def smoothstep(values: np.ndarray, start: float, end: float) -> np.ndarray:
    """Smooth step from 0 at ``start`` to 1 at ``end``."""
    t = np.clip((values - start) * np.float32(1 / (end - start)), 0, 1)
    return t * t * (3 - 2 * t)


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
        return Window(self.x_um - shift, self.y_um - shift, self.mpp, (width + 2 * margin_px, height + 2 * margin_px))

    def centres(self) -> tuple[np.ndarray, np.ndarray]:
        """Pixel centres in um: x as (1, w), y as (h, 1), float32."""
        x = self.x_um + (np.arange(self.size[0]) + 0.5) * self.mpp
        y = self.y_um + (np.arange(self.size[1]) + 0.5) * self.mpp
        return x.astype(np.float32)[None], y.astype(np.float32)[:, None]


@dataclass(frozen=True)
class Texture:
    """A periodic picture that can be sampled anywhere, at any pixel size.

    Attributes:
        values: (n, n) or (n, n, C) float32, with C up to 4.
        pixel_um: um per pixel.
    """

    values: np.ndarray
    pixel_um: float

    @property
    def period_um(self) -> float:
        """Distance after which the picture repeats."""
        return len(self.values) * self.pixel_um

    def view(self, window: Window) -> np.ndarray:
        """Resample the picture in ``window`` bilinearly: (h, w) or (h, w, C) float32."""
        zoom = window.mpp / self.pixel_um
        x, y = (np.mod(start, self.period_um) / self.pixel_um for start in (window.x_um, window.y_um))
        matrix = np.array([[zoom, 0, x + zoom / 2 - 0.5], [0, zoom, y + zoom / 2 - 0.5]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(self.values, matrix, window.size, flags=flags, borderMode=cv2.BORDER_WRAP)

    def at(self, x_um: np.ndarray, y_um: np.ndarray) -> np.ndarray:
        """Sample the picture bilinearly at any positions.

        Args:
            x_um: (h, w) float32.
            y_um: (h, w) float32.

        Returns:
            (h, w) or (h, w, C) float32.
        """
        column, row = (self._wrapped(position) for position in (x_um, y_um))
        return cv2.remap(self.values, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)

    def _wrapped(self, position_um: np.ndarray) -> np.ndarray:
        pixels = np.asarray(position_um, np.float32) * np.float32(1 / self.pixel_um) - np.float32(0.5)
        return pixels - np.floor(pixels * np.float32(1 / len(self.values))) * np.float32(len(self.values))


@dataclass(frozen=True)
class Field:
    """Periodic maps of the tissue.

    Attributes:
        shape: channels ``depth`` (depth in um inside a gland), ``hollow`` (depth in um inside an empty space), ``flow``
            (um; fibres run along the level lines of ``flow + FLOW_SLOPE * y``) and ``loose`` (from 0, dense collagen,
            to 1, loose stroma). Depths are negative outside.
        state: channels ``crowd`` (density of lymphocytes, 0 to 1), ``vessel`` (depth in um inside a vessel),
            ``unevenness`` (noise with standard deviation 1) and ``focus`` (from 0, sharp, to 1, out of focus).
    """

    shape: Texture
    state: Texture


def plan_field(rng: np.random.Generator) -> Field:
    """Synthesise the maps."""
    noise = {um: smooth_noise(SIDE, um / RASTER_UM, rng) for um in (50.0, 130.0, 420.0)}
    tumour = smooth_noise(SIDE, 900 / RASTER_UM, rng)
    glands, wall = _glands(tumour, rng)
    depth = _blurred(signed_distance_um(glands), 2.5) + 1.2 * noise[50.0]
    vessel = _blurred(signed_distance_um(_vessels(depth, rng)), 2)
    loose = smoothstep(smooth_noise(SIDE, 300 / RASTER_UM, rng) + 0.5 * noise[130.0], -0.6, 1.2)
    crowd = _crowds(depth, noise[130.0], rng)
    lumen = np.minimum(_blurred(depth, 9) - wall + 4 * noise[50.0], depth - 11)
    hollow = np.maximum.reduce([lumen, vessel, _fat(np.maximum(depth, vessel), tumour, rng)])
    around = -45 * np.exp(_blurred(np.maximum(depth, vessel), 6) / 45)  # fibres bend around glands and vessels
    flow = around + 48 * noise[420.0] + 11 * noise[130.0] + 3.5 * noise[50.0]
    focus = smoothstep(smooth_noise(SIDE, 800 / RASTER_UM, rng), 1.3, 2.2)
    return Field(
        Texture(_stack(depth, hollow, flow, loose), RASTER_UM),
        Texture(_stack(crowd, vessel, noise[420.0], focus), RASTER_UM),
    )


def signed_distance_um(mask: np.ndarray) -> np.ndarray:
    """Distance in um from the border of a periodic mask, positive inside."""
    pad = 200
    # With a wrapped margin, distances up to its width are periodic.
    wide = np.pad(mask.astype(np.uint8), pad, mode="wrap")
    inside = cv2.distanceTransform(wide, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    outside = cv2.distanceTransform(1 - wide, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return (np.where(wide > 0, inside - 0.5, 0.5 - outside) * RASTER_UM)[pad:-pad, pad:-pad].astype(np.float32)


def _stack(*maps: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.stack(maps, -1), np.float32)


def _blurred(values: np.ndarray, sigma_um: float) -> np.ndarray:
    pad = 64
    wide = cv2.GaussianBlur(np.pad(values, pad, mode="wrap"), (0, 0), sigma_um / RASTER_UM)
    return wide[pad:-pad, pad:-pad]


def _glands(tumour: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Mask of the glands, and the thickness of their epithelium in um (``SOLID_UM`` if a gland has no lumen)."""
    centres, radii = _pack(rng, n_tries=9000, radius_um=(20, 90), gap_um=(3, 18))
    inside = tumour[tuple((centres / RASTER_UM).astype(int).T[::-1])] + 0.25 * rng.standard_normal(len(centres)) > -0.35
    centres, radii = centres[inside], radii[inside]
    mask = np.zeros((SIDE, SIDE), np.uint8)
    wall = np.full((SIDE, SIDE), SOLID_UM, np.float32)
    open_ = rng.random(len(radii)) < np.where(radii > 38, 0.72, 0.15)
    walls = np.where(
        open_, np.maximum(rng.uniform(17, 25, len(radii)), radii * rng.uniform(0.3, 0.7, len(radii))), SOLID_UM
    )
    for centre, radius, thickness in zip(centres, radii, walls, strict=True):
        polygon = centre + _wobbly(radius, 0.16, rng)
        for shift in _copies(polygon):
            points = np.round((polygon + shift) / RASTER_UM * 16).astype(np.int32)
            cv2.fillPoly(mask, [points], 1, shift=4)
            cv2.fillPoly(wall, [points], float(thickness), shift=4)
    return _warped(mask, wall, rng)


def _warped(mask: np.ndarray, wall: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    dx, dy = (9 / RASTER_UM * smooth_noise(SIDE, 90 / RASTER_UM, rng) for _ in range(2))
    column, row = np.meshgrid(np.arange(SIDE, dtype=np.float32), np.arange(SIDE, dtype=np.float32))
    return tuple(
        cv2.remap(values, column + dx, row + dy, cv2.INTER_NEAREST, borderMode=cv2.BORDER_WRAP)
        for values in (mask, wall)
    )


def _pack(
    rng: np.random.Generator, n_tries: int, radius_um: tuple[float, float], gap_um: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Centres (N, 2) and radii (N,) in um of random discs that do not touch, placed in descending order of size."""
    radii = np.sort(np.exp(rng.uniform(*np.log(radius_um), n_tries)))[::-1]
    tries, gaps = rng.uniform(0, PERIOD_UM, (n_tries, 2)), rng.uniform(*gap_um, n_tries)
    kept = np.zeros(n_tries, bool)
    for i in range(n_tries):
        away = np.abs(tries[kept] - tries[i])
        away = np.hypot(*np.minimum(away, PERIOD_UM - away).T)
        kept[i] = (away > radii[kept] + radii[i] + gaps[i]).all()
    return tries[kept], radii[kept]


def _wobbly(radius: float, wobble: float, rng: np.random.Generator) -> np.ndarray:
    """A closed irregular outline around 0 with about this radius, (90, 2) in um."""
    angles = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    aspect, turn = rng.uniform(0.75, 1.0), rng.uniform(0, np.pi)
    length = radius / np.hypot(np.cos(angles - turn), np.sin(angles - turn) / aspect)
    for order in range(2, 8):
        length *= 1 + wobble * 2 / (order + 1) * rng.standard_normal() * np.cos(order * angles + rng.uniform(0, 6.28))
    return np.stack([np.cos(angles), np.sin(angles)], -1) * np.minimum(length, 1.3 * radius)[:, None]


def _copies(polygon: np.ndarray) -> list[np.ndarray]:
    """Shifts by whole periods (or 0) that move a part of a polygon into the raster."""
    low, high = polygon.min(0), polygon.max(0)
    shifts = [np.array([i, j]) * PERIOD_UM for i in (-1, 0, 1) for j in (-1, 0, 1)]
    return [shift for shift in shifts if ((low + shift < PERIOD_UM) & (high + shift > 0)).all()]


def _vessels(depth: np.ndarray, rng: np.random.Generator, n: int = 260) -> np.ndarray:
    """Mask of the lumina of capillaries and small veins, in the stroma."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    for centre, radius in zip(rng.uniform(0, PERIOD_UM, (n, 2)), rng.gamma(3, 3.2, n) + 4, strict=True):
        column, row = (centre / RASTER_UM).astype(int)
        if depth[row, column] < -radius - 12:
            polygon = centre + _wobbly(radius, 0.14, rng) * rng.choice([[1, 0.55], [0.55, 1]])
            for shift in _copies(polygon):
                cv2.fillPoly(mask, [np.round((polygon + shift) / RASTER_UM * 16).astype(np.int32)], 1, shift=4)
    return mask


def _crowds(depth: np.ndarray, ragged: np.ndarray, rng: np.random.Generator, n: int = 34) -> np.ndarray:
    """Density of lymphocytes in the stroma, 0 to 1."""
    centres = rng.uniform(0, SIDE, (n, 2)) * RASTER_UM
    radii = rng.uniform(45, 170, n)
    grid = (np.indices((SIDE // 4, SIDE // 4)).reshape(2, -1).T[:, ::-1] + 0.5) * 4 * RASTER_UM
    best = np.full(len(grid), -1e3)
    for centre, radius in zip(centres, radii, strict=True):
        away = np.abs(grid - centre)
        best = np.maximum(best, radius - np.hypot(*np.minimum(away, PERIOD_UM - away).T))
    best = cv2.resize(best.reshape(SIDE // 4, SIDE // 4).astype(np.float32), (SIDE, SIDE))
    return smoothstep(best + 28 * ragged, -20, 25) * smoothstep(-depth, -1, 3)


def _fat(solid: np.ndarray, tumour: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Depth in um inside a fat cell's vacuole, negative outside; fat is far from the tumour and from vessels."""
    lobule = smooth_noise(SIDE, 500 / RASTER_UM, rng) - 0.7 * tumour - 1.35
    cells, _ = _pack(rng, n_tries=6000, radius_um=(24, 40), gap_um=(0, 3))
    column, row = (cells / RASTER_UM).astype(int).T
    cells = cells[(lobule[row, column] > 0) & (solid[row, column] < -48)]
    rows, columns = np.nonzero((lobule > -0.5) & (solid < -2))
    points = (np.stack([columns, rows], -1) + 0.5) * RASTER_UM
    distance, nearest = cKDTree(cells, boxsize=PERIOD_UM).query(points, k=2)
    reach = rng.uniform(27, 46, len(cells))[nearest[:, 0]]
    fat = np.full((SIDE, SIDE), -8, np.float32)  # the minimum depth, because stroma begins close to the rim of a cell
    fat[rows, columns] = np.minimum((distance[:, 1] - distance[:, 0]) / 2 - 1.2, reach - distance[:, 0])
    return _blurred(np.maximum(fat, -8), 2)

"""Periodic noise in micrometres, the material of everything on the synthetic slide."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np


def smooth_noise(side: int, wavelength: float | tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """Periodic Gaussian noise of mean 0 and deviation 1 without structure much finer than ``wavelength``.

    Args:
        side: number of rows and of columns.
        wavelength: finest structure in pixels, or (along y, along x).
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
    """A smooth S: 0 at ``start``, 1 at ``end``."""
    t = np.clip((values - start) * np.float32(1 / (end - start)), 0, 1)
    return t * t * (3 - 2 * t)


@dataclass(frozen=True)
class Window:
    """A rectangle of pixels: corner in um, pixel size in um, (width, height) in pixels."""

    x_um: float
    y_um: float
    mpp: float
    size: tuple[int, int]

    @property
    def size_um(self) -> tuple[float, float]:
        """(width, height) in um."""
        return self.size[0] * self.mpp, self.size[1] * self.mpp

    def moved(self, dx_um: float, dy_um: float) -> Window:
        """The same rectangle elsewhere."""
        return Window(self.x_um + dx_um, self.y_um + dy_um, self.mpp, self.size)

    def widened(self, margin_px: int) -> Window:
        """The same rectangle with ``margin_px`` more on every side."""
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
        values: (n, n) or (n, n, up to 4) float32.
        pixel_um: size of its pixels.
    """

    values: np.ndarray
    pixel_um: float

    @property
    def period_um(self) -> float:
        """Distance after which the picture repeats."""
        return len(self.values) * self.pixel_um

    def view(self, window: Window) -> np.ndarray:
        """Resample ``window``, bilinearly: (h, w) or (h, w, C) float32."""
        zoom = window.mpp / self.pixel_um
        x, y = (np.mod(start, self.period_um) / self.pixel_um for start in (window.x_um, window.y_um))
        matrix = np.array([[zoom, 0, x + zoom / 2 - 0.5], [0, zoom, y + zoom / 2 - 0.5]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(self.values, matrix, window.size, flags=flags, borderMode=cv2.BORDER_WRAP)

    def at(self, x_um: np.ndarray, y_um: np.ndarray) -> np.ndarray:
        """Sample any positions, bilinearly.

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

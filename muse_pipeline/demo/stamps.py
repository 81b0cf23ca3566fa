"""A stock of nuclei, synthesised once in fine detail; the nuclei of a slide are rotated and scaled copies of them."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from muse_pipeline.demo.field import Window, smooth_noise, smoothstep

CLASSES = ("Lymphocyte", "Epithelial", "Stroma")
LYMPHOCYTE, EPITHELIAL, STROMA, RED_CELL = range(4)  # red cells have no nucleus and are not in the truth

STAMP_UM, STAMP_SIDE, STAMP_RAYS = 0.125, 168, 96


@dataclass(frozen=True)
class Kind:
    """Properties of a kind of cells; ranges are (low, high).

    Attributes:
        length_um: range of the length of the long axis.
        aspect: range of the ratio of the short axis to the long one.
        wobble: unevenness of the outline, as a fraction of the radius.
        density: range of the optical density of haematoxylin inside.
        clumps: contrast of the chromatin.
        clump_um: size of the grains of chromatin.
        membrane: additional optical density of the rim.
        nucleoli: largest number of nucleoli.
    """

    length_um: tuple[float, float]
    aspect: tuple[float, float]
    wobble: float
    density: tuple[float, float]
    clumps: float
    clump_um: float
    membrane: float
    nucleoli: int = 0


KINDS = (
    Kind((6.4, 8.4), (0.78, 1.00), 0.055, (1.65, 2.15), 0.30, 2.0, 0.25),
    Kind((9.5, 14.0), (0.62, 0.92), 0.060, (0.70, 1.35), 0.45, 1.6, 0.60, nucleoli=2),
    Kind((10.5, 17.0), (0.22, 0.36), 0.070, (1.10, 1.75), 0.30, 1.6, 0.25),
    Kind((5.6, 6.8), (0.75, 1.00), 0.060, (0.0, 0.0), 0.0, 2.0, 0.0),
)


@dataclass(frozen=True)
class Stamps:
    """A stock of S nuclei, the stamps; the long axis of each lies along x.

    Attributes:
        density: (S, side, side, 2) uint8: coverage in steps of 1 / 255, and haematoxylin in steps of ``DENSITY_STEP``.
        radius_um: (S, STAMP_RAYS) radii of the outlines at angles 2 pi k / STAMP_RAYS.
        axes_um: (S, 2) half the length of the long and of the short axis.
        kind: (S,) index into ``KINDS``.
    """

    density: np.ndarray
    radius_um: np.ndarray
    axes_um: np.ndarray
    kind: np.ndarray

    def of_kind(self, kind: int) -> np.ndarray:
        """Indices of the stamps of ``kind``."""
        return np.flatnonzero(self.kind == kind)

    def rays(
        self, stamp: np.ndarray, angle: np.ndarray, mirror: np.ndarray, scale: np.ndarray, n_rays: int
    ) -> np.ndarray:
        """Outlines of mirrored, rotated and scaled stamps: radii (N, n_rays) in um at angles 2 pi k / n_rays."""
        seen = np.arange(n_rays) * (2 * np.pi / n_rays)
        where = np.mod(mirror[:, None] * (seen - angle[:, None]) * (STAMP_RAYS / (2 * np.pi)), STAMP_RAYS)
        before = where.astype(int) % STAMP_RAYS
        part = where - np.floor(where)
        radius = self.radius_um[stamp]
        left = np.take_along_axis(radius, before, 1)
        right = np.take_along_axis(radius, (before + 1) % STAMP_RAYS, 1)
        return ((left * (1 - part) + right * part) * scale[:, None]).astype(np.float32)

    def press(self, stamp: int, x_um: float, y_um: float, angle: float, mirror: int, scale: float, window: Window):
        """Resample a stamp on the lattice of ``window``.

        Returns:
            The (row, column) of its corner, which may lie outside the window, and its pixels (h, w, 2) uint8, as in
            ``density``.
        """
        reach = self.radius_um[stamp].max() * scale + 1.0
        column = int(np.floor((x_um - reach - window.x_um) / window.mpp))
        row = int(np.floor((y_um - reach - window.y_um) / window.mpp))
        side = int(np.ceil(2 * reach / window.mpp)) + 1
        zoom = window.mpp / (STAMP_UM * scale)
        cosine, sine = np.cos(angle) * zoom, np.sin(angle) * zoom
        dx = column + 0.5 - (x_um - window.x_um) / window.mpp
        dy = row + 0.5 - (y_um - window.y_um) / window.mpp
        middle = STAMP_SIDE / 2 - 0.5
        # The matrix maps pixels of the window to pixels of the stamp: it rotates them back, then mirrors them.
        matrix = np.array(
            [
                [cosine, sine, cosine * dx + sine * dy + middle],
                [-mirror * sine, mirror * cosine, mirror * (cosine * dy - sine * dx) + middle],
            ]
        )
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return (row, column), cv2.warpAffine(self.density[stamp], matrix, (side, side), flags=flags)


DENSITY_STEP = 1 / 80


def draw_stamps(rng: np.random.Generator, n_per_kind: int = 80) -> Stamps:
    """Synthesise a stock with ``n_per_kind`` stamps of every kind."""
    kinds = np.repeat(np.arange(len(KINDS)), n_per_kind)
    stamps = [_draw(KINDS[kind], rng) for kind in kinds]
    density, radius, axes = (np.stack(column) for column in zip(*stamps, strict=True))
    return Stamps(density, radius, axes, kinds)


def _draw(kind: Kind, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    half = rng.uniform(*kind.length_um) / 2 * np.array([1, rng.uniform(*kind.aspect)])
    radius = _outline(half, kind.wobble, rng)
    offsets = (np.arange(STAMP_SIDE) + 0.5 - STAMP_SIDE / 2) * STAMP_UM
    x, y = np.meshgrid(offsets, offsets)
    angles = np.arange(STAMP_RAYS) * (2 * np.pi / STAMP_RAYS)
    edge = np.interp(np.arctan2(y, x), angles, radius, period=2 * np.pi)
    depth = (edge - np.hypot(x, y)) * half[1] / edge  # depth along the ray, scaled to about the distance to the rim
    cover = smoothstep(depth, -0.18, 0.18)
    density = cover * np.maximum(_chromatin(kind, x, y, depth, rng), 0.15 if kind.clumps else 0)
    print_ = np.stack([cover * 255, np.minimum(density / DENSITY_STEP, 255)], -1)
    return np.round(print_).astype(np.uint8), radius, half


def _outline(half: np.ndarray, wobble: float, rng: np.random.Generator) -> np.ndarray:
    angles = np.arange(STAMP_RAYS) * (2 * np.pi / STAMP_RAYS)
    radius = 1 / np.hypot(np.cos(angles) / half[0], np.sin(angles) / half[1])
    for order in range(2, 6):
        radius *= 1 + wobble * 1.6 / order * rng.standard_normal() * np.cos(order * angles + rng.uniform(0, 2 * np.pi))
    return radius


def _chromatin(kind: Kind, x: np.ndarray, y: np.ndarray, depth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    grains = smooth_noise(STAMP_SIDE, kind.clump_um / STAMP_UM, rng)
    fine = smooth_noise(STAMP_SIDE, 0.45 * kind.clump_um / STAMP_UM, rng)
    density = rng.uniform(*kind.density) * (1 + kind.clumps * (0.7 * np.tanh(grains) + 0.4 * fine))
    density += kind.membrane * rng.uniform(0.6, 1.2) * np.exp(-(((depth - 0.32) / 0.32) ** 2)) * (1 + 0.35 * grains)
    for _ in range(rng.integers(0, kind.nucleoli + 1)):
        centre, size = rng.normal(0, 1.2, 2), rng.uniform(0.55, 1.05)
        away = np.hypot(x - centre[0], y - centre[1])
        density *= 1 - 0.35 * np.exp(-(((away - 1.9 * size) / (0.7 * size)) ** 2))
        density += 0.9 * smoothstep(away, 1.25 * size, 0.75 * size)
    return density

"""A stock of nuclei, synthesised once in fine detail; the nuclei of a slide are rotated and scaled copies of them."""

from dataclasses import dataclass

import cv2
import numpy as np

from muse_pipeline.demo.field import Window, draw_outline, smooth_noise, smoothstep

CLASSES = ("Lymphocyte", "Epithelial", "Stroma")
LYMPHOCYTE, EPITHELIAL, STROMA = range(3)
STAMP_UM, STAMP_SIDE = 0.125, 168


@dataclass(frozen=True)
class Kind:
    """Properties of the nuclei of a class; ranges are (low, high)."""

    length_um: tuple[float, float]  # range of the length of the long axis
    aspect: tuple[float, float]  # range of the ratio of the short axis to the long one
    density: tuple[float, float]  # range of the optical density of haematoxylin inside
    membrane: float = 0.25  # additional optical density of the rim
    nucleoli: int = 0  # largest number of nucleoli


KINDS = (
    Kind((6.4, 8.4), (0.78, 1.00), (1.65, 2.15)),
    Kind((9.5, 14.0), (0.62, 0.92), (0.70, 1.35), membrane=0.60, nucleoli=2),
    Kind((10.5, 17.0), (0.22, 0.36), (1.10, 1.75)),
)
CLUMPS, CLUMP_UM, WOBBLE = 0.35, 1.7, 0.1  # contrast and size of grains of chromatin, and unevenness of outlines


@dataclass(frozen=True)
class Stamps:
    """A stock of S nuclei, the stamps; the long axis of each lies along x."""

    # (S, side, side, 2) uint8: coverage in steps of 1 / 255, and haematoxylin in steps of ``DENSITY_STEP``
    density: np.ndarray
    axes_um: np.ndarray  # (S, 2) half the length of the long and of the short axis
    label: np.ndarray  # (S,) class, an index into ``CLASSES``

    def press(self, stamp: int, x_um: float, y_um: float, angle: float, mirror: int, scale: float, window: Window):
        """Resample a stamp on the lattice of ``window``: (h, w, 2) uint8, as in ``density``.

        The (row, column) of its corner, which comes first, may lie outside the window.
        """
        reach = 1.3 * self.axes_um[stamp, 0] * scale + 1.0
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
    label = np.repeat(np.arange(len(KINDS)), n_per_kind)
    density, axes = (np.stack(column) for column in zip(*(_draw(KINDS[kind], rng) for kind in label), strict=True))
    return Stamps(density, axes, label)


def _draw(kind: Kind, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    half = rng.uniform(*kind.length_um) / 2 * np.array([1, rng.uniform(*kind.aspect)])
    angles, radius = draw_outline(half, WOBBLE, 6, rng)
    offsets = (np.arange(STAMP_SIDE) + 0.5 - STAMP_SIDE / 2) * STAMP_UM
    x, y = np.meshgrid(offsets, offsets)
    edge = np.interp(np.arctan2(y, x), angles, radius, period=2 * np.pi)
    depth = (edge - np.hypot(x, y)) * half[1] / edge  # depth along the ray, scaled to about the distance to the rim
    grains, fine = (smooth_noise(STAMP_SIDE, share * CLUMP_UM / STAMP_UM, rng) for share in (1, 0.45))
    density = rng.uniform(*kind.density) * (1 + CLUMPS * (0.7 * np.tanh(grains) + 0.4 * fine))
    density += kind.membrane * rng.uniform(0.6, 1.2) * np.exp(-(((depth - 0.32) / 0.32) ** 2)) * (1 + 0.35 * grains)
    for _ in range(rng.integers(0, kind.nucleoli + 1)):
        centre, size = rng.normal(0, 1.2, 2), rng.uniform(0.55, 1.05)
        away = np.hypot(x - centre[0], y - centre[1])
        density *= 1 - 0.35 * np.exp(-(((away - 1.9 * size) / (0.7 * size)) ** 2))
        density += 0.9 * smoothstep(away, 1.25 * size, 0.75 * size)
    cover = smoothstep(depth, -0.18, 0.18)
    channels = [cover * 255, np.minimum(cover * np.maximum(density, 0.15) / DENSITY_STEP, 255)]
    return np.round(np.stack(channels, -1)).astype(np.uint8), half

"""Synthetic glands: rings of crowded dark nuclei with a bright middle, in pale stroma."""

from __future__ import annotations

import cv2
import numpy as np

STROMA, GLAND, LUMEN, NUCLEUS = (236, 200, 222), (60, 20, 70), (240, 228, 238), (40, 15, 60)
SIZE_PX, PITCH_PX, OUTER_PX, INNER_PX = (1400, 1000), 450, 150, 40  # at 0.5 um per pixel


def draw_rings(seed: int = 0) -> np.ndarray:
    """A picture (h, w, 3) uint8 of rings as dark as ink, with the grain of a camera."""
    rng = np.random.default_rng(seed)
    width, height = SIZE_PX
    image = np.full((height, width, 3), STROMA, np.uint8)
    for xy in rng.integers(0, SIZE_PX, (300, 2)):
        _draw_nucleus(image, xy, (9, 4), float(rng.uniform(0, 180)), (120, 80, 150))
    for row, y in enumerate(range(170, height - 100, PITCH_PX)):
        for x in range(170 + row % 2 * PITCH_PX // 2, width - 100, PITCH_PX):
            cv2.circle(image, (x, y), OUTER_PX, GLAND, -1, cv2.LINE_AA)
            for radius in range(INNER_PX + 20, OUTER_PX, 26):
                for angle in np.arange(0, 2 * np.pi, 18 / radius):
                    xy = np.array((x, y)) + radius * np.array((np.cos(angle), np.sin(angle)))
                    _draw_nucleus(image, xy, (10, 6), float(np.degrees(angle)), NUCLEUS)
            cv2.circle(image, (x, y), INNER_PX, LUMEN, -1, cv2.LINE_AA)
    grain = cv2.GaussianBlur(rng.normal(0, 60, (height, width)), (0, 0), 0.8)[..., None]
    return np.clip(image + rng.normal(0, 2, image.shape) + grain * (image < 232), 0, 255).astype(
        np.uint8
    )


def _draw_nucleus(
    image: np.ndarray, xy: np.ndarray, axes: tuple[int, int], angle: float, colour
) -> None:
    cv2.ellipse(
        image, tuple(np.asarray(xy, int).tolist()), axes, angle, 0, 360, colour, -1, cv2.LINE_AA
    )

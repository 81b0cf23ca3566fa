"""Synthetic glands: rings of crowded dark nuclei in pale stroma."""

from __future__ import annotations

import cv2
import numpy as np

STROMA, GLAND, NUCLEUS = (236, 200, 222), (60, 20, 70), (40, 15, 60)


def draw_rings() -> np.ndarray:
    """A picture (h, w, 3) uint8 at 0.5 um/px of rings as dark as ink, with a camera's grain."""
    rng = np.random.default_rng(0)
    image = np.full((1000, 1400, 3), STROMA, np.uint8)
    for x, y in np.stack(np.meshgrid([170, 620, 1070], [170, 620]), -1).reshape(-1, 2):
        cv2.circle(image, (x, y), 150, GLAND, -1, cv2.LINE_AA)
        for radius in range(60, 150, 26):
            for angle in np.arange(0, 2 * np.pi, 18 / radius):
                nucleus = (x + radius * np.cos(angle), y + radius * np.sin(angle)), (20, 12)
                cv2.ellipse(image, (*nucleus, np.degrees(angle)), NUCLEUS, -1, cv2.LINE_AA)
        cv2.circle(image, (x, y), 40, STROMA, -1, cv2.LINE_AA)
    grain = cv2.GaussianBlur(rng.normal(0, 60, image.shape[:2]), (0, 0), 0.8)[..., None]
    noise = rng.normal(0, 2, image.shape) + grain * (image < 232)
    return np.clip(image + noise, 0, 255).astype(np.uint8)

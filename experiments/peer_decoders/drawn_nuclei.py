"""Label images of drawn nuclei, most of which touch or overlap another one."""

from __future__ import annotations

import cv2
import numpy as np

N_TYPES = 3
AREA_UM2 = 90.0  # of tissue per nucleus
RADII_UM, ROUNDEST = (2.6, 5.5), 0.65  # long half axis, and least ratio of the axes
BESIDE = 0.6  # share of nuclei that are placed beside another one
COVERED = 0.3  # largest share of a nucleus that may lie over or under others
LEAST_UM2 = 15.0  # smaller remnants of covered nuclei are left out


def draw_field(side_px: int, mpp: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of nuclei (h, w) int32, 0 for background, and their types from 1."""
    labels, centres, radii = np.zeros((side_px, side_px), np.int32), [], []
    for number in range(1, round((side_px * mpp) ** 2 / AREA_UM2) + 1):
        radius = rng.uniform(*RADII_UM) / mpp
        centre, angle = rng.uniform(0, side_px, 2), rng.uniform(0, 2 * np.pi)
        if centres and rng.random() < BESIDE:
            other = rng.integers(len(centres))
            away = (radii[other] + radius) * rng.uniform(0.7, 1.0)
            centre = centres[other] + away * np.array([np.cos(angle), np.sin(angle)])
        ellipse = (
            centre,
            (2 * radius, 2 * radius * rng.uniform(ROUNDEST, 1)),
            np.degrees(rng.uniform(0, np.pi)),
        )
        own = (
            cv2.ellipse(
                np.zeros(labels.shape, np.uint8),
                tuple(map(tuple, ellipse[:2])) + ellipse[2:],
                1,
                -1,
            )
            > 0
        )
        if not own.any() or (labels[own] > 0).mean() > COVERED:
            continue
        centres.append(centre)
        radii.append(radius)
        labels[own if rng.random() < 0.5 else own & (labels == 0)] = number
    labels = keep_largest_parts(labels, mpp)
    return labels, np.where(labels > 0, rng.integers(1, N_TYPES + 1, labels.max() + 1)[labels], 0)


def keep_largest_parts(labels: np.ndarray, mpp: float) -> np.ndarray:
    """The largest part of every nucleus that is large enough, renumbered 1..N."""
    kept, n = np.zeros_like(labels), 0
    for number in np.unique(labels)[1:]:
        _, parts, facts, _ = cv2.connectedComponentsWithStats(
            (labels == number).astype(np.uint8), connectivity=4
        )
        largest = facts[1:, cv2.CC_STAT_AREA].argmax() + 1
        if facts[largest, cv2.CC_STAT_AREA] * mpp**2 >= LEAST_UM2:
            n += 1
            kept[parts == largest] = n
    return kept

"""A third stain besides haematoxylin and DAB, such as a red chromogen: its direction, and the check that it exists.

Densities of two stains lie in one plane, whatever the shade of haematoxylin; those of three stains do not. The pixels
at the largest angle to the plane of haematoxylin and DAB are the purest of the third stain, just as in Macenko's method
for two stains the pixels at the extreme angles within the plane are the purest ("A method for normalizing histology
slides for quantitative analysis", ISBI 2009).
"""

from __future__ import annotations

import numpy as np

from muse_pipeline.tissue.stain import ANGLE_PERCENTILE, MAX_DENSITY, TEXTBOOK, optical_density

DAB = np.array([0.268, 0.570, 0.776])  # OD of r, g, b by Ruifrok; also QuPath's default for "Brightfield (H-DAB)"
CERTAIN_DENSITY = 0.5  # |OD|; the directions of paler pixels are noise
MIN_RESIDUAL_DEGREES = 6.0  # angle to the best-fitting plane that 1 % of the pixels exceed; 3 to 5 with two stains
MIN_ANGLE_DEGREES = 12.0  # angle to the plane of haematoxylin and DAB; at half of it, noise in DAB grows tenfold
MIN_FROM_BLUE_DEGREES = 20.0  # angle to Ruifrok's haematoxylin: up to 14 for that of slides, from 26 for other stains
NOT_FOUND = "no third stain distinct from haematoxylin and DAB was found; DAB is measured without one"
PURE = 0.8  # fraction of the extreme angle; pixels beyond it are pure


def find_third_stain(pixels: np.ndarray) -> tuple[float, ...] | None:
    """Unit vector (3,) of the third stain of (N, 3) uint8 pixels; None if no stain is distinct from the first two."""
    density = optical_density(pixels)
    size = np.linalg.norm(density, axis=1)
    density = density[(size > CERTAIN_DENSITY) & (size < MAX_DENSITY)]
    _, own = np.linalg.eigh(density.T @ density)
    if not len(density) or np.abs(_ends(_angles(density, own[:, 0]))).max() < MIN_RESIDUAL_DEGREES:
        return None
    blue, brown = TEXTBOOK[0] / np.linalg.norm(TEXTBOOK[0]), DAB / np.linalg.norm(DAB)
    normal = np.cross(blue, brown)
    angle = _angles(density, normal / np.linalg.norm(normal))
    for end in sorted(_ends(angle), key=abs, reverse=True):
        if abs(end) < MIN_ANGLE_DEGREES:
            break
        stain = density[angle / end >= PURE].sum(0)
        stain /= np.linalg.norm(stain)
        if np.degrees(np.arccos(stain @ blue)) >= MIN_FROM_BLUE_DEGREES:
            return tuple(stain.round(6).tolist())  # rounded, so the order of summation has no effect
    return None


def _angles(density: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Angles (N,) in degrees between densities (N, 3) and the plane with this unit ``normal``."""
    return np.degrees(np.arcsin(np.clip(density @ normal / np.linalg.norm(density, axis=1), -1, 1)))


def _ends(angle: np.ndarray) -> np.ndarray:
    """Percentiles (2,) between which 98 % of the angles lie."""
    return np.percentile(angle, [ANGLE_PERCENTILE, 100 - ANGLE_PERCENTILE])

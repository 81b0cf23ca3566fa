"""A third stain beside haematoxylin and DAB, such as a red chromogen: its direction, and the check that it exists.

Densities of two stains lie in one plane, whatever the shade of their haematoxylin is; those of three do not. The pixels
at the largest angle to the plane of haematoxylin and DAB are the purest of the third stain, as those at the extreme
angles within a plane are in Macenko's method for two ("A method for normalizing histology slides for quantitative
analysis", ISBI 2009).
"""

from __future__ import annotations

import numpy as np

from muse_pipeline.tissue.stain import ANGLE_PERCENTILE, MAX_DENSITY, TEXTBOOK, optical_density

DAB = np.array([0.268, 0.570, 0.776])  # Ruifrok's, OD of r, g, b; QuPath begins with it for "Brightfield (H-DAB)" too
CERTAIN_DENSITY = 0.5  # |OD|; the directions of paler pixels are noise
MIN_RESIDUAL_DEGREES = 6.0  # of 1 % of the pixels to the plane that fits all best; two stains have 3 to 5
MIN_ANGLE_DEGREES = 12.0  # to haematoxylin and DAB; at half of that, noise of a pixel counts ten times in DAB
MIN_FROM_BLUE_DEGREES = 20.0  # to haematoxylin, which is up to 14 from Ruifrok's; red and green stains are 26 or more
PURE = 0.8  # of the extreme angle, from which pixels count as pure


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
            return tuple(stain.round(6).tolist())  # so that the order in which a library adds up cannot be seen
    return None


def _angles(density: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Angles (N,) in degrees between densities (N, 3) and the plane with this unit ``normal``."""
    return np.degrees(np.arcsin(np.clip(density @ normal / np.linalg.norm(density, axis=1), -1, 1)))


def _ends(angle: np.ndarray) -> np.ndarray:
    """Percentiles (2,) between which 98 % of the angles are."""
    return np.percentile(angle, [ANGLE_PERCENTILE, 100 - ANGLE_PERCENTILE])

"""The affine map in optical density that takes a slide's stain to a model's reference."""

from __future__ import annotations

import numpy as np

IDENTITY = np.eye(3, 4, dtype=np.float32)
IDENTITY.setflags(write=False)


def stain_map(stains: np.ndarray, strong: np.ndarray, to_stains: np.ndarray, to_strong: np.ndarray) -> np.ndarray:
    """Map one pair of stains onto another: vectors onto vectors, strong ends onto strong ends.

    What lies outside the plane of the two stains is kept as it is, along the plane's normal, so that pigment and red
    cells stay apart from the stains.

    Args:
        stains: (2, 3) unit vectors in optical density, haematoxylin first.
        strong: (2,) strong end (99th percentile) of their concentrations.
        to_stains: (2, 3) of the reference.
        to_strong: (2,) of the reference.

    Returns:
        (3, 4) float32; columns 0-2 multiply the density, column 3 (zero here) is added.
    """
    source, target = (np.vstack([s, _normal(s)]).T for s in (np.asarray(stains, float), np.asarray(to_stains, float)))
    gain = np.diag([*(np.asarray(to_strong, float) / np.asarray(strong, float)), 1.0])
    linear = target @ gain @ np.linalg.inv(source)
    return np.hstack([linear, np.zeros((3, 1))]).astype(np.float32)


def _normal(stains: np.ndarray) -> np.ndarray:
    normal = np.cross(stains[0], stains[1])
    return normal / np.linalg.norm(normal)

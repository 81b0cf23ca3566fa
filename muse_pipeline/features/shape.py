"""Measures of shape that ``nuclei.shape`` lacks: closed formulas of the polygon."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from muse_pipeline.nuclei.shape import area_and_moments


def measure_form(
    rings: np.ndarray, mpp: tuple[float, float], shapes: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The features of the group *shape*, (N,) each.

    Args:
        rings: (N, V, 2) vertices in pixels, not closed.
        mpp: (x, y) um per pixel.
        shapes: measures of the same rings by ``nuclei.shape.measure_shapes``.
    """
    x, y = np.moveaxis((rings - rings[:, :1]) * np.asarray(mpp, float), -1, 0).copy()
    area, perimeter = (np.asarray(shapes[name], float) for name in ("area_um2", "perimeter_um"))
    width, height = (each.max(1) - each.min(1) for each in (x, y))
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "shape_equivalent_diameter_um": np.sqrt(4 * area / np.pi),
            "shape_feret_um": _largest_distance(x, y),
            "shape_orientation": _orientation(x, y),
            "shape_circularity": 4 * np.pi * area / perimeter**2,
            "shape_extent": area / (width * height),
        }


def _largest_distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(N,) Feret diameter: largest distance between two of the vertices ``x`` and ``y`` (N, V)."""
    n_vertices = x.shape[1]
    x, y = (np.concatenate([each, each[:, : n_vertices // 2]], 1).astype(np.float32) for each in (x, y))
    largest = np.zeros((len(x), n_vertices), np.float32)
    for step in range(1, n_vertices // 2 + 1):
        ahead = slice(step, step + n_vertices)
        across = (x[:, ahead] - x[:, :n_vertices]) ** 2 + (y[:, ahead] - y[:, :n_vertices]) ** 2
        np.maximum(largest, across, out=largest)
    return np.sqrt(largest.max(1))


def _orientation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(N,) angles in (-pi / 2, pi / 2] from the downward axis to the major one, positive towards the right."""
    _, moments = area_and_moments(x, y)
    xx, yy, xy = moments.T
    return np.arctan2(2 * xy, yy - xx) / 2

"""Sizes and shapes of outlines without an area; tests/test_oracle.py compares those of others."""

import numpy as np

from muse_pipeline.nuclei.shape import measure_shapes


def test_degenerate_and_no_rings_stay_finite():
    for rings in (np.zeros((1, 8, 2)), np.zeros((0, 8, 2)), np.array([[[0.0, 0], [1, 1], [2, 2]]])):
        shapes = measure_shapes(rings, (0.5, 0.5))
        assert all(
            len(value) == len(rings) and np.isfinite(value).all() for value in shapes.values()
        )

"""Pixels of nuclei: cells without cytoplasm, and parts of an image."""

from dataclasses import replace

import numpy as np

from muse_pipeline.features.densities import (
    ROW_STEP,
    cross_rows,
    fill,
    find_zones,
    mean_densities,
    measure_densities,
    stain_tables,
)
from muse_pipeline.tissue.stain import TEXTBOOK

IMAGE = 0.5, np.array([0, 0]), (40, 40)


def test_a_cell_without_cytoplasm_has_no_density():
    """OpenCV's look-up returns None for an empty array."""
    xy, rays = np.array([[20.0, 20.0]]), np.full((1, 32), 4, np.float32)
    planes = np.random.default_rng(6).integers(0, 256, (3, 40, 40), np.uint8)
    between = fill(*(cross_rows(xy, edge, *IMAGE, ROW_STEP) for edge in (rays, rays)))
    assert np.isnan(mean_densities(between, np.ascontiguousarray(planes[:, ::2]))).all()
    zones = find_zones(xy, rays, *IMAGE)
    # as if all of the ring were in other nuclei
    ring = zones.ring.where(np.zeros(len(zones.ring.pixel), bool))
    found = measure_densities(replace(zones, ring=ring), planes, stain_tables(TEXTBOOK))
    assert np.isnan(found["h_ring_mean"]).all()
    assert np.isfinite(found["h_mean"]).all()

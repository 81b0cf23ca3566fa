"""Pixels of nuclei: cells without cytoplasm, and parts of an image."""

from dataclasses import replace

import numpy as np
import pytest

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

MPP, SIDE, N = 0.5, 400, 60
IMAGE = MPP, np.array([0, 0]), (SIDE, SIDE)
CORNER = np.array([80, 100])  # where a smaller image lies in the large one


@pytest.fixture(scope="module")
def nuclei():
    """Overlapping outlines of all sizes, a few of which reach beyond the image."""
    random = np.random.default_rng(5)
    xy = random.uniform(-2, SIDE + 2, (N, 2))
    angles = 2 * np.pi * np.arange(32) / 32
    waves = [
        random.normal(0, 0.5 / k, (N, 1)) * np.cos(k * angles + random.uniform(0, 7, (N, 1)))
        for k in (1, 2, 3)
    ]
    rays = random.uniform(1.5, 7, (N, 1)) * np.exp(0.5 * sum(waves))
    return xy, rays.astype(np.float32)


@pytest.fixture(scope="module")
def pixels():
    random = np.random.default_rng(6)
    blurred = random.normal(0, 1, (SIDE // 4, SIDE // 4, 3)).repeat(4, 0).repeat(4, 1)
    return np.clip(150 + 40 * blurred + random.normal(0, 15, (SIDE, SIDE, 3)), 0, 255).astype(
        np.uint8
    )


def cytoplasm(xy, rays, cells):
    """The pixels between nuclei and their cells' borders, in every second row."""
    return fill(*(cross_rows(xy, edge, *IMAGE, ROW_STEP) for edge in (cells, rays)))


def test_a_cell_without_cytoplasm_has_no_density(nuclei, pixels):
    """OpenCV's look-up returns None for an empty array."""
    xy, rays = (each[:1] for each in nuclei)
    planes = np.moveaxis(pixels, -1, 0)
    between = cytoplasm(xy, rays, rays)
    assert np.isnan(mean_densities(between, np.ascontiguousarray(planes[:, ::2]))).all()
    zones = find_zones(xy, rays, *IMAGE)
    alone = replace(
        zones, ring=zones.ring.where(np.zeros(len(zones.ring.pixel), bool))
    )  # as if all in other nuclei
    found = measure_densities(alone, planes, stain_tables(TEXTBOOK))
    assert np.isnan(found["h_ring_mean"]).all()
    assert np.isfinite(found["h_mean"]).all()


def test_zones_are_the_same_in_every_image(nuclei):
    xy, rays = nuclei
    inner = ((xy - rays.max(1)[:, None] / MPP > 105) & (xy + rays.max(1)[:, None] / MPP < 345)).all(
        1
    )
    whole, part = (
        find_zones(xy[inner], rays[inner], *IMAGE),
        find_zones(xy[inner], rays[inner], MPP, CORNER, (250, 280)),
    )
    for zone in ("nucleus", "rim", "ring"):
        y, x = np.divmod(getattr(part, zone).pixel, 280)
        assert ((y + CORNER[1]) * SIDE + x + CORNER[0] == getattr(whole, zone).pixel).all()

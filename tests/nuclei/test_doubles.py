"""Duplicate outlines of the same nucleus are removed."""

import numpy as np
import pytest

from muse_pipeline.core.types import Frame
from muse_pipeline.nuclei.pairs import suppress_overlaps
from muse_pipeline.nuclei.table import Nuclei

MPP, RADIUS_UM = 0.5, 4.0


def circles(*x_um: float) -> Nuclei:
    """Circles on a horizontal line, in order of descending score."""
    xy = np.c_[x_um, np.zeros(len(x_um))] / MPP + 100
    rays = np.full((len(x_um), 32), RADIUS_UM, np.float32)
    return Nuclei(xy, Frame.WINDOW, rays=rays, score=np.linspace(0.9, 0.5, len(x_um)))


def shared(distance_um: float) -> float:
    """Fraction of a circle that a circle of the same size covers at this distance."""
    half = distance_um / (2 * RADIUS_UM)
    return 2 / np.pi * (np.arccos(half) - half * np.sqrt(1 - half**2))


def test_a_small_one_within_a_large_one_goes():
    """The overlap is measured as a fraction of the smaller outline."""
    rays = np.repeat(np.float32([[6.0], [2.0]]), 32, 1)
    assert (
        len(suppress_overlaps(Nuclei([[100, 100], [102, 100]], Frame.WINDOW, rays=rays), MPP)) == 1
    )


def test_direction_counts():
    """Two slender nuclei side by side do not overlap; at the same distance along their axis, they
    are duplicates.
    """
    angles = 2 * np.pi * np.arange(32) / 32
    rays = np.tile(
        1 / np.sqrt((np.cos(angles) / 8) ** 2 + (np.sin(angles) / 1.5) ** 2), (2, 1)
    ).astype(np.float32)
    beside = Nuclei([[100, 100], [100, 100 + 4 / MPP]], Frame.WINDOW, rays=rays)
    along = Nuclei([[100, 100], [100 + 4 / MPP, 100]], Frame.WINDOW, rays=rays)
    assert len(suppress_overlaps(beside, MPP)) == 2
    assert len(suppress_overlaps(along, MPP)) == 1


def test_points_stay_as_they_are():
    points = Nuclei([[1, 1], [1, 1]], Frame.WINDOW)
    assert suppress_overlaps(points, MPP) is points
    assert len(suppress_overlaps(circles(), MPP)) == 0


@pytest.mark.parametrize("unsound", [0.0, -3.0, np.inf, np.nan])
def test_rays_that_make_no_polygon_stop_nothing(unsound):
    rng = np.random.default_rng(0)
    rays = np.where(
        rng.random((60, 32)) < 0.5,
        np.float32(unsound),
        rng.uniform(1, 8, (60, 32)).astype(np.float32),
    )
    nuclei = Nuclei(rng.uniform(0, 33, (60, 2)), Frame.WINDOW, rays=rays)
    assert 0 < len(suppress_overlaps(nuclei, MPP)) <= 60


def test_the_best_of_a_long_row_are_kept():
    """Circles at random positions on a line: each is kept unless a better one that is kept covers
    too much of it.
    """
    x_um = np.random.default_rng(0).uniform(0, 1000, 3000)
    kept = np.zeros(0)
    for x in x_um:
        nearest = np.abs(kept - x).min(initial=np.inf)
        if nearest > 2 * RADIUS_UM or shared(nearest) < 0.4:
            kept = np.append(kept, x)
    found = suppress_overlaps(circles(*x_um), MPP)
    assert np.allclose((found.xy[:, 0] - 100) * MPP, kept)


@pytest.mark.timeout(60)
def test_many_outlines_of_one_nucleus_take_seconds():
    """All pairs of these would take an hour."""
    xy = np.random.default_rng(0).uniform(100, 102, (16_384, 2))
    rays = np.full((len(xy), 32), RADIUS_UM, np.float32)
    assert len(suppress_overlaps(Nuclei(xy, Frame.WINDOW, rays=rays), MPP)) == 1

"""Outlines are moved to the edges of stained nuclei."""

import numpy as np
import pytest

from muse_pipeline.inference.outlines import LEAST_UM, snap_to_edges

MPP, N_RAYS, RADIUS_UM, REACH_UM = 0.5, 32, 5.0, 1.5
CENTRES = np.array([[40.3, 35.8], [90.0, 60.0]])


@pytest.fixture(scope="module")
def light():
    """Two discs of radius ``RADIUS_UM``, one dark and one pale."""
    y, x = np.mgrid[:100, :130] + 0.5
    discs = [np.hypot(x - cx, y - cy) * MPP < RADIUS_UM for cx, cy in CENTRES]
    return (230 - 150 * discs[0] - 40 * discs[1]).astype(np.uint8)


def circles(*radii):
    return np.repeat(np.array(radii, np.float32)[:, None], N_RAYS, 1)


@pytest.mark.parametrize("start", [(4.0, 6.0), (6.2, 3.9), (5.0, 5.0)])
def test_outlines_move_to_the_edge_from_inside_and_outside(light, start):
    found = snap_to_edges(light, CENTRES, circles(*start), MPP, REACH_UM)
    assert found.dtype == np.float32 and found.shape == (2, N_RAYS)
    assert found == pytest.approx(RADIUS_UM, abs=0.4)
    assert found.mean(1) == pytest.approx(RADIUS_UM, abs=0.15)


def test_an_outline_off_its_nucleus_moves_there(light):
    start = np.add(CENTRES, (1.2, 0))
    angles = 2 * np.pi * np.arange(N_RAYS) / N_RAYS
    to_edge = -0.6 * np.cos(angles) + np.sqrt(RADIUS_UM**2 - (0.6 * np.sin(angles)) ** 2)
    found = snap_to_edges(light, start, circles(5.0, 5.0), MPP, REACH_UM)
    assert abs(found - to_edge).mean() < 0.2 < abs(5.0 - to_edge).mean()


def test_an_outline_stays_where_no_edge_is_near(light):
    given = circles(2.0, 9.0)
    assert snap_to_edges(light, CENTRES, given, MPP, REACH_UM) == pytest.approx(given, abs=1e-5)
    assert (snap_to_edges(np.full_like(light, 180), CENTRES, given, MPP, REACH_UM) == given).all()
    assert (
        snap_to_edges(light, CENTRES, given, MPP, 0.1) == given
    ).all()  # the reach is less than half a step


def test_no_ray_moves_by_more_than_its_reach_or_turns_inside_out(light):
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, light.shape, np.uint8)
    rays = random.uniform(0.2, 8, (2, N_RAYS)).astype(np.float32)
    found = snap_to_edges(noise, CENTRES, rays, MPP, REACH_UM)
    assert 0.2 < np.abs(found - rays).max() <= REACH_UM
    assert (found >= np.minimum(rays, LEAST_UM)).all()


def test_a_nucleus_has_the_same_outline_whatever_others_there_are(light):
    rng = np.random.default_rng(0)
    many = np.concatenate([CENTRES, rng.uniform(0, (130, 100), (1500, 2))])
    rays = np.concatenate([circles(4.0, 6.0), rng.uniform(2, 8, (1500, N_RAYS)).astype(np.float32)])
    found = snap_to_edges(light, many, rays, MPP, REACH_UM)
    assert (found[:2] == snap_to_edges(light, CENTRES, rays[:2], MPP, REACH_UM)).all()
    assert np.isfinite(found).all() and (found > 0).all()
    assert snap_to_edges(light, many[:0], rays[:0], MPP, REACH_UM).shape == (0, N_RAYS)

"""Outlines that move to the edge of what is stained."""

import numpy as np
import pytest

from muse_pipeline.nuclei.edges import OUTWARD_UM, STEP_UM, snap_to_edges

MPP, N_RAYS, RADIUS_UM = 0.5, 32, 5.0
CENTRES = np.array([[40.3, 35.8], [90.0, 60.0]])


@pytest.fixture(scope="module")
def amount():
    """Two discs of 5 um, a dark and a pale one."""
    y, x = np.mgrid[:100, :130] + 0.5
    discs = [np.hypot(x - cx, y - cy) * MPP < RADIUS_UM for cx, cy in CENTRES]
    return (0.1 + 1.2 * discs[0] + 0.4 * discs[1]).astype(np.float32)


def circles(*radii):
    return np.repeat(np.array(radii, np.float32)[:, None], N_RAYS, 1)


@pytest.mark.parametrize("start", [(4.0, 6.0), (6.2, 3.9), (5.0, 5.0)])
def test_outlines_move_to_the_edge_from_inside_and_outside(amount, start):
    found = snap_to_edges(amount, CENTRES, circles(*start), MPP, 1.5)
    assert found.dtype == np.float32 and found.shape == (2, N_RAYS)
    assert found == pytest.approx(RADIUS_UM + OUTWARD_UM, abs=2 * STEP_UM)
    assert found.mean(1) == pytest.approx(RADIUS_UM + OUTWARD_UM, abs=0.15)


def test_an_outline_stays_where_no_edge_is_near(amount):
    given = circles(2.0, 9.0)
    assert (snap_to_edges(amount, CENTRES, given, MPP, 1.5) == given).all()
    assert (snap_to_edges(np.full_like(amount, 0.7), CENTRES, given, MPP, 1.5) == given).all()


def test_a_nucleus_has_the_same_outline_whatever_others_there_are(amount):
    rng = np.random.default_rng(0)
    many = np.concatenate([CENTRES, rng.uniform(0, (130, 100), (1500, 2))])
    rays = np.concatenate([circles(4.0, 6.0), rng.uniform(2, 8, (1500, N_RAYS)).astype(np.float32)])
    found = snap_to_edges(amount, many, rays, MPP, 1.5)
    assert (found[:2] == snap_to_edges(amount, CENTRES, rays[:2], MPP, 1.5)).all()
    assert np.isfinite(found).all() and (found > 0).all()
    assert snap_to_edges(amount, many[:0], rays[:0], MPP, 1.5).shape == (0, N_RAYS)


def test_a_nucleus_at_the_border_keeps_finite_rays(amount):
    found = snap_to_edges(amount, np.array([[0.2, 0.4], [129.9, 99.9]]), circles(4.0, 0.3), MPP, 1.5)
    assert np.isfinite(found).all() and (found > 0).all()

"""Outlines that are put on edges."""

import numpy as np
import pytest
from scipy import ndimage

from muse_pipeline.data.edge_outlines import LEAST_UM, follow_edges
from muse_pipeline.nuclei.rays import ray_directions

MPP, N_RAYS = 0.5, 32
CENTRE = np.array([[40.0, 40.0]])
DIRECTIONS = ray_directions(N_RAYS)
AXES_UM = np.array([6.0, 3.5])
TRUE = 1 / np.hypot(*(DIRECTIONS / AXES_UM).T)  # (R,) of an ellipse


def ellipse(inside: float = 1.0, rim_um: float = 9.0) -> np.ndarray:
    """(80, 80) darkness of an ellipse with a dark rim; ``inside`` of it is as dark as that."""
    y, x = (np.mgrid[:80, :80] + 0.5 - 40) * MPP
    radius = np.hypot(x / AXES_UM[0], y / AXES_UM[1])
    picture = np.where(radius < 1, np.where(radius < 1 - rim_um / AXES_UM.min(), inside, 1.0), 0.1)
    return ndimage.gaussian_filter(picture, 0.7)


def follow(picture, start):
    return follow_edges(picture, CENTRE, np.asarray(start, float)[None], MPP)[0]


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.2])
def test_a_rough_outline_lands_on_the_edge(factor):
    found = follow(ellipse(), TRUE * factor)
    assert found == pytest.approx(TRUE, abs=0.35)


def test_the_outer_edge_of_a_dark_rim_counts():
    found = follow(ellipse(inside=0.5, rim_um=1.0), TRUE)
    assert found == pytest.approx(TRUE, abs=0.4)


def test_without_an_edge_outlines_stay():
    circle = np.full(N_RAYS, 4.25)
    assert (follow(np.full((80, 80), 0.5), circle) == circle).all()


def test_the_path_closes_and_does_not_depend_on_where_it_begins():
    turned = np.rot90(ellipse())
    quarter = N_RAYS // 4
    assert np.allclose(follow(turned, np.roll(TRUE, quarter)), np.roll(follow(ellipse(), TRUE), quarter), atol=0.26)


def test_many_nuclei_at_once_are_as_one_and_none_is_none():
    many = follow_edges(ellipse(), np.repeat(CENTRE, 700, 0), np.repeat(TRUE[None], 700, 0), MPP)
    assert (many == follow(ellipse(), TRUE)).all()
    assert follow_edges(ellipse(), np.zeros((0, 2)), np.zeros((0, N_RAYS)), MPP).shape == (0, N_RAYS)


def test_nothing_shrinks_to_a_point():
    assert follow(np.zeros((80, 80)), np.full(N_RAYS, 0.3)).min() >= LEAST_UM

"""Outlines are moved to the edges of nuclei."""

import numpy as np
import pytest
from scipy import ndimage

from muse_pipeline.labels.outlines import OUTWARD_UM, PAST_HALF_WAY, STEP_UM, follow_edges
from muse_pipeline.nuclei.rays import ray_directions

MPP, N_RAYS = 0.5, 32
CENTRE = np.array([[40.0, 40.0]])
DIRECTIONS = ray_directions(N_RAYS)
AXES_UM = np.array([6.0, 3.5])
TRUE = 1 / np.hypot(*(DIRECTIONS / AXES_UM).T)  # (R,) um: rays of an ellipse


def ellipse(inside: float = 1.0, rim_um: float = 9.0) -> np.ndarray:
    """(80, 80) darkness of an ellipse: 1 in a rim of ``rim_um``, and ``inside`` within it."""
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


def test_a_pale_nucleus_gets_its_rim_though_a_dark_grain_was_outlined_within():
    y, x = (np.mgrid[:80, :80] + 0.5 - 40) * MPP
    grain = 0.3 * (np.hypot(x, y) < 1.5)
    picture = ellipse(inside=0.3, rim_um=0.75) + ndimage.gaussian_filter(grain, 0.7)
    assert follow(picture, np.full(N_RAYS, 1.5)) == pytest.approx(TRUE, abs=0.5)


def test_where_nothing_was_outlined_circles_are_tried():
    assert follow(ellipse(), np.full(N_RAYS, np.nan)) == pytest.approx(TRUE, abs=0.4)


def test_of_two_nuclei_that_touch_neither_swallows_the_other():
    apart = 14  # 14 px are 7 um
    y, x = np.mgrid[:80, :80] + 0.5 - 40
    joined = ndimage.gaussian_filter(((abs(x) < 14) & (abs(y) < 7)).astype(float), 0.7)
    centres = CENTRE + np.array([[-apart / 2, 0], [apart / 2, 0]])
    found = follow_edges(joined, centres, np.full((2, N_RAYS), np.nan), MPP)
    half_way = apart / 2 * MPP
    assert found[0, 0] <= PAST_HALF_WAY * half_way + STEP_UM
    assert found[1, N_RAYS // 2] <= PAST_HALF_WAY * half_way + STEP_UM
    assert found[:, [0, N_RAYS // 4, N_RAYS // 2]] == pytest.approx(3.5, abs=0.6)


def test_what_was_outlined_before_needs_less_of_an_edge():
    """Along a third of its border, the disc has no edge."""
    y, x = (np.mgrid[:80, :80] + 0.5 - 40) * MPP
    around = (np.arctan2(y, x) / (2 * np.pi)) % 1
    disc = ndimage.gaussian_filter(
        np.where((np.hypot(x, y) < 4.5) | (around < 1 / 3), 1.0, 0.1), 0.7
    )
    circle = np.full(N_RAYS, 4.5)
    assert follow(disc, circle)[N_RAYS // 2 :] == pytest.approx(4.5, abs=0.4)
    assert np.isnan(follow(disc, np.full(N_RAYS, np.nan))).all()


def test_faint_noise_is_no_edge():
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(0.5, 0.05, (80, 80)), 1.0)
    assert np.isnan(follow(noise, np.full(N_RAYS, 4.5))).all()


@pytest.mark.parametrize("darkness", [0.0, 0.5, 1.0])
def test_without_an_edge_there_is_no_outline(darkness):
    assert np.isnan(follow(np.full((80, 80), darkness), np.full(N_RAYS, 4.25))).all()


def test_the_path_closes_and_does_not_depend_on_where_it_begins():
    turned = np.rot90(ellipse())
    quarter = N_RAYS // 4
    assert np.allclose(
        follow(turned, np.roll(TRUE, quarter)), np.roll(follow(ellipse(), TRUE), quarter), atol=0.26
    )


def test_many_nuclei_at_once_are_as_one():
    rows, columns = 24, 30  # 720 nuclei, more than ``outlines.BLOCK``
    centres = (
        np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), -1).reshape(-1, 2) * 80 + 40.0
    )
    many = follow_edges(
        np.tile(ellipse(), (rows, columns)), centres, np.repeat(TRUE[None], len(centres), 0), MPP
    )
    assert (many == follow(ellipse(), TRUE)).all()


def test_nothing_shrinks_to_a_point():
    dot = np.zeros((80, 80))
    dot[38:41, 38:41] = 1.0
    assert follow(dot, np.full(N_RAYS, 0.3)).min() >= 1.0


@pytest.mark.parametrize("mpp", [0.25, 0.5])
def test_outlines_lie_outside_of_the_steepest_position_by_what_is_reported_and_no_more(mpp):
    radius_um, side = 5.125, round(30 / mpp)  # one of the radii that `follow_edges` tries
    y, x = (
        np.mgrid[: side * 4, : side * 4] + 0.5
    ) / 4 - side / 2  # 4 x 4 samples per pixel smooth the disc's edge
    disc = (np.hypot(x, y) * mpp < radius_um).astype(float).reshape(side, 4, side, 4).mean((1, 3))
    found = follow_edges(disc, np.full((1, 2), side / 2), np.full((1, N_RAYS), radius_um), mpp)
    assert abs(found.mean() - radius_um - OUTWARD_UM) < 0.05

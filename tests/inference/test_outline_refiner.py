"""Outlines are refined by a second network."""

from functools import partial

import numpy as np
import pytest

from muse_pipeline.core.types import Frame
from muse_pipeline.inference.outlines import (
    N_STEPS,
    STEP_UM,
    OutlineRefiner,
    angle_weights,
    fit_outlines,
    sample_along_rays,
    snap_to_edges,
)
from muse_pipeline.nuclei.table import Nuclei

MPP, N_RAYS = 0.5, 32
ANGLES = 2 * np.pi * np.arange(N_RAYS) / N_RAYS
CENTRES = np.array([[40.3, 35.8], [90.0, 60.0], [70.0, 20.0]])
RADII_UM = (5.0, 3.5, 4.2)


@pytest.fixture(scope="module")
def refiner():
    return OutlineRefiner()


@pytest.fixture(scope="module")
def picture():
    """Three violet discs with soft edges on a pink background, with grain."""
    y, x = np.mgrid[:100, :130] + 0.5
    pixels = np.full((100, 130, 3), (230, 190, 215), float)
    for (cx, cy), radius in zip(CENTRES, RADII_UM, strict=True):
        inside = 1 / (1 + np.exp((np.hypot(x - cx, y - cy) * MPP - radius) / 0.15))[..., None]
        pixels = pixels * (1 - inside) + np.array((105, 75, 140)) * inside
    return np.clip(pixels + np.random.default_rng(0).normal(0, 5, pixels.shape), 0, 255).astype(
        np.uint8
    )


def circles(radii):
    return np.repeat(np.array(radii, np.float32)[:, None], N_RAYS, 1)


@pytest.mark.parametrize("share", [0.75, 1.3])
def test_outlines_of_a_wrong_size_come_nearer_to_the_nucleus(refiner, picture, share):
    true, start = circles(RADII_UM), circles(RADII_UM) * np.float32(share)
    refined = refiner(picture, CENTRES, start, MPP)
    assert refined.dtype == np.float32 and refined.shape == start.shape
    assert (abs(refined - true).mean(1) < abs(start - true).mean(1) / 2).all()


def test_outlines_beside_their_nucleus_move_there(refiner, picture):
    shift = 1.0
    true = np.stack(
        [-shift * np.cos(ANGLES) + np.sqrt(r**2 - (shift * np.sin(ANGLES)) ** 2) for r in RADII_UM]
    )
    start = circles(RADII_UM)
    refined = refiner(picture, np.add(CENTRES, (shift / MPP, 0)), start, MPP)
    assert (abs(refined - true).mean(1) < abs(start - true).mean(1) * 0.6).all()


def test_a_nucleus_does_not_depend_on_the_others_of_its_picture(refiner, picture):
    rng = np.random.default_rng(0)
    xy, rays = (
        rng.uniform((0, 0), (130, 100), (150, 2)),
        rng.uniform(1, 6, (150, N_RAYS)).astype(np.float32),
    )
    refined = refiner(picture, xy, rays, MPP)
    assert np.array_equal(refined[70:75], refiner(picture, xy[70:75], rays[70:75], MPP))
    assert refiner(picture, xy[:0], rays[:0], MPP).shape == (0, N_RAYS)


def test_rays_move_by_no_more_than_is_seen(refiner):
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8)
    start = circles((0.3, 1.0, 12.0))
    refined = refiner(noise, np.array([[30.0, 30.0], [1.0, 1.0], [59.5, 30.0]]), start, MPP)
    assert np.isfinite(refined).all() and abs(refined - start).max() <= N_STEPS * STEP_UM + 1e-5


def test_samples_are_those_of_the_picture_along_each_ray():
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[..., 0] = np.arange(40)  # the column of each pixel
    pixels[..., 1] = np.arange(40)[:, None]  # the row of each pixel
    samples = sample_along_rays(
        pixels, np.array([[20.5, 10.5]]), np.full((1, 4), 4.0, np.float32), MPP
    )
    along = (4 + (np.arange(2 * N_STEPS + 1) - N_STEPS) * STEP_UM) / MPP
    assert samples.shape == (3, 2 * N_STEPS + 1, 1, 4)
    assert samples[0, :, 0, 0] == pytest.approx(20 + along, abs=0.51)
    assert samples[1, :, 0, 1] == pytest.approx(10 + along, abs=0.51)
    assert samples[0, :, 0, 2] == pytest.approx(np.maximum(20 - along, 0), abs=0.51)
    short = sample_along_rays(
        pixels, np.array([[20.5, 10.5]]), np.full((1, 4), 1.0, np.float32), MPP
    )
    assert (
        short[0, : N_STEPS - 2, 0, 0] == 20
    ).all()  # samples beyond the centre are taken at the centre


def test_outlines_stay_where_there_is_nothing(refiner):
    flat, start = np.full((60, 60, 3), 200, np.uint8), circles((3.0, 4.0, 6.0))
    refined = refiner(flat, np.array([[20.0, 20.0], [30.0, 30.0], [40.0, 30.0]]), start, MPP)
    assert abs(refined - start).max() < 0.5


@pytest.mark.parametrize("n_rays", [8, 12, 24, 64])
def test_any_number_of_rays_is_refined_alike(refiner, picture, n_rays):
    start = np.array(RADII_UM, np.float32)[:, None] * np.float32(0.8)
    expected = refiner(picture, CENTRES, np.repeat(start, 32, 1), MPP).mean(1)
    refined = refiner(picture, CENTRES, np.repeat(start, n_rays, 1), MPP)
    assert refined.shape == (len(CENTRES), n_rays) and refined.mean(1) == pytest.approx(
        expected, rel=0.02
    )


def test_outlines_are_refined_or_put_on_edges_or_stay(refiner, picture):
    found = Nuclei(CENTRES, Frame.WINDOW, rays=circles(RADII_UM) * np.float32(0.9))
    fit = partial(fit_outlines, [found, found[:0]], np.stack([picture, picture]), MPP)
    refined, none = fit(1.0, refiner)
    assert np.array_equal(refined.rays, refiner(picture, CENTRES, found.rays, MPP)) and not len(
        none
    )
    moved, _ = fit(1.0, None)
    red = np.ascontiguousarray(picture[..., 0])
    assert np.array_equal(moved.rays, snap_to_edges(red, CENTRES, found.rays, MPP, 1.0))
    assert fit(0.0, None)[0] is found


def test_values_between_angles_are_those_of_both_sides():
    values = np.array([0.0, 2.0, 4.0], np.float32)
    assert (values @ angle_weights(3, 6)).tolist() == [0, 1, 2, 3, 4, 2]
    assert (values @ angle_weights(3, 3)).tolist() == [0, 2, 4]
    assert (np.arange(8, dtype=np.float32) @ angle_weights(8, 4)).tolist() == [0, 2, 4, 6]

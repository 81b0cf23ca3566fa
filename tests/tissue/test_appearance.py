"""Measures of a picture's appearance: each depends on what its name states, and on little else."""

import cv2
import numpy as np
import pytest
from drawn_tissue import draw_labelled_tissue

from muse_pipeline.tissue.colour import AppearanceSample, cut_fields, measure_picture
from muse_pipeline.tissue.stain import optical_density


@pytest.fixture(scope="module")
def picture():
    return draw_labelled_tissue((512, 512), 0.5, seed=0).pixels


@pytest.fixture(scope="module")
def measured(picture):
    return measure_picture(picture, 0.5)


def with_gain(picture, *gain):
    """The picture with its optical densities in red, green and blue multiplied by ``gain``."""
    return np.clip(256 * np.exp(-optical_density(picture) * gain) - 1, 0, 255).astype(np.uint8)


def test_a_blurred_picture_is_less_sharp(picture, measured):
    blurred = measure_picture(cv2.GaussianBlur(picture, (0, 0), 2), 0.5)
    assert blurred["sharpness"] < measured["sharpness"] - 1
    assert abs(blurred["tissue red"] - measured["tissue red"]) < 0.02


def test_pixels_too_large_for_fine_detail_have_a_number_for_it(picture):
    assert measure_picture(picture, 5.0)["sharpness"] == pytest.approx(np.log(1e-3), abs=1e-3)


def test_the_same_tissue_at_twice_the_resolution_steps_the_same(picture, measured):
    large = cv2.resize(picture, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    assert measure_picture(large, 0.25) == measured


def test_colours_and_strengths_follow_the_densities(picture, measured):
    paler = measure_picture(with_gain(picture, 0.5, 0.5, 0.5), 0.5)
    assert paler["tissue density"] < measured["tissue density"] - 0.4
    assert abs(paler["nuclei red"] - measured["nuclei red"]) < 0.05
    bluer = measure_picture(with_gain(picture, 1.4, 1, 1), 0.5)
    assert bluer["tissue red"] == pytest.approx(measured["tissue red"] + np.log(1.4), abs=0.05)


def test_brown_and_grey_are_foreign_to_the_two_stains(picture, measured):
    assert measured["brown"] == 0 and measured["foreign"] < 0.05
    assert measure_picture(with_gain(picture, 0.6, 0.9, 2.0), 0.5)["brown"] > 0.5
    grey = measure_picture(
        np.repeat(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None], 3, 2), 0.5
    )
    assert grey["foreign"] > 0.9 and "haematoxylin red" not in grey


def test_only_tissue_counts(picture, measured):
    sample, glass = AppearanceSample(0.5), np.full_like(picture, 245)
    for field in cut_fields(np.hstack([picture, glass]), 0.5):
        tissue = np.full(field.shape[:2], field.std() > 5)
        sample.add(np.ascontiguousarray(field), tissue)
    _, found = sample.measure()
    assert found == {name: measured[name] for name in found}


def test_what_cannot_be_given_is_left_out():
    assert AppearanceSample(0.5).measure() == (None, {})
    glass = measure_picture(np.full((64, 64, 3), 245, np.uint8), 0.5)
    assert "tissue red" not in glass and "sharpness" not in glass

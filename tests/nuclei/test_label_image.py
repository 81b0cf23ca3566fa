"""Rays of drawn discs and ellipses, from their own centroids and from given points."""

import numpy as np
import pytest

from muse_pipeline.nuclei.label_image import label_image_to_nuclei, march_rays

MPP = (0.5, 0.5)


def draw(size, *shapes):
    """Label image of ellipses (x, y, a, b)."""
    y, x = np.mgrid[:size, :size] + 0.5
    labels = np.zeros((size, size), int)
    for index, (cx, cy, a, b) in enumerate(shapes, 1):
        labels[((x - cx) / a) ** 2 + ((y - cy) / b) ** 2 < 1] = index
    return labels


@pytest.mark.parametrize("centre", [(30, 30), (30.5, 30.5), (30.3, 29.8)])
def test_a_disc_has_its_radius_in_every_direction(centre):
    nuclei = label_image_to_nuclei(draw(60, (*centre, 9, 9)), MPP, 32)
    assert np.allclose(nuclei.xy, centre, atol=0.15)
    assert np.abs(nuclei.rays - 4.5).max() < 0.35
    assert abs(nuclei.rays.mean() - 4.5) < 0.1


def test_an_ellipse_is_long_where_it_is_long():
    nuclei = label_image_to_nuclei(draw(60, (30, 30, 16, 8)), MPP, 32)
    assert nuclei.rays[0, [0, 16]] == pytest.approx([8, 8], abs=0.3)
    assert nuclei.rays[0, [8, 24]] == pytest.approx([4, 4], abs=0.3)


def test_anisotropic_pixels():
    nuclei = label_image_to_nuclei(draw(60, (30, 30, 8, 16)), (0.5, 0.25), 32)
    assert np.abs(nuclei.rays - 4).max() < 0.35


def test_given_centres_and_one_that_lies_outside_its_own_nucleus():
    labels = draw(60, (15, 15, 8, 8), (40, 40, 8, 8))
    rays = march_rays(labels, np.array([(18.0, 15.0), (55.0, 55.0)]), MPP, 4)
    assert rays[0] == pytest.approx([2.5, np.sqrt(64 - 9) / 2, 5.5, np.sqrt(64 - 9) / 2], abs=0.3)
    assert np.isnan(rays[1]).all()


def test_numbers_may_have_gaps_and_nothing_is_nothing():
    labels = draw(60, (15, 15, 8, 8), (40, 40, 6, 6)) * 7
    assert len(label_image_to_nuclei(labels, MPP, 8)) == 2
    assert len(label_image_to_nuclei(np.zeros((5, 5), int), MPP, 8)) == 0
    assert len(label_image_to_nuclei(np.ones((20, 20), int), MPP, 8)) == 1

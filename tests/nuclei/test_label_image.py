"""Rays of discs and ellipses in label images, from centroids or given points, and rings painted as
labels.
"""

import numpy as np
import pytest

from muse_pipeline.nuclei.masks import march_rays, rings_to_labels

MPP = (0.5, 0.5)


def draw(size, *shapes):
    """A label image of ellipses, each given by its centre (x, y) and half axes a and b."""
    y, x = np.mgrid[:size, :size] + 0.5
    labels = np.zeros((size, size), int)
    for index, (cx, cy, a, b) in enumerate(shapes, 1):
        labels[((x - cx) / a) ** 2 + ((y - cy) / b) ** 2 < 1] = index
    return labels


def test_given_centres_and_one_that_lies_outside_its_own_nucleus():
    labels = draw(60, (15, 15, 8, 8), (40, 40, 8, 8))
    rays = march_rays(labels, np.array([(18.0, 15.0), (55.0, 55.0)]), MPP, 4)
    assert rays[0] == pytest.approx([2.5, np.sqrt(64 - 9) / 2, 5.5, np.sqrt(64 - 9) / 2], abs=0.3)
    assert np.isnan(rays[1]).all()


def test_rings_cover_the_pixels_whose_centres_they_hold():
    square = np.array([(10, 12), (20, 12), (20, 22), (10, 22)], float)
    expected = np.zeros((40, 40), int)
    expected[12:22, 10:20] = 1
    for shift in (0.0, 0.4, -0.4):
        np.testing.assert_array_equal(rings_to_labels(square[None] + shift, (40, 40)), expected)


def test_a_disc_has_its_area_and_may_reach_over_the_edge():
    angles = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    disc = 8 * np.stack([np.cos(angles), np.sin(angles)], -1)
    centres = np.array([(20.3, 20.6), (0.0, 40.0), (-30.0, 5.0)])
    labels = rings_to_labels(centres[:, None] + disc, (60, 60))
    areas = np.bincount(labels.ravel(), minlength=4)[1:]
    assert areas == pytest.approx([np.pi * 64, np.pi * 32, 0], rel=0.05)


def test_a_later_ring_lies_above():
    square = np.array([(10, 10), (20, 10), (20, 20), (10, 20)], float)
    labels = rings_to_labels(np.stack([square, square + 5]), (40, 40))
    assert np.bincount(labels.ravel())[1:].tolist() == [75, 100]

"""Dice and AJI of squares whose overlaps are known."""

import numpy as np
import pytest

from muse_pipeline.evaluation.segmentation import rings_to_labels, score_outlines


def squares(*corners, side=10, shape=(60, 60)):
    labels = np.zeros(shape, int)
    for index, (x, y) in enumerate(corners, 1):
        labels[y : y + side, x : x + side] = index
    return labels


def test_equal_pictures_score_one():
    labels = squares((0, 0), (20, 20))
    scores = score_outlines(labels, labels * 3, 6)  # other numbers, same nuclei
    assert scores.dice.tolist() == [1, 1]
    assert scores.aji == 1


def test_a_shifted_square():
    scores = score_outlines(squares((5, 0)), squares((0, 0)), 6)
    assert scores.dice.tolist() == [0.5]
    assert scores.aji == pytest.approx(50 / 150)


def test_a_pair_too_far_apart_is_no_match_but_counts_for_aji():
    scores = score_outlines(squares((5, 0)), squares((0, 0)), 4)
    assert scores.dice.tolist() == []
    assert scores.aji == pytest.approx(50 / 150)


def test_aji_counts_what_is_missed_and_what_is_too_much():
    assert score_outlines(squares((0, 0), (40, 40)), squares((0, 0), (20, 20)), 6).aji == pytest.approx(100 / 300)
    assert score_outlines(squares(), squares((0, 0)), 6).aji == 0
    assert score_outlines(squares(), squares(), 6).aji == 1


def test_rings_cover_the_pixels_whose_centres_they_hold():
    square = np.array([(10, 12), (20, 12), (20, 22), (10, 22)], float)
    expected = squares((10, 12), shape=(40, 40))
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

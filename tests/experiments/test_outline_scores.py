"""Dice, AJI and boundary scores of squares whose overlaps are known."""

import numpy as np
import pytest

from experiments.common.outlines import boundary_f1, count_boundaries, score_outlines


def squares(*corners, side=10, shape=(60, 60)):
    labels = np.zeros(shape, int)
    for index, (x, y) in enumerate(corners, 1):
        labels[y : y + side, x : x + side] = index
    return labels


def test_equal_pictures_score_one():
    labels = squares((0, 0), (20, 20))
    scores = score_outlines(labels, labels * 3, 6)  # different numbers, same nuclei
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


def test_boundaries_within_a_pixel_agree():
    moved, true = squares((11, 10)), squares((10, 10))
    assert count_boundaries(true, true, 0) == (36, 36, 36, 36)
    assert count_boundaries(moved, true, 1) == (36, 36, 36, 36)
    assert count_boundaries(moved, true, 0) == (18, 36, 18, 36)  # 9 of the 10 px of the upper and lower sides agree
    assert boundary_f1(count_boundaries(moved, true, 0)) == pytest.approx(0.5)


def test_touching_nuclei_have_a_boundary_between_them():
    touching, one = squares((10, 10), (20, 10)), squares((10, 10), (20, 10)) > 0
    assert count_boundaries(touching, one.astype(int), 0) == (56, 72, 56, 56)


def test_nothing_found_scores_nothing():
    assert boundary_f1(count_boundaries(squares(), squares((0, 0)), 2)) == 0

"""Peaks of a probability map, merged where they are one nucleus."""

import numpy as np
import pytest
from scipy import ndimage

from muse_pipeline.core.errors import ConfigError
from muse_pipeline.proposals.points import PeakRules, find_points, merge_points


def peaks(*centres, shape=(80, 100), sigma=4.0):
    """A map that is 1 at each (x, y) index."""
    impulses = np.zeros(shape)
    for x, y in centres:
        impulses[y, x] = 1
    smooth = ndimage.gaussian_filter(impulses, sigma)
    return np.clip(smooth / smooth.max() * 1.2, 0, 1)


def test_each_peak_is_one_point_at_its_centre():
    found = find_points(peaks((20, 30), (60, 50)), mpp=0.25)
    np.testing.assert_allclose(found, [(20.5, 30.5), (60.5, 50.5)], atol=0.5)


def test_distances_are_in_um():
    pair = peaks((40, 40), (56, 40))  # 4 um apart at 0.25 um/px, 8 um at 0.5
    assert len(find_points(pair, mpp=0.25)) == 1
    assert len(find_points(pair, mpp=0.5)) == 2


def test_nothing_below_one_half_and_nothing_at_the_border():
    assert len(find_points(0.45 * peaks((40, 40)), mpp=0.25)) == 0
    assert len(find_points(peaks((0, 40)), mpp=0.25)) == 0
    assert len(find_points(peaks((0, 40)), 0.25, PeakRules(border_um=0))) == 1
    assert find_points(np.zeros((9, 9)), 0.5).shape == (0, 2)


def test_merging_is_greedy_from_the_highest_and_takes_the_mean():
    xy = np.array([[0, 0], [3, 1], [7, 0], [30, 0]], float)
    merged = merge_points(xy, np.array([0.9, 1.0, 0.8, 0.7]), reach_px=4)
    # The highest takes the first (3 + 1 = 4) but not the third (4 + 1 = 5), which stays.
    np.testing.assert_allclose(merged, [(7, 0), (30, 0), (1.5, 0.5)])
    assert len(merge_points(xy, np.ones(4), 0)) == 4


def test_a_rule_that_means_nothing_is_rejected():
    with pytest.raises(ConfigError, match="points: least is 2"):
        PeakRules(least=2)

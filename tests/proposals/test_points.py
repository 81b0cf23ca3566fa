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


def literal_merge(xy, height, reach):
    """Groups by |dx| + |dy|, one point at a time from the highest; their means by rows."""
    free, merged = list(range(len(xy))), []
    while free:
        highest = max(free, key=lambda i: (height[i], -i))
        group = [i for i in free if abs(xy[i][0] - xy[highest][0]) + abs(xy[i][1] - xy[highest][1]) <= reach]
        merged.append([sum(xy[i][axis] for i in group) / len(group) for axis in (0, 1)])
        free = [i for i in free if i not in group]
    return sorted(merged, key=lambda point: (point[1], point[0]))


def test_distances_of_merged_points_are_city_block_distances():
    assert len(merge_points(np.array([[0.0, 0], [3, 4]]), np.ones(2), 5)) == 2  # 7 apart, not 5
    rng = np.random.default_rng(0)
    for _ in range(50):
        xy, height = rng.integers(0, 12, (6, 2)).astype(float), rng.integers(1, 4, 6).astype(float)
        np.testing.assert_allclose(merge_points(xy, height, 5.0), literal_merge(xy.tolist(), height.tolist(), 5.0))


def test_peaks_are_the_pixels_that_no_neighbour_exceeds():
    """The default rules at 0.5 um: a sigma of 1.15 px, 3 px apart, 2 px from the border, merged within 10 px."""
    probability = np.random.default_rng(2).random((40, 50)) ** 0.35
    smooth = ndimage.gaussian_filter(probability.astype(np.float32), 1.15)
    peaks, heights = [], []
    for y in range(2, 38):
        for x in range(2, 48):
            if smooth[y, x] >= 0.5 and smooth[y, x] == smooth[max(y - 3, 0) : y + 4, max(x - 3, 0) : x + 4].max():
                peaks.append([x + 0.5, y + 0.5])
                heights.append(float(smooth[y, x]))
    expected = literal_merge(peaks, heights, 10.0)
    assert 10 < len(expected) < len(peaks)
    np.testing.assert_allclose(find_points(probability, 0.5), expected)


@pytest.mark.parametrize(
    ("change", "value"), [("blur_um", 1.0), ("least", 0.8), ("distance_um", 3.0), ("border_um", 4.0), ("merge_um", 2.0)]
)
def test_every_rule_changes_the_points(change, value):
    probability = np.random.default_rng(2).random((40, 50)) ** 0.35
    found = find_points(probability, 0.5, PeakRules(**{change: value}))
    assert not np.array_equal(found, find_points(probability, 0.5))


def test_a_rule_that_means_nothing_is_rejected():
    with pytest.raises(ConfigError, match="points: least is 2"):
        PeakRules(least=2)

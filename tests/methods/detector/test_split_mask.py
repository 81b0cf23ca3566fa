"""The split of a foreground by points."""

import numpy as np
from scipy import ndimage

from muse_pipeline.methods.detector.outlined import paint_points, split_mask


def test_points_on_one_pixel_each_have_a_pixel():
    assert set(np.unique(paint_points(np.full((3, 2), 4.2), (9, 9)))) == {0, 1, 2, 3}


def test_a_mask_is_split_between_its_points():
    mask = np.zeros((20, 40), bool)
    mask[5:15, 2:22] = True
    mask[5:15, 28:36] = True  # no point here
    instances = split_mask(mask, np.array([(6.5, 10.5), (17.5, 10.5), (38.5, 2.5)]))
    assert set(np.unique(instances)) == {0, 1, 2}
    assert (instances > 0).sum() == mask[:, :25].sum()  # all of the part with points, nothing of the other
    assert instances[10, 6] == 1
    assert instances[10, 17] == 2


def test_a_point_of_another_part_takes_nothing():
    mask = np.zeros((11, 30), bool)
    mask[5, 2:14] = True
    mask[5, 15:28] = True
    instances = split_mask(mask, np.array([(2.5, 5.5), (15.5, 5.5)]))
    assert (instances[5, 2:14] == 1).all()  # its right end is nearer to the other part's point
    assert (instances[5, 15:28] == 2).all()


def test_what_is_cut_off_from_its_point_is_left_out():
    mask = np.zeros((30, 30), bool)
    mask[2:28, 2:6] = mask[24:28, 2:28] = mask[2:28, 24:28] = True  # a U
    points = np.array([(3.5, 3.5), (15.5, 25.5), (25.5, 3.5)])
    instances = split_mask(mask, points)
    assert all(ndimage.label(instances == number)[1] == 1 for number in (1, 2, 3))

"""Components that are numbered strip by strip are the same as those of the whole mask."""

import cv2
import numpy as np
import pytest
from scipy import ndimage

from muse_pipeline.tissue.components import Components, drop_small
from muse_pipeline.tissue.overview import ROWS


def ragged_mask(seed, share, smooth):
    generator = np.random.default_rng(seed)
    noise = generator.random((3 * ROWS + 7, 150), np.float32)
    return (cv2.blur(noise, (5, 5)) < 0.42 + 0.2 * share) if smooth else noise < share


@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.45, 0.6, 1.0])
def test_the_same_components_as_of_the_whole_mask(share, smooth, connectivity):
    mask = ragged_mask(1, share, smooth)
    expected, _ = ndimage.label(mask, np.ones((3, 3)) if connectivity == 8 else None)
    components = Components(mask, connectivity)
    found = np.concatenate([component for _, component in components])
    both = np.unique(np.stack([found.ravel(), expected.ravel()]), axis=1)
    assert both.shape[1] == len(np.unique(found)) == len(np.unique(expected))
    assert ((found == 0) == ~mask).all()
    np.testing.assert_array_equal(components.choose(np.arange(components.n) > 0), mask)


def test_a_crop_over_many_strips_counts_whole():
    mask = np.zeros((3 * ROWS, 40), bool)
    mask[ROWS // 2 : -ROWS // 2, 10] = True  # a thin line: 2 * ROWS pixels
    mask[:5, 30], mask[5, 31:36] = True, True  # 5 + 5 pixels, joined only at a corner
    assert drop_small(mask, 2 * ROWS).sum() == 2 * ROWS
    assert not drop_small(mask, 2 * ROWS + 1).any()
    assert (
        drop_small(mask, 10).sum() == 2 * ROWS + 10
        and drop_small(mask, 10, connectivity=4).sum() == 2 * ROWS
    )
    assert drop_small(mask, 40, connectivity=4, keep_at_border=True)[:5, 30].all()

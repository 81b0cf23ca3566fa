"""The positions that a tissue mask keeps, and the file of the mask."""

from dataclasses import replace

import numpy as np
import pytest
from drawn import ArraySlide
from shapely.geometry import Polygon, box

from muse_pipeline.core.errors import StoreError
from muse_pipeline.tissue.mask import TissueMask


def a_mask(roi=None):
    mask = np.zeros((20, 30), bool)
    mask[5:10, 10:20] = True
    return TissueMask(mask, np.array([7.984, 8.016]), roi, 0.0032)


def test_kept_within_16_um_of_tissue():
    tissue, slide_mpp = a_mask(), (0.499, 0.501)
    # the corner of the first true pixel is at (160, 80)
    xy = np.array([[129, 90], [127, 90], [170, 49], [160, 80]])
    assert tissue.kept.contains(xy, slide_mpp).tolist() == [True, False, True, True]


def test_the_kept_area_is_as_wide_as_it_is_high_in_um():
    mask = np.zeros((21, 21), bool)
    mask[10, 10] = True
    x, y = np.meshgrid((np.arange(21) - 10) * 8.0, (np.arange(21) - 10) * 5.0)
    dilated = TissueMask(mask, np.array([8.0, 5.0]), None, 4e-5).dilated
    np.testing.assert_array_equal(
        dilated, np.hypot(x, y) <= 16 + 5 / 4
    )  # a quarter of a pixel is rounded away


def test_the_last_pixels_cover_one_more_beyond_them():
    tissue = TissueMask(np.ones((4, 4), bool), np.array([8.0, 8.0]), None, 0.0)
    xy = np.array([[-0.1, 3], [3, -0.1], [127.9, 3], [128, 3], [3, 159.9], [160, 3], [3, 160]])
    assert tissue.kept.contains(xy, (0.25, 0.25)).tolist() == [0, 0, 1, 1, 1, 0, 0]
    assert tissue.kept.contains(np.empty((0, 2)), (0.25, 0.25)).shape == (0,)


def test_inside_the_roi_exactly():
    roi = Polygon([(160, 80), (300, 80), (160, 150)], [[(165, 85), (175, 85), (165, 95)]])
    tissue = a_mask(roi)
    xy = np.array([[161, 81], [159.9, 90], [167, 86], [290, 84], [290, 86]])
    assert tissue.kept.contains(xy, (0.499, 0.501)).tolist() == [True, False, False, True, False]


@pytest.mark.parametrize("roi", [None, box(3, 4, 500, 600)])
def test_comes_back_from_its_file_and_is_the_same_bytes_again(tmp_path, roi):
    roi_file = roi and {"name": "roi.geojson", "sha256": "0", "area_mm2": 0.1}
    tissue = replace(a_mask(roi), roi_file=roi_file, unscanned=roi and ~a_mask().mask)
    tissue.save(tmp_path / "a.npz")
    back = TissueMask.load(tmp_path / "a.npz")
    np.testing.assert_array_equal(back.mask, a_mask().mask)
    np.testing.assert_array_equal(back.mask_mpp, a_mask().mask_mpp)
    np.testing.assert_array_equal(back.unscanned, tissue.unscanned)
    assert (back.area_mm2, back.roi, back.sha256) == (0.0032, roi, tissue.sha256)
    assert back.roi_file == back.kept.roi_file == roi_file
    back.save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_a_mask_of_another_slide_or_mpp_is_rejected(tmp_path):
    info = ArraySlide([np.full((100, 100, 3), 255, np.uint8)]).info((0.5, 0.5))
    replace(a_mask(), fingerprint=info.fingerprint, slide_mpp=info.mpp).save(tmp_path / "a.npz")
    assert TissueMask.load(tmp_path / "a.npz", info).slide_mpp == (0.5, 0.5)
    with pytest.raises(StoreError, match="slide other"):
        TissueMask.load(tmp_path / "a.npz", replace(info, fingerprint="0"))
    with pytest.raises(StoreError, match="um/px"):
        TissueMask.load(tmp_path / "a.npz", replace(info, mpp=(0.25, 0.25)))


def test_everything_that_results_depend_on_is_in_the_checksum():
    """The checksum tells areas of regions and images that were made within another ROI."""
    mask, half = np.ones((4, 4), bool), np.eye(4, dtype=bool)
    roi = box(0, 0, 8, 8)
    kinds = [
        TissueMask(mask, np.array([2.0, 2.0]), roi, 0.1),
        TissueMask(mask, np.array([2.0, 2.0]), box(0, 0, 8, 9), 0.1),
        TissueMask(mask, np.array([2.0, 3.0]), roi, 0.1),
        TissueMask(half, np.array([2.0, 2.0]), roi, 0.1),
        TissueMask(mask, np.array([2.0, 2.0]), roi, 0.1, unscanned=half),
    ]
    assert len({tissue.sha256 for tissue in kinds}) == len(kinds)

"""Masks as large as slides are read, or are rejected in one sentence before any pixel is
decoded.
"""

import numpy as np
import pytest
import tifffile
from PIL import Image

from muse_pipeline.core.errors import LabelError
from muse_pipeline.nuclei import masks as mask_file
from muse_pipeline.nuclei.masks import read_label_image, read_mask, require_nuclei

WIDE = (1 << 20) + 5  # wider than OpenCV can read


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_masks_of_any_size_and_depth(tmp_path, suffix):
    path = tmp_path / f"s{suffix}"
    mask = np.zeros((2, WIDE), np.uint16)
    mask[1, -1] = 40_000
    tifffile.imwrite(path, mask) if suffix == ".tif" else Image.fromarray(mask).save(path)
    assert np.array_equal(read_label_image(path), mask)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_masks_that_do_not_fit_into_memory(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"s{suffix}"
    mask = np.zeros((30, 40), np.uint8)
    tifffile.imwrite(path, mask) if suffix == ".tif" else Image.fromarray(mask).save(path)
    monkeypatch.setattr(mask_file, "MAX_PIXELS", 1_000)
    with pytest.raises(
        LabelError,
        match=r"s\.(png|tif): 40 x 30 pixels are too many to hold in memory; give outlines",
    ):
        read_label_image(path)


def test_a_bit_a_pixel_is_a_region_and_no_nuclei(tmp_path):
    mask = np.eye(4, dtype=bool)
    Image.fromarray(mask).save(tmp_path / "s.png")
    assert np.array_equal(read_mask(tmp_path / "s.png"), mask)
    with pytest.raises(LabelError, match="bit per pixel"):
        read_label_image(tmp_path / "s.png")


@pytest.mark.parametrize("white", [1, 255])
def test_black_and_white_masks_number_no_nuclei(tmp_path, white):
    mask = np.zeros((40, 40), np.uint8)
    mask[2:12, 2:12] = white
    mask[30:32, 30:32] = white  # too small for a second nucleus
    Image.fromarray(mask).save(tmp_path / "s.png")
    assert np.array_equal(read_label_image(tmp_path / "s.png"), mask)
    mask[25:35, 25:35] = white
    Image.fromarray(mask).save(tmp_path / "s.png")
    with pytest.raises(
        LabelError, match=rf"s\.png: gives all its nuclei the number {white}; give each nucleus"
    ):
        read_label_image(tmp_path / "s.png")


def test_a_tiff_of_one_page_may_state_so(tmp_path):
    mask = np.arange(12, dtype=np.uint8).reshape(3, 4)
    tifffile.imwrite(tmp_path / "s.tif", mask[None], metadata={"axes": "ZYX"})
    assert np.array_equal(read_label_image(tmp_path / "s.tif"), mask)


def squares(n, side=512):
    """A label image of ``n`` squares of 6 px, numbered from 1 row by row."""
    mask = np.zeros((side, side), np.uint16)
    for index, (y, x) in enumerate(np.ndindex(16, 16)):
        if index < n:
            mask[y * 30 : y * 30 + 6, x * 30 : x * 30 + 6] = index + 1
    return mask


def test_a_number_marks_one_nucleus():
    right = squares(256)
    right[200, 190:197] = 1  # far from nucleus 1, but the area is tiny
    right[20, 100:320] = 300  # long, but one area
    require_nuclei("s.png", right, (0.5, 0.5))
    require_nuclei("s.png", np.zeros((9, 9), int), (0.5, 0.5))
    wrapped = (squares(256) - 1).astype(np.uint8) + np.uint8(1)  # in 8 bits, 256 becomes 0
    wrapped[480:486, 480:486] = 1
    with pytest.raises(LabelError, match="marks separate areas"):
        require_nuclei("s.png", wrapped, (0.5, 0.5))
    for mask in (
        squares(256) + 1,
        1 + (squares(256) > 0),
    ):  # the second is like ilastik's simple segmentation
        with pytest.raises(LabelError, match="covers 63,232 um2"):
            require_nuclei("s.png", mask, (0.5, 0.5))

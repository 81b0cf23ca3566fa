"""Pictures that training and trials read and write."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from muse_pipeline.core.errors import LabelError
from muse_pipeline.core.pictures import list_pictures, read_rgb, write_png


@pytest.mark.parametrize("kind", [((5, 7, 3), np.uint8), ((5, 7), np.uint8), ((5, 7), np.uint16)])
def test_a_picture_comes_back(tmp_path, kind):
    shape, dtype = kind
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype)
    write_png(tmp_path / "p.png", pixels)
    read = cv2.imread(str(tmp_path / "p.png"), cv2.IMREAD_UNCHANGED)
    assert read.dtype == dtype and np.array_equal(read[..., ::-1] if read.ndim == 3 else read, pixels)
    if dtype == np.uint8:
        coloured = np.broadcast_to(pixels.reshape(5, 7, -1), (5, 7, 3))
        assert np.array_equal(read_rgb(tmp_path / "p.png"), coloured)


def test_a_damaged_picture_is_named_with_what_to_do(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(LabelError, match=r"a\.png: not readable as a picture; remove it or write it again"):
        read_rgb(tmp_path / "a.png")
    with pytest.raises(LabelError, match=r"b\.png: not readable as a picture; delete x to make it again"):
        read_rgb(tmp_path / "b.png", "delete x to make it again")


def test_pictures_are_listed_by_name(tmp_path):
    for name in ("b.PNG", "a.tif", "c.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in list_pictures(tmp_path)] == ["a.tif", "b.PNG"]
    assert list_pictures(tmp_path / "nowhere") == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_noticed():
    with pytest.raises(OSError, match="No space left"):
        write_png(Path("/dev/full"), np.zeros((5, 7, 3), np.uint8))

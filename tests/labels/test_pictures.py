"""How training and experiments read and write pictures."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from muse_pipeline.core.pictures import list_pictures, read_grey, read_rgb, write_png
from muse_pipeline.slides.base import open_slide

ORIENTATION = 0x0112  # the EXIF tag


@pytest.mark.parametrize("kind", [((5, 7, 3), np.uint8), ((5, 7), np.uint8), ((5, 7), np.uint16)])
def test_a_picture_comes_back(tmp_path, kind):
    shape, dtype = kind
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype)
    write_png(tmp_path / "p.png", pixels)
    read = cv2.imread(str(tmp_path / "p.png"), cv2.IMREAD_UNCHANGED)
    assert read.dtype == dtype and np.array_equal(
        read[..., ::-1] if read.ndim == 3 else read, pixels
    )
    if dtype == np.uint8:
        coloured = np.broadcast_to(pixels.reshape(5, 7, -1), (5, 7, 3))
        assert np.array_equal(read_rgb(tmp_path / "p.png"), coloured)


@pytest.mark.parametrize("content", [None, b"", b"no picture"])
def test_a_damaged_mask_is_none(tmp_path, content):
    if content is not None:
        (tmp_path / "a.png").write_bytes(content)
    assert read_grey(tmp_path / "a.png") is None


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_picture_is_read_as_it_is_stored_and_not_turned_by_its_camera(tmp_path, suffix):
    """The reader of slides ignores the orientation tag too, so that masks, points and outlines fit
    the picture.
    """
    path, exif = tmp_path / f"Größe µ.{suffix}", Image.Exif()
    pixels = np.repeat(np.linspace(0, 255, 40 * 64).astype(np.uint8).reshape(40, 64, 1), 3, -1)
    exif[ORIENTATION] = 6  # rotate by 90 degrees to display
    Image.fromarray(pixels).save(path, exif=exif)
    with open_slide(path, "image") as picture:
        assert np.array_equal(read_rgb(path), picture.read_level((0, 0), 0, (64, 40)))
    assert read_grey(path).shape == (40, 64)
    assert cv2.imread(str(path)).shape[:2] == (64, 40)


def test_pictures_are_listed_by_name(tmp_path):
    for name in ("b.PNG", "a.tif", "c.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in list_pictures(tmp_path)] == ["a.tif", "b.PNG"]
    assert list_pictures(tmp_path / "nowhere") == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_noticed():
    with pytest.raises(OSError, match="No space left"):
        write_png(Path("/dev/full"), np.zeros((5, 7, 3), np.uint8))

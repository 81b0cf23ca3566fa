"""Pictures that training and trials write."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from muse_pipeline.data.png import write_png


@pytest.mark.parametrize("kind", [((5, 7, 3), np.uint8), ((5, 7), np.uint8), ((5, 7), np.uint16)])
def test_a_picture_comes_back(tmp_path, kind):
    shape, dtype = kind
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype)
    write_png(tmp_path / "p.png", pixels)
    read = cv2.imread(str(tmp_path / "p.png"), cv2.IMREAD_UNCHANGED)
    assert read.dtype == dtype and np.array_equal(read[..., ::-1] if read.ndim == 3 else read, pixels)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_noticed():
    with pytest.raises(OSError, match="No space left"):
        write_png(Path("/dev/full"), np.zeros((5, 7, 3), np.uint8))

"""The stream of unlabelled windows: seeded by the step, only on tissue, read from stores window by
window.
"""

import numpy as np
import pytest
import torch
from PIL import Image

from muse_pipeline.core.errors import ConfigError, LabelError, StoreError
from muse_pipeline.data.unlabelled import (
    Picture,
    UnlabelledSource,
    UnlabelledWindows,
    WindowSampler,
    cut_crops,
    open_unlabelled,
)


class Slide:
    """A 4,000 x 3,000 px image with tissue in one corner; it records the boxes that were read."""

    size_px = 4000, 3000

    def __init__(self, has_tissue=True):
        mask = np.zeros((188, 250), bool)
        mask[100:120, 200:220] = has_tissue
        self.tissue, self.reads = (mask, 16.0), []

    def read(self, xy, size):
        self.reads.append((xy, size))
        return np.full((size[1], size[0], 3), 7, np.uint8)


def picture(height=96, width=80):
    return Picture(np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8))


def test_a_step_gives_one_batch_no_matter_who_asks():
    first, second = (
        UnlabelledWindows([picture(), Slide()], 32, 6, 3, torch.device("cpu")) for _ in range(2)
    )
    batch = first(5)
    assert batch.shape == (6, 3, 32, 32) and batch.dtype == torch.float32
    first(6)
    assert torch.equal(batch, second(5)) and torch.equal(batch, first(5))
    assert not torch.equal(batch, first(4))


def test_slides_are_read_by_windows_that_are_centred_on_tissue():
    slide = Slide()
    WindowSampler([slide], 64)(50, np.random.default_rng(0))
    assert len(slide.reads) == 50 and {size for _, size in slide.reads} == {(64, 64)}
    centres = np.array([xy for xy, _ in slide.reads]) + 32
    assert (centres >= np.array([200, 100]) * 16 - 1).all() and (
        centres <= np.array([220, 120]) * 16
    ).all()


def test_images_are_drawn_by_their_tissue():
    small, slide = picture(64, 64), Slide()  # 16 and 400 cells of tissue
    WindowSampler([small, slide], 32)(1000, np.random.default_rng(0))
    assert 920 < len(slide.reads) < 990


def test_images_with_equal_tissue_are_drawn_alike():
    coarse, fine = Slide(), Slide()
    coarse.tissue = fine.tissue[0][::2, ::2], 32.0
    WindowSampler([coarse, fine], 32)(400, np.random.default_rng(0))
    assert 160 < len(coarse.reads) < 240


def test_crops_are_spread_over_all_tissue():
    slide = Slide()
    slide.slide_id, slide.tissue = "S", (np.ones((188, 250), bool), 16.0)
    assert len(cut_crops(slide, 0, 500, 6)) == 6  # of 6 rows of 8 windows
    assert {y for (_, y), _ in slide.reads} == set(range(0, 3000, 500))


def test_a_picture_smaller_than_a_window_is_mirrored():
    small = picture(20, 24)
    window = WindowSampler([small], 32)(1, np.random.default_rng(0))[0]
    assert (window[:20, :24] == small.pixels).all() and (
        window[20:32, :24] == small.pixels[19:7:-1]
    ).all()


def test_no_tissue_and_no_source_are_reported():
    with pytest.raises(StoreError, match="no image has tissue"):
        WindowSampler([Slide(has_tissue=False)], 32)


def test_pictures_are_resampled_and_must_state_how_large_a_pixel_is(tmp_path):
    Image.fromarray(picture().pixels).save(tmp_path / "a.png")
    (image,) = open_unlabelled((UnlabelledSource(images=tmp_path, mpp=0.25),), 0.5)
    assert image.size_px == (40, 48)
    with pytest.raises(LabelError, match="pixel size"):
        open_unlabelled((UnlabelledSource(images=tmp_path),), 0.5)
    with pytest.raises(ConfigError, match="no such folder"):
        open_unlabelled((UnlabelledSource(images=tmp_path / "b", mpp=1.0),), 0.5)
    (tmp_path / "c").mkdir()
    with pytest.raises(ConfigError, match="holds no picture"):
        open_unlabelled((UnlabelledSource(images=tmp_path / "c", mpp=1.0),), 0.5)

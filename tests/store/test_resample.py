"""Resampling by area has neither seams nor shifts."""

import numpy as np
import pytest
from drawn import ArraySlide, discs, draw

from muse_pipeline.core.errors import MppError
from muse_pipeline.store.resample import AreaReader, choose_level, warn_enlarged


@pytest.mark.parametrize(
    "mpp",
    [
        (0.25, 0.25),
        (0.2527, 0.2527),
        (0.2527, 0.2459),
        (0.4991, 0.4991),
        (0.11, 0.13),
        (0.512, 0.512),
        (0.7, 0.7),
        (1.0, 0.3),
    ],
)
def test_rectangles_agree_wherever_they_are_cut(mpp):
    image = np.random.default_rng(0).integers(0, 256, (700, 900, 3), np.uint8)
    slide = ArraySlide([image])
    reader = AreaReader(slide, slide.info(mpp), 0.5)
    width, height = reader.size_px
    whole = reader.read((0, 0), reader.size_px)
    assert whole.shape == (height, width, 3)
    for x, y, w, h in [
        (37, 41, 60, 70),
        (0, 0, 1, 1),
        (width - 9, height - 7, 9, 7),
        (13, 0, width - 13, 5),
    ]:
        np.testing.assert_array_equal(reader.read((x, y), (w, h)), whole[y : y + h, x : x + w])


@pytest.mark.parametrize("mpp", [(0.7, 0.7), (1.0, 0.6)])
def test_a_coarser_slide_is_interpolated_between_its_pixels(mpp):
    """The last pixels of the slide are not compared, because the outermost pixels are repeated at
    its edges.
    """
    slide = draw(
        lambda x, y: np.stack([20 + x, 20 + y, 20 + (x + y) / 2], -1),
        (200, 150),
        mpp,
        oversampling=1,
    )
    got = AreaReader(slide, slide.info(mpp), 0.5).read((2, 2), (250, 160)).astype(float)
    x, y = np.meshgrid((np.arange(250) + 2.5) * 0.5, (np.arange(160) + 2.5) * 0.5)
    expected = np.stack([20 + x, 20 + y, 20 + (x + y) / 2], -1)
    inside = (x < mpp[0] * 199) & (y < mpp[1] * 149)
    assert np.abs(got - expected)[inside].max() <= 1.0


@pytest.mark.parametrize(
    "mpp, level_sizes",
    [
        ((0.25, 0.25), [(400, 300), (200, 150)]),
        ((0.25, 0.25), [(200, 150), (50, 37)]),
        ((0.25, 0.25), [(401, 299)]),
        ((0.2, 0.2), [(320, 240)]),
        ((0.1213, 0.1213), [(200, 150)]),
        ((0.25, 0.21), [(400, 300)]),
        ((0.503, 0.503), []),
        ((0.9, 0.9), []),
    ],
)
def test_discs_stay_where_they_are(mpp, level_sizes):
    rng = np.random.default_rng(1)
    size_px = (800, 600)
    cells = np.stack(np.meshgrid(np.arange(3), np.arange(2)), -1).reshape(-1, 2)
    pitch = np.array(size_px) * mpp / (3, 2)
    centres_um = (cells + 0.5) * pitch + rng.uniform(-3, 3, cells.shape)
    slide = draw(discs(centres_um, 5.0), size_px, mpp, level_sizes, oversampling=3)
    reader = AreaReader(slide, slide.info(mpp), 0.5)
    dark = 255.0 - reader.read((0, 0), reader.size_px).mean(-1)
    y, x = np.mgrid[: dark.shape[0], : dark.shape[1]] + 0.5
    for cell, centre_um in zip(cells, centres_um, strict=True):
        (left, top), (right, bottom) = ((at * pitch / 0.5).astype(int) for at in (cell, cell + 1))
        part = slice(top, bottom), slice(left, right)
        found = [np.average(axis[part], weights=dark[part]) for axis in (x, y)]
        assert np.abs(found - centre_um / 0.5).max() < 0.1


def test_the_coarsest_level_that_is_fine_enough_is_read():
    pictures = [np.zeros((n, n, 3), np.uint8) for n in (1600, 400, 100)]
    for slide_mpp in ((0.25, 0.25), (0.25, 0.24), (0.24, 0.25)):
        info = ArraySlide(pictures).info(slide_mpp)
        assert [choose_level(info, mpp) for mpp in (0.25, 0.5, 0.9999, 1.0, 3.9, 4.0)] == [
            0,
            0,
            1,
            1,
            1,
            2,
        ]


def test_a_slide_too_coarse_is_rejected_with_both_numbers():
    slide = ArraySlide([np.zeros((9, 9, 3), np.uint8)])
    assert choose_level(slide.info((1.0, 1.0)), 0.5) == 0
    assert choose_level(slide.info((0.6, 0.6)), 0.5) == 0
    with pytest.raises(MppError, match=r"0\.6 um/px, too coarse"):
        choose_level(slide.info((0.6, 0.6)), 0.5, enlarge=False)
    with pytest.raises(MppError, match=r"1\.01 um/px.*0\.5 um/px"):
        choose_level(slide.info((1.01, 0.5)), 0.5)


def test_a_slide_that_is_enlarged_is_warned_of():
    slide = ArraySlide([np.zeros((9, 9, 3), np.uint8)])
    assert not warn_enlarged(slide.info((0.52, 0.52)), 0.5)
    assert (
        "has 0.6 um/px and is enlarged to 0.5 um/px"
        in warn_enlarged(slide.info((0.6, 0.5)), 0.5)[0]
    )


def test_white_beyond_the_end():
    slide = ArraySlide([np.zeros((100, 100, 3), np.uint8)])
    reader = AreaReader(slide, slide.info((0.2527, 0.2527)), 0.5)
    assert reader.size_px == (51, 51)
    pixels = reader.read((40, 40), (20, 20))
    assert (pixels[:11, :11] == 0).all() and (pixels == 0).sum() == 3 * 11 * 11
    assert (reader.read((60, 0), (5, 5)) == 255).all()

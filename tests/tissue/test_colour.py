"""The stains of a slide are measured only in its tissue."""

import numpy as np
import pytest
from drawn import ArraySlide
from test_macenko import STAINS, degrees_between, mix

from muse_pipeline.tissue import colour
from muse_pipeline.tissue.colour import SlideColour, choose_fields, measure_colour, measure_picture
from muse_pipeline.tissue.mask import TissueMask


def stained_slide(**kw):
    """A slide with tissue in one quarter and green ink elsewhere."""
    image = np.full((1024, 1024, 3), (30, 160, 120), np.uint8)
    image[:512, :512] = mix(512 * 512).reshape(512, 512, 3)
    mask = np.zeros((64, 64), bool)
    mask[:32, :32] = True
    return ArraySlide([image], **kw), TissueMask(mask, np.array([8.0, 8.0]), None, 0.065536)


def test_only_tissue_counts():
    slide, tissue = stained_slide()
    found = measure_colour(slide, slide.info((0.5, 0.5)), tissue)
    assert degrees_between(found.macenko.stains, STAINS).max() < 3
    assert found.n_pixels <= 512 * 512 and found.mpp == 0.5 and found.warnings == ()
    assert found.to_dict() == measure_colour(slide, slide.info((0.5, 0.5)), tissue).to_dict()
    assert SlideColour.from_dict(found.to_dict()).to_dict() == found.to_dict()


def test_the_sample_is_bounded_and_spread(monkeypatch):
    tissue = TissueMask(np.ones((100, 200), bool), np.array([8.0, 8.0]), None, 1.28)
    everything = choose_fields(tissue, np.array([0.5, 0.5]))
    assert len(everything) == 18  # of 13 x 7 fields
    monkeypatch.setattr(colour, "MAX_PIXELS", 100_000)
    few = choose_fields(tissue, np.array([0.5, 0.5]))
    assert len(few) == 2 and np.ptp(everything[:, 0]) > 1000 and np.ptp(everything[:, 1]) > 500


def test_corrupt_fields_are_left_out_and_counted():
    slide, tissue = stained_slide(corrupt=[(0, 0, 100, 100)])
    found = measure_colour(slide, slide.info((0.5, 0.5)), tissue)
    assert found.macenko and "1 of 4 fields" in found.warnings[0]


@pytest.mark.parametrize("grey", [240, 120])
def test_an_implausible_fit_is_none_and_a_warning(grey):
    slide = ArraySlide([np.full((256, 256, 3), grey, np.uint8)])
    tissue = TissueMask(np.ones((16, 16), bool), np.array([8.0, 8.0]), None, 0.016)
    found = measure_colour(slide, slide.info((0.5, 0.5)), tissue)
    assert found.macenko is None and "colours are left as they are" in found.warnings[0]


def test_a_coarse_level_may_lack_the_last_pixels_of_a_fine_one():
    image = mix(1024 * 1024).reshape(1024, 1024, 3)
    slide = ArraySlide([image, image[:1022:7, :1022:7]])
    slide.downsamples = [(1.0, 1.0), (7.0, 7.0)]
    tissue = TissueMask(
        np.ones((73, 73), bool), np.array([7.0, 7.0]), None, 0.26
    )  # covers 1,022 of 1,024 px
    assert measure_colour(slide, slide.info((0.5, 0.5)), tissue).n_pixels > 5e5


@pytest.mark.parametrize("tint", [(1, 1, 1), (0.72, 0.8, 0.67)])
@pytest.mark.parametrize("n_brown", [0, 24])
def test_brown_is_told_from_the_yellow_of_a_lamp(tint, n_brown):
    """The picture has 256 rows: 24 of glass, ``n_brown`` of DAB, and the rest of haematoxylin and
    eosin.
    """
    pixels = mix(256 * 256).reshape(256, 256, 3).astype(float)
    pixels[:24] = 243
    pixels[200 : 200 + n_brown] = (140, 95, 60)
    found = measure_picture((pixels * tint).astype(np.uint8), 0.5)
    assert 0.09 < found["brown"] < 0.13 if n_brown else found["brown"] < 0.01

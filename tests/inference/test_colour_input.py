"""How a slide's stains become the model's colour input."""

import dataclasses
import json

import numpy as np
import pytest

from muse_pipeline.core.errors import StoreError
from muse_pipeline.core.pictures import read_rgb
from muse_pipeline.inference.card import ColourReference
from muse_pipeline.inference.detect import detect_picture
from muse_pipeline.inference.model import find_model, read_card
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.inference.stains import MAX_GAIN_RATIO, colour_of_fit, read_colour
from muse_pipeline.tissue.stain import IDENTITY, MacenkoFit, fit_macenko, stain_map

FIT = {"stains": [[0.6, 0.7, 0.4], [0.1, 0.8, 0.6]], "strong": [1.5, 1.2]}


def test_a_slide_without_a_fit_keeps_its_colours(tmp_path):
    (tmp_path / "colour.json").write_text('{"macenko": null}')
    reference = ColourReference("macenko", tuple(map(tuple, FIT["stains"])), tuple(FIT["strong"]))
    colour = colour_of_fit(reference, read_colour(tmp_path / "colour.json").macenko)
    np.testing.assert_array_equal(colour, np.eye(3, 4))


def test_the_stains_of_another_slide_are_rejected(tmp_path):
    (tmp_path / "colour.json").write_text(json.dumps({"macenko": FIT, "fingerprint": "a"}))
    assert read_colour(tmp_path / "colour.json", "a").fingerprint == "a"
    with pytest.raises(StoreError, match="to a different slide"):
        read_colour(tmp_path / "colour.json", "b")


def test_a_share_goes_that_far_from_the_slides_own_colours():
    reference = ColourReference("macenko", ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11)), (1.4, 1.0))
    fit = MacenkoFit(np.array(FIT["stains"]), np.array(FIT["strong"]))
    maps = {
        share: colour_of_fit(dataclasses.replace(reference, share=share), fit)
        for share in (0, 0.25, 1)
    }
    np.testing.assert_array_equal(maps[0], np.eye(3, 4))
    np.testing.assert_allclose(
        maps[0.25], np.eye(3, 4) + 0.25 * (maps[1] - np.eye(3, 4)), atol=1e-6
    )
    np.testing.assert_array_equal(
        maps[1], stain_map(FIT["stains"], FIT["strong"], reference.stains, reference.strong)
    )


REFERENCE = ColourReference("macenko", ((0.60, 0.72, 0.34), (0.29, 0.80, 0.52)), (1.4, 1.0))


def test_colours_of_other_stains_stay_as_they_are():
    violet = MacenkoFit(np.array([[0.65, 0.70, 0.29], [0.45, 0.85, 0.20]]), np.array([0.8, 2.5]))
    assert np.array_equal(colour_of_fit(REFERENCE, violet), IDENTITY)


@pytest.mark.parametrize(
    "ratio, is_kept", [(0.99 * MAX_GAIN_RATIO, False), (1.01 * MAX_GAIN_RATIO, True)]
)
def test_the_limit_is_of_one_mixture_against_another(ratio, is_kept):
    """Of two perpendicular stains, one is fainter than the other by ``ratio``; how faint both are
    does not matter.
    """
    for second, is_violet in (((1.0, 0.0, 0.0), True), ((0.0, 0.0, 1.0), False)):
        reference = ColourReference("macenko", ((0.0, 1.0, 0.0), second), (1.0, 1.0))
        for faint in (0.1, 1.0):
            fit = MacenkoFit(np.array(reference.stains), faint * np.array([1.0, ratio]))
            assert np.array_equal(colour_of_fit(reference, fit), IDENTITY) is (
                is_kept and is_violet
            )


@pytest.mark.parametrize(
    "files", ["brca-m2c/images/*.png", "orion-crc-tiles/images/*.tif", "camelyon16-patches/*/*.png"]
)
def test_no_picture_of_haematoxylin_and_eosin_keeps_its_colours(shared_data, files):
    reference = read_card(find_model("compact")).colour
    fits = [fit_macenko(read_rgb(path).reshape(-1, 3)) for path in sorted(shared_data.glob(files))]
    assert sum(fit is not None for fit in fits) > 50
    assert not any(np.array_equal(colour_of_fit(reference, fit), IDENTITY) for fit in fits if fit)


def test_nuclei_in_violet_are_found(shared_data):
    pixels = read_rgb(shared_data / "dsb2018-brightfield/images/4ae4f936.png")
    found = detect_picture(
        Predictor(find_model("compact-fp32")), pixels, 0.25, fit_macenko(pixels.reshape(-1, 3))
    )
    assert len(found) >= 15  # of 30 nuclei; in normalised colours, none is found

"""The built-in model that no label trained: its card, its size, and nuclei where there are some."""

import cv2
import numpy as np
import pytest

from muse_pipeline.inference.colour_input import colour_of_fit
from muse_pipeline.inference.model import find_model
from muse_pipeline.inference.picture import detect_image
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.tissue.stain import fit_macenko


@pytest.fixture(scope="module")
def predictor():
    return Predictor(find_model("label_free"))


def test_its_card_is_complete_and_the_file_small(predictor):
    card = predictor.card
    assert (card.name, card.mpp, card.licence) == ("label_free", 0.5, "Apache-2.0")
    assert [one.name for one in card.classes] == ["Nucleus"]
    assert card.n_rays == 32
    assert "no label was read" in card.training_data.replace("\n", " ")
    assert card.limits
    assert predictor.path.stat().st_size < 25e6


def test_it_finds_about_as_many_nuclei_as_there_are(predictor, shared_data):
    folder = shared_data / "brca-m2c"
    path = sorted((folder / "images").iterdir())[0]
    pixels = np.ascontiguousarray(cv2.imread(str(path))[..., ::-1])
    colour = colour_of_fit(predictor.card.colour, fit_macenko(pixels.reshape(-1, 3)))
    found = detect_image(predictor, pixels, colour)
    n_true = len(next((folder / "labels").glob(f"{path.stem}*")).read_text().splitlines())
    assert 0.6 * n_true < len(found) < 1.7 * n_true
    assert 2 < found.rays.mean() < 6  # um


def test_glass_and_plain_stroma_hold_no_nuclei(predictor):
    for colour in ((243, 242, 244), (230, 190, 210)):
        plain = np.full((256, 256, 3), colour, np.uint8)
        assert len(detect_image(predictor, plain, np.eye(3, 4, dtype=np.float32))) == 0

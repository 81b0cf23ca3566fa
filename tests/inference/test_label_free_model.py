"""The built-in model trained without labels: its card, its size, and its nuclei on real tissue."""

import dataclasses

import cv2
import numpy as np
import pytest

from muse_pipeline.inference.detect import detect_image
from muse_pipeline.inference.model import find_model
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.inference.stains import colour_of_fit
from muse_pipeline.tissue.stain import fit_macenko


@pytest.fixture(scope="module")
def predictor():
    return Predictor(find_model("label_free"))


def test_it_finds_about_as_many_nuclei_as_there_are(predictor, shared_data):
    folder = shared_data / "brca-m2c"
    path = sorted((folder / "images").iterdir())[0]
    pixels = np.ascontiguousarray(cv2.imread(str(path))[..., ::-1])
    colour = colour_of_fit(predictor.card.colour, fit_macenko(pixels.reshape(-1, 3)))
    found = detect_image(predictor, pixels, colour)
    n_true = len(next((folder / "labels").glob(f"{path.stem}*")).read_text().splitlines())
    assert 0.6 * n_true < len(found) < 1.7 * n_true
    assert 2 < found.rays.mean() < 6  # in um


def test_its_outlines_are_those_of_the_graph_on_the_nearest_edges(
    predictor, shared_data, monkeypatch
):
    path = sorted((shared_data / "nucls-cc0/images").iterdir())[0]
    pixels = cv2.resize(cv2.imread(str(path))[..., ::-1], (128, 128), interpolation=cv2.INTER_AREA)
    colour = colour_of_fit(predictor.card.colour, fit_macenko(pixels.reshape(-1, 3)))
    window = np.full((1, 1024, 1024, 3), 255, np.uint8)
    window[0, :128, :128] = pixels
    (moved,) = predictor(window, colour)
    monkeypatch.setattr(predictor, "card", dataclasses.replace(predictor.card, snap_um=0.0))
    (plain,) = predictor(window, colour)
    assert (moved.xy == plain.xy).all() and (moved.score == plain.score).all()
    change = np.abs(moved.rays - plain.rays)
    assert 0.1 < change.mean() < 1 and change.max() < 1.5 + 0.2


def test_glass_and_plain_stroma_hold_no_nuclei(predictor):
    for colour in ((243, 242, 244), (230, 190, 210)):
        plain = np.full((256, 256, 3), colour, np.uint8)
        assert len(detect_image(predictor, plain, np.eye(3, 4, dtype=np.float32))) == 0

"""A slide's stains on their way to the model."""

import json

import numpy as np
import pytest

from muse_pipeline.errors import StoreError
from muse_pipeline.inference.card import ColourReference
from muse_pipeline.inference.colour import colour_for_slide, read_colour

FIT = {"stains": [[0.6, 0.7, 0.4], [0.1, 0.8, 0.6]], "strong": [1.5, 1.2]}


def test_a_slide_without_a_fit_keeps_its_colours(tmp_path):
    (tmp_path / "colour.json").write_text('{"macenko": null}')
    reference = ColourReference("macenko", tuple(map(tuple, FIT["stains"])), tuple(FIT["strong"]))
    colour = colour_for_slide(reference, read_colour(tmp_path / "colour.json"))
    np.testing.assert_array_equal(colour, np.eye(3, 4))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"macenko": 1}', json.dumps({"macenko": FIT | {"strong": [1]}}), "\udcff"]
)
def test_what_is_no_colour_json_is_refused(tmp_path, text):
    path = tmp_path / "colour.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(StoreError, match="is not a colour"):
        read_colour(path)
    with pytest.raises(StoreError, match="cannot be read"):
        read_colour(tmp_path)


def test_a_complete_fit_is_read(tmp_path):
    (tmp_path / "colour.json").write_text(json.dumps({"macenko": FIT}))
    assert read_colour(tmp_path / "colour.json")["macenko"] == FIT

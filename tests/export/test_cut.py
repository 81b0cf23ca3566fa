"""A cut graph gives the numbers of the whole one, and the map that the head of its detector reads."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest

from muse_pipeline.core.errors import ModelError
from muse_pipeline.inference.model import BUILT_IN, find_graph, find_model, open_session
from muse_pipeline.inference.predictor import OUTPUTS, Predictor

COLOUR = np.array([[0.9, 0.1, 0, 0.02], [0, 1.1, 0, 0], [0.1, 0, 0.8, -0.01]], np.float32)
MODELS = ["compact-int8", "compact-fp32", "label_free"]


def open_graph(graph) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("name", MODELS)
def test_a_predictor_gives_the_numbers_of_its_file(name):
    path = find_model(name)
    predictor = Predictor(path)
    pixels = np.full((1, 96, 160, 3), (230, 190, 215), np.uint8)
    for x in range(20, 160, 40):
        cv2.circle(pixels[0], (x, 48), 8, (90, 50, 140), -1)
    pixels += np.random.default_rng(0).integers(0, 20, pixels.shape, np.uint8)
    session = open_graph(str(path))
    expected = session.run(predictor.outputs, {"pixels": pixels.transpose(0, 3, 1, 2), "colour": COLOUR})
    found = predictor.run(predictor.outputs, pixels, COLOUR)
    assert predictor.session.get_inputs()[0].type == "tensor(float)" and (expected[1] > 0).any()
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", MODELS)
def test_the_graph_of_a_built_in_model_has_the_map_of_its_head(name):
    session = open_graph(str(find_graph(find_model(name))))
    assert [port.name for port in session.get_inputs()] == ["density", "colour"]
    assert [port.name for port in session.get_outputs()] == [*OUTPUTS, "dense"]


def test_the_graphs_are_those_that_the_script_writes(tmp_path):
    written = {path: path.read_bytes() for path in BUILT_IN.rglob("*") if path.suffix in {".cut", ".onnx"}}
    assert sum(path.suffix == ".cut" for path in written) == len(MODELS)
    subprocess.run([sys.executable, Path(__file__).parents[2] / "docs/make_cut_graphs.py"], check=True, cwd=tmp_path)
    assert written == {path: path.read_bytes() for path in written}


@pytest.mark.parametrize("n_bytes", [0, 10, 2_000, 1_000_000])
def test_a_damaged_file_is_rejected_as_onnx_runtime_states_it(n_bytes, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(find_model("compact-int8").read_bytes()[:n_bytes])
    with pytest.raises(ModelError, match="not usable as an ONNX model") as stated:
        open_session(path, onnxruntime.SessionOptions(), "cpu")
    with pytest.raises(ModelError) as found:
        Predictor(path)
    assert str(found.value) == str(stated.value)


def test_weights_beside_the_file_are_found(tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(onnx.load(find_model("compact-int8")), path, save_as_external_data=True, location="weights")
    assert Predictor(path).card.name == "compact"

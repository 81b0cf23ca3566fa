"""A cut graph gives the numbers of the whole one, and the map that the head of its detector
reads.
"""

import runpy
import shutil
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest

from muse_pipeline.cli.main import main
from muse_pipeline.core.errors import ModelError
from muse_pipeline.inference.card import OUTPUTS
from muse_pipeline.inference.embed import Embedder
from muse_pipeline.inference.model import BUILT_IN, DENSITIES, find_graph, find_model, open_session
from muse_pipeline.inference.predictor import Predictor

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
    expected = session.run(
        predictor.outputs, {"pixels": pixels.transpose(0, 3, 1, 2), "colour": COLOUR}
    )
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
    script = runpy.run_path(str(Path(__file__).parents[2] / "docs/make_cut_graphs.py"))
    script["write_densities"](tmp_path / "density")
    assert onnx.load(tmp_path / "density") == onnx.load(DENSITIES)
    assert {path.stem for path in BUILT_IN.glob("*.cut")} == set(MODELS)
    for name in MODELS:
        shutil.copy(BUILT_IN / f"{name}.onnx", tmp_path)
        script["cut_file"](tmp_path / f"{name}.onnx", tmp_path / f"{name}.cut")
        written, kept = (
            onnx.load(folder / f"{name}.cut", load_external_data=False)
            for folder in (tmp_path, BUILT_IN)
        )
        assert (
            written.graph.node == kept.graph.node
            and written.graph.initializer == kept.graph.initializer
        )


def test_a_built_in_model_with_another_card_is_one_file_with_its_graph(tmp_path):
    assert main(f"card compact-int8 --temperature 2 -o {tmp_path / 'soft.onnx'}".split()) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["soft.onnx"]
    pixels = np.random.default_rng(0).integers(90, 255, (1, 96, 96, 3), np.uint8)
    soft, built_in = Predictor(tmp_path / "soft.onnx"), Predictor(find_model("compact-int8"))
    for one, other in zip(
        *(each.run(each.outputs, pixels, COLOUR) for each in (soft, built_in)), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    assert Embedder(tmp_path / "soft.onnx").card.embedding_dim == 24


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
    onnx.save(
        onnx.load(find_model("compact-int8")), path, save_as_external_data=True, location="weights"
    )
    assert Predictor(path).card.name == "compact"

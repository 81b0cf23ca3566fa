"""A graph is cut at the first node that mixes pixels; the two parts together give the same numbers."""

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from muse_pipeline.core.errors import ModelError
from muse_pipeline.inference.graph import cut_after_single_values
from muse_pipeline.inference.model import find_model, open_session
from muse_pipeline.inference.predictor import GraphRunner, Predictor

COLOUR = np.array([[0.9, 0.1, 0, 0.02], [0, 1.1, 0, 0], [0.1, 0, 0.8, -0.01]], np.float32)
EVERY_VALUE = np.arange(256, dtype=np.uint8)
PIXELS = np.random.default_rng(0).integers(1, 256, (2, 3, 4, 4), np.uint8)


def open_graph(graph) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def model_of(*nodes, arrays=None, shape=("n", 3, 4, 4)) -> bytes:
    """Bytes of a model with these nodes, the input ``pixels`` and the output ``y``."""
    ports = [
        helper.make_tensor_value_info(name, kind, shape)
        for name, kind in (("pixels", TensorProto.UINT8), ("y", TensorProto.FLOAT))
    ]
    numbers = [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in (arrays or {}).items()]
    graph = helper.make_graph(list(nodes), "g", ports[:1], ports[1:], numbers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


@pytest.mark.parametrize("name", ["compact-int8", "compact-fp32", "label_free"])
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


def test_the_first_part_is_the_density_and_the_second_states_the_card():
    path = find_model("compact-int8")
    first, rest = cut_after_single_values(path.read_bytes())
    (density,) = open_graph(first).run(None, {"pixels": EVERY_VALUE})
    np.testing.assert_allclose(density, np.log((np.arange(256) + 1) / 256), atol=1e-6)
    onnx.checker.check_model(onnx.load_from_string(rest))
    before, after = (open_graph(each).get_modelmeta().custom_metadata_map for each in (str(path), rest))
    assert before == after


@pytest.mark.parametrize(
    ("last", "scalars"),
    [
        (helper.make_node("Add", ["a", "k"], ["y"]), {"k": 1}),
        (helper.make_node("Div", ["k", "a"], ["y"]), {"k": 2}),
        (helper.make_node("Mul", ["a", "a"], ["y"]), {}),
    ],
)
def test_steps_of_single_values_may_be_the_whole_graph(last, scalars):
    model = model_of(helper.make_node("Cast", ["pixels"], ["a"], to=TensorProto.FLOAT), last, arrays=scalars)
    first, rest = cut_after_single_values(model)
    (table,) = open_graph(first).run(None, {"pixels": EVERY_VALUE})
    (expected,) = open_graph(model).run(None, {"pixels": PIXELS})
    np.testing.assert_array_equal(open_graph(rest).run(None, {"pixels": table[PIXELS]})[0], expected)


@pytest.mark.parametrize(
    "nodes",
    [
        [helper.make_node("Cast", ["pixels"], ["a"], to=1), helper.make_node("Add", ["a", "of_channels"], ["y"])],
        [
            helper.make_node("Cast", ["pixels"], ["a"], to=1),
            helper.make_node("Neg", ["a"], ["b"]),
            helper.make_node("Add", ["a", "b"], ["y"]),
        ],
    ],
)
def test_what_differs_between_channels_or_is_read_twice_stays(nodes):
    model = model_of(*nodes, arrays={"of_channels": np.arange(3).reshape(3, 1, 1)})
    first, rest = cut_after_single_values(model)
    (values,) = open_graph(first).run(None, {"pixels": EVERY_VALUE})
    np.testing.assert_array_equal(values, EVERY_VALUE.astype(np.float32))
    (expected,) = open_graph(model).run(None, {"pixels": PIXELS})
    np.testing.assert_array_equal(open_graph(rest).run(None, {"pixels": values[PIXELS]})[0], expected)


@pytest.mark.parametrize("n_bytes", [0, 10, 2_000, 1_000_000])
def test_a_damaged_file_is_rejected_as_onnx_runtime_states_it(n_bytes, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(find_model("compact-int8").read_bytes()[:n_bytes])
    with pytest.raises(ModelError, match="ONNX model") as stated:
        open_session(path, onnxruntime.SessionOptions(), "cpu")
    with pytest.raises(ModelError) as found:
        Predictor(path)
    assert str(found.value) == str(stated.value)


def test_a_graph_that_onnx_runtime_does_not_take_in_parts_runs_whole(tmp_path):
    path = tmp_path / "m.onnx"
    of_halves = helper.make_node("Cast", ["pixels"], ["a"], to=TensorProto.FLOAT16)
    relu = helper.make_node("Relu", ["a"], ["b"])
    path.write_bytes(model_of(of_halves, relu, helper.make_node("Cast", ["b"], ["y"], to=TensorProto.FLOAT)))
    assert cut_after_single_values(path.read_bytes()) is not None
    runner = GraphRunner(path)
    inputs = runner.inputs(np.ascontiguousarray(PIXELS.transpose(0, 2, 3, 1)), COLOUR)
    assert inputs.pop("colour") is COLOUR and inputs["pixels"].dtype == np.uint8
    (expected,) = open_graph(str(path)).run(None, {"pixels": PIXELS})
    np.testing.assert_array_equal(runner.session.run(None, inputs)[0], expected)


def test_a_size_that_is_read_on_the_way_stays():
    model = model_of(
        helper.make_node("Cast", ["pixels"], ["a"], to=1),
        helper.make_node("Shape", ["a"], ["size"]),
        helper.make_node("Neg", ["a"], ["b"]),
        helper.make_node("Reshape", ["b", "size"], ["y"]),
    )
    first, rest = cut_after_single_values(model)
    (values,) = open_graph(first).run(None, {"pixels": EVERY_VALUE})
    (expected,) = open_graph(model).run(None, {"pixels": PIXELS})
    np.testing.assert_array_equal(open_graph(rest).run(None, {"pixels": values[PIXELS]})[0], expected)


def test_weights_beside_the_file_are_found(tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(onnx.load(find_model("compact-int8")), path, save_as_external_data=True, location="weights")
    assert Predictor(path).card.name == "compact"


def test_a_graph_that_reads_its_pixels_twice_is_left_whole():
    nodes = [
        helper.make_node("Cast", ["pixels"], ["a"], to=1),
        helper.make_node("Cast", ["pixels"], ["b"], to=1),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    assert cut_after_single_values(model_of(*nodes)) is None

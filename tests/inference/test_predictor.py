"""Models that cannot be used are rejected with one sentence."""

import dataclasses
import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from muse_pipeline.core.errors import ModelError
from muse_pipeline.inference.card import METADATA_KEY, ModelCard
from muse_pipeline.inference.model import find_model, read_card
from muse_pipeline.inference.predictor import GraphRunner, Predictor
from muse_pipeline.inference.stains import colour_of_fit
from muse_pipeline.tissue.stain import IDENTITY, MacenkoFit


def foreign_model(path, **metadata):
    """Write a small valid ONNX file that is not one of our models."""
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [value], [
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    ])  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, metadata)
    onnx.save(model, path)
    return path


def test_the_built_in_model_has_a_complete_card():
    card = Predictor(find_model("compact")).card
    assert card.mpp == 0.5
    assert [one.name for one in card.classes] == ["Lymphocyte", "Epithelial", "Stroma"]
    assert card.capacity >= 30_000 * (card.input_px * card.mpp / 1000) ** 2
    assert card.licence
    assert card.training_data
    assert ModelCard.from_json(card.to_json(), "here") == card


def test_a_graph_that_fails_on_windows_is_named(tmp_path):
    """The convolution of this graph takes four channels, which ONNX Runtime notices only at the
    first window.
    """
    inputs = [
        helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["b", "c", "h", "w"]),
        helper.make_tensor_value_info("colour", TensorProto.FLOAT, [3, 4]),
    ]
    nodes = [
        helper.make_node("Cast", ["pixels"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["x", "weight"], ["y"]),
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", 1, "h", "w"])
    weight = numpy_helper.from_array(np.ones((1, 4, 1, 1), np.float32), "weight")
    graph = helper.make_graph(nodes, "g", inputs, [output], [weight])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10),
        tmp_path / "m.onnx",
    )
    reason = r"m\.onnx: the runtime cannot run it \(Input channels C is not equal.+\); export"
    with pytest.raises(ModelError, match=reason):
        GraphRunner(tmp_path / "m.onnx").run(["y"], np.zeros((1, 8, 8, 3), np.uint8), IDENTITY)


def test_a_model_without_a_card_is_rejected(tmp_path):
    with pytest.raises(ModelError, match="`muse import-model`"):
        Predictor(foreign_model(tmp_path / "m.onnx"))


def test_a_card_that_is_no_card_is_rejected(tmp_path):
    with pytest.raises(ModelError, match="card is not usable"):
        Predictor(foreign_model(tmp_path / "m.onnx", **{METADATA_KEY: "{"}))
    with pytest.raises(ModelError, match="is missing"):
        Predictor(foreign_model(tmp_path / "m.onnx", **{METADATA_KEY: '{"name": "x"}'}))


def test_a_card_on_another_graph_is_rejected(tmp_path):
    card = Predictor(find_model("compact")).card
    with pytest.raises(ModelError, match="lacks the outputs"):
        Predictor(foreign_model(tmp_path / "m.onnx", **{METADATA_KEY: card.to_json()}))


def test_a_window_that_does_not_suit_the_stride_is_rejected():
    with pytest.raises(ValueError, match="stride"):
        dataclasses.replace(read_card(find_model("compact")), input_px=1001)


def test_the_colour_map_takes_a_slide_to_the_reference():
    reference = dataclasses.replace(Predictor(find_model("compact")).card.colour, share=1.0)
    own = MacenkoFit(np.array([[0.6, 0.7, 0.39], [0.2, 0.9, 0.38]]), np.array([1.2, 0.8]))
    matrix = colour_of_fit(reference, own)
    for stain, strong, to, to_strong in zip(
        own.stains, own.strong, reference.stains, reference.strong, strict=True
    ):
        assert np.allclose(matrix[:, :3] @ (stain * strong), np.array(to) * to_strong, atol=1e-5)
    assert np.array_equal(colour_of_fit(reference, None), IDENTITY)


@pytest.mark.parametrize(
    "stated, port",
    [({"input_px": 512}, "pixels"), ({"capacity": 100}, "xy"), ({"n_rays": 16}, "rays")],
)
def test_a_card_that_is_counted_of_another_graph_is_rejected(tmp_path, stated, port):
    model = onnx.load(find_model("compact-fp32"))
    card = Predictor(find_model("compact-fp32")).card
    sizes = {"pixels": (1, 3, card.input_px, card.input_px), "xy": (1, card.capacity, 2)}
    for graph_port in (*model.graph.input, *model.graph.output):  # fix the size of windows
        for side, size in zip(
            graph_port.type.tensor_type.shape.dim, sizes.get(graph_port.name, ()), strict=False
        ):
            side.dim_value = size
    entry = next(entry for entry in model.metadata_props if entry.key == METADATA_KEY)
    entry.value = json.dumps(json.loads(entry.value) | stated)
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=f"its card states '{port}' as"):
        Predictor(tmp_path / "m.onnx")

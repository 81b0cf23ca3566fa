"""Graphs run by PyTorch give the numbers of ONNX Runtime; graphs that PyTorch cannot run are rejected."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from muse_pipeline.core.errors import ModelError, ProviderError
from muse_pipeline.inference.artefacts import MODEL as ARTEFACTS
from muse_pipeline.inference.model import find_model, starts
from muse_pipeline.inference.outlines import MODEL as REFINER
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.inference.torch_runtime import TorchSession
from muse_pipeline.tissue.stain import IDENTITY

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def nuclei_pixels(tiled_slide):
    """Pixels (256, 256, 3) of the synthetic slide around one of its nuclei."""
    truth = np.loadtxt(tiled_slide.folder / "truth.csv", delimiter=",", skiprows=1, usecols=(0, 1))
    xy = truth[len(truth) // 2] * 0.25 / tiled_slide.store.mpp
    return tiled_slide.store.read(tuple((xy - 128).round().astype(int).tolist()), (256, 256))


def in_both(path, inputs, outputs=None):
    """Outputs of ONNX Runtime and of PyTorch, which is called twice, because its first call builds the program."""
    session = TorchSession(path, CPU)
    assert [port.name for port in session.get_inputs()] == list(inputs)
    first, second = session.run(outputs, inputs), session.run(outputs, inputs)
    assert all(np.array_equal(*pair) for pair in zip(first, second, strict=True))
    return onnxruntime.InferenceSession(str(path)).run(outputs, inputs), first


@pytest.mark.parametrize("model", ["compact-fp32", "label_free"])
@pytest.mark.parametrize("sides", [(256, 256), (64, 128)])
def test_a_detector_gives_the_same_numbers(model, sides, nuclei_pixels):
    pixels = np.ascontiguousarray(nuclei_pixels[: sides[0], : sides[1]].transpose(2, 0, 1)[None])
    expected, found = in_both(find_model(model), {"pixels": pixels, "colour": IDENTITY})
    n = int((expected[1] > 0).sum())
    assert n
    for name, wanted, got in zip(("xy", "score", "prob", "rays"), expected, found, strict=True):
        assert got.shape == wanted.shape
        np.testing.assert_allclose(got[:, :n], wanted[:, :n], rtol=0, atol=1e-3, err_msg=name)


def test_a_region_model_and_the_refiner_give_the_same_numbers(nuclei_pixels):
    pixels = np.ascontiguousarray(nuclei_pixels[:128, :128].transpose(2, 0, 1)[None])
    np.testing.assert_allclose(*in_both(ARTEFACTS, {"pixels": pixels, "colour": IDENTITY}), rtol=0, atol=1e-4)
    generator = np.random.default_rng(0)
    shape = onnxruntime.InferenceSession(str(REFINER)).get_inputs()[0].shape
    density = generator.random([each if isinstance(each, int) else 7 for each in shape], np.float32)
    rays = 3 + generator.random((density.shape[2], density.shape[3]), np.float32)
    np.testing.assert_allclose(*in_both(REFINER, {"density": density, "rays": rays}), rtol=0, atol=1e-4)


def test_equal_scores_keep_their_order(tmp_path):
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 6])
    outputs = [
        helper.make_tensor_value_info(*each, [1, 4]) for each in (("v", TensorProto.FLOAT), ("i", TensorProto.INT64))
    ]
    k = helper.make_tensor("k", TensorProto.INT64, [1], [4])
    graph = helper.make_graph([helper.make_node("TopK", ["x", "k"], ["v", "i"], axis=1)], "g", [x], outputs, [k])
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    values = np.array([[1, 3, 3, 0, 3, 1]], np.float32)
    (_, expected), (_, found) = in_both(path, {"x": values})
    assert np.array_equal(found, expected)
    assert found.tolist() == [[1, 2, 4, 0]]


def test_integers_are_rejected_by_name():
    with pytest.raises(
        ModelError, match=r"this runtime has no operator .*QuantizeLinear.*; choose a floating-point model"
    ):
        Predictor(find_model("compact-int8"), "torch-cpu")


def test_a_file_that_is_not_onnx_is_rejected(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError, match=r"m\.onnx: not usable as an ONNX model"):
        Predictor(tmp_path / "m.onnx", "torch-cpu")


def test_torch_without_an_accelerator_is_an_error():
    if starts("torch"):
        pytest.skip("PyTorch finds an accelerator here")
    with pytest.raises(ProviderError, match=r"'torch' .* could not start here"):
        Predictor(find_model("compact-fp32"), "torch")

"""Built-in models exist in floating point and in int8; the choice depends on the provider, and is
printed.
"""

import dataclasses
import hashlib

import cv2
import numpy as np
import onnx

from muse_pipeline.core.files import read_json
from muse_pipeline.inference.detect import detect_image
from muse_pipeline.inference.model import BUILT_IN, find_model, name_model, read_card
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.tissue.stain import IDENTITY


def test_a_name_means_what_suits_the_provider_and_a_name_with_its_precision_the_same_everywhere():
    assert find_model("compact").stem == "compact-int8"
    assert find_model("compact", "cuda").stem == "compact-fp32"
    for name in ("compact-int8", "compact-fp32", "accurate-fp32", "label_free"):
        assert name_model(find_model(name)) == name


def test_the_workflow_is_given_which_it_is(muse, tmp_path):
    status, out, _ = muse(f"step model compact --resolved {tmp_path / 'm.json'}")
    resolved = read_json(tmp_path / "m.json")
    assert (status, resolved["model"], resolved["precision"], resolved["file"]) == (
        0,
        "compact-int8",
        "int8",
        None,
    )
    assert out.startswith("compact-int8: 0.5 um/px")
    assert resolved["sha256"] == hashlib.sha256(find_model("compact").read_bytes()).hexdigest()


def test_both_files_are_made_from_the_weights_beside_them():
    as_floats, int8 = (
        read_card(BUILT_IN / f"compact-{precision}.onnx") for precision in ("fp32", "int8")
    )
    weights = hashlib.sha256((BUILT_IN / "compact.pt").read_bytes()).hexdigest()
    assert as_floats.source["checkpoint_sha256"] == int8.source["checkpoint_sha256"] == weights
    assert "windows, sha256" in int8.source["calibration"]
    assert dataclasses.replace(int8, precision="fp32", source=as_floats.source) == as_floats


def test_both_find_the_same_nuclei(shared_data):
    pair = "compact-fp32", "compact-int8"
    path = sorted((shared_data / "brca-m2c/images").glob("TCGA-A8*.png"))[0]
    pixels = np.ascontiguousarray(cv2.imread(str(path))[..., ::-1])
    floats, int8 = (
        detect_image(Predictor(BUILT_IN / f"{name}.onnx"), pixels, IDENTITY) for name in pair
    )
    apart = np.hypot(*(floats.xy[:, None] - int8.xy[None]).transpose(2, 0, 1)).min(1)
    assert len(floats) > 50
    assert abs(len(floats) - len(int8)) < 0.05 * len(floats)
    assert (apart < 1).mean() > 0.95


def test_few_pairs_of_products_saturate_16_bits_even_if_every_activation_is_at_its_maximum():
    """On x86-64 without VNNI, products of neighbouring channels are added in pairs, in 16 bits."""
    network = onnx.load(BUILT_IN / "compact-int8.onnx")
    kernels = [
        onnx.numpy_helper.to_array(t)
        for t in network.graph.initializer
        if t.data_type == onnx.TensorProto.INT8
    ]
    layers = [
        k.transpose(0, 2, 3, 1).reshape(len(k), -1).astype(int) for k in kernels if k.ndim == 4
    ]
    pairs = np.concatenate([(k[:, :-1:2] + k[:, 1::2]).ravel() for k in layers])
    saturated = np.abs(255 * pairs) > 2**15 - 1
    assert pairs.size > 600_000
    assert 0 < saturated.mean() < 0.02

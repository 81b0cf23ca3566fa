"""The same network in eight-bit integers: what is quantised, which pictures are used, and what is
rejected.
"""

import hashlib
import os
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from muse_pipeline.cli.main import main
from muse_pipeline.core.errors import ConfigError
from muse_pipeline.export.quantise import calibration_windows, describe_calibration, quantise
from muse_pipeline.inference.model import read_card
from muse_pipeline.inference.predictor import Predictor


@pytest.fixture(scope="module")
def small(run, as_traced_before, tmp_path_factory):
    """An int8 model for windows of 128 px, and what its export printed."""
    path, printed = tmp_path_factory.mktemp("int8") / "model.onnx", StringIO()
    with redirect_stdout(printed):
        assert main([*f"export {run / 'run/checkpoint.pt'} --output {path}".split(), *HOW]) == 0
    return path, printed.getvalue()


HOW = ["--precision", "int8", "--input-px", "128"]


def test_int8_finds_the_same_nuclei_and_its_card_states_how_it_was_calibrated(run, small):
    path, printed = small
    card = Predictor(path).card
    windows = calibration_windows(run / "run/pictures", card)
    assert card.precision == "int8"
    assert card.source["calibration"] == describe_calibration(windows)
    assert card.source["calibration"].startswith(f"{len(windows)} windows, sha256 ")
    assert f"checked against torch on {run}/run/pictures: " in printed


def test_convolutions_are_integers_and_the_last_layer_is_not(small):
    graph = onnx.load(small[0]).graph
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    made_by = {name: node for node in graph.node for name in node.output}
    integers, floats = [], []
    for node in graph.node:
        if node.op_type == "Conv":
            source = made_by.get(node.input[1])
            is_integer = source is not None and source.op_type == "DequantizeLinear"
            (integers if is_integer else floats).append(node)
            if is_integer:
                assert kinds[source.input[0]] == TensorProto.INT8
                assert kinds[made_by[node.input[0]].input[2]] == TensorProto.UINT8
    assert len(integers) > 10
    assert len(floats) == 1  # the stain map
    last = [node for node in graph.node if node.op_type == "MatMul"]
    assert (
        len(last) == 2
    )  # the head's last layer, once for scores and once for the nuclei's other values
    assert all(kinds[node.input[1]] == TensorProto.FLOAT for node in last)


@pytest.mark.slow
def test_other_processes_write_the_same_bytes(run, small, tmp_path):
    again = tmp_path / "again.onnx"
    command = (
        f"{sys.executable} -m muse_pipeline.cli.main export {run / 'run/checkpoint.pt'}".split()
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    subprocess.run(
        [*command, "--output", str(again), *HOW], check=True, env=environment, capture_output=True
    )
    assert (
        hashlib.sha256(again.read_bytes()).digest()
        == hashlib.sha256(small[0].read_bytes()).digest()
    )


def test_the_rest_of_the_window_of_a_small_picture_is_white(run, small, tmp_path):
    card = read_card(small[0])
    picture = cv2.imread(str(run / "run/pictures/0.png"))[:64, :64]
    cv2.imwrite(str(tmp_path / "small.png"), picture)
    (window,) = calibration_windows(tmp_path, card)
    assert np.array_equal(window.pixels[0, :, :64, :64], picture[..., ::-1].transpose(2, 0, 1))
    assert (window.pixels[0, :, 64:] == 255).all()


def test_many_pictures_are_represented_by_some_of_all(small, tmp_path):
    for number in range(130):
        picture = np.full((8, 8, 3), number, np.uint8)
        cv2.imwrite(str(tmp_path / f"{number:03d}.png"), picture)
    windows = calibration_windows(tmp_path, read_card(small[0]))
    numbers = [int(window.pixels[0, 0, 0, 0]) for window in windows]
    assert len(numbers) == 64 and set(np.diff(numbers)) <= {2, 3}


def test_without_pictures_there_is_a_sentence(run, tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    how = [*HOW, "--calibration", str(empty)]
    assert (
        main([*f"export {run / 'run/checkpoint.pt'} --output {tmp_path / 'm.onnx'}".split(), *how])
        == 2
    )
    assert "no pictures to calibrate precision 'int8' on; give a folder" in capsys.readouterr().err
    assert not (tmp_path / "m.onnx").exists()


def test_a_product_before_a_convolution_is_rejected():
    weight = helper.make_tensor("w", TensorProto.FLOAT, (1, 1, 1, 1), [1.0])
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="first"),
        helper.make_node("MatMul", ["a", "w"], ["b"], name="product"),
        helper.make_node("Conv", ["b", "w"], ["y"], name="last"),
    ]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 1, 1, 1)) for name in "xy"]
    model = helper.make_model(helper.make_graph(nodes, "mixed", ports[:1], ports[1:], [weight]))
    with pytest.raises(ConfigError, match="mixed has MatMul"):
        quantise(model, [], "mixed")

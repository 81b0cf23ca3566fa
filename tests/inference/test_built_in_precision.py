"""Built-in models exist in floating point and in int8; the choice depends on the processor, and is printed."""

import dataclasses
import hashlib
import json

import cv2
import numpy as np
import onnx
import pytest
from finished_slide import write_slide

from muse_pipeline.core import environment
from muse_pipeline.core.files import read_json
from muse_pipeline.inference import model as model_file
from muse_pipeline.inference.card import METADATA_KEY
from muse_pipeline.inference.detect import detect_image
from muse_pipeline.inference.model import BUILT_IN, find_model, name_model, precision_warnings, read_card
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.tissue.stain import IDENTITY


@pytest.fixture(params=[True, False])
def vnni(request, monkeypatch):
    monkeypatch.setattr(model_file, "has_vnni", lambda: request.param)
    return request.param


def test_a_name_means_what_suits_the_processor_and_a_name_with_its_precision_the_same_everywhere(vnni):
    assert find_model("compact").stem == ("compact-int8" if vnni else "compact-fp32")
    assert find_model("compact", "cuda").stem == "compact-fp32"
    for name in ("compact-int8", "compact-fp32", "label_free"):
        assert name_model(find_model(name)) == name


def test_the_workflow_is_given_which_it_is(vnni, muse, tmp_path):
    status, out, _ = muse("model", "compact", "--resolved", tmp_path / "m.json")
    found = read_json(tmp_path / "m.json")
    name = "compact-int8" if vnni else "compact-fp32"
    assert (status, found["model"], found["precision"], found["file"]) == (0, name, name[-4:], None)
    assert out.startswith(f"{name}: 0.5 um/px")
    assert found["sha256"] == hashlib.sha256(find_model(name).read_bytes()).hexdigest()


def test_integers_on_a_processor_that_may_overflow_are_a_warning(vnni):
    card = read_card(BUILT_IN / "compact-int8.onnx")
    assert [("compact-fp32" in output) for output in precision_warnings(card, "cpu")] == ([] if vnni else [True])
    own = dataclasses.replace(card, name="/tumours **")
    assert ["floating-point model" in output for output in precision_warnings(own, "cpu")] == ([] if vnni else [True])
    assert not precision_warnings(card, "cuda")
    assert not precision_warnings(read_card(BUILT_IN / "compact-fp32.onnx"), "cpu")


def test_a_region_model_in_integers_is_warned_of_also_if_its_step_fails(vnni, muse, tmp_path):
    network = onnx.load(BUILT_IN / "regions/epithelium.onnx")
    (card,) = (entry for entry in network.metadata_props if entry.key == METADATA_KEY)
    card.value = json.dumps(json.loads(card.value) | {"precision": "int8"})
    onnx.save(network, tmp_path / "int8.onnx")
    store = write_slide(tmp_path, "one") / "image-250nm.zarr"
    words = ("--model", tmp_path / "int8.onnx", "--ledger", tmp_path / "ledger.json", "-o", tmp_path / "regions")
    status, _, printed = muse("regions", store, *words)
    assert status == 2 and "image-250nm.zarr" in printed
    warned = read_json(tmp_path / "ledger.json").get("warnings", [])
    assert ["reports no VNNI: sums may overflow" in each for each in warned] == ([] if vnni else [True])


@pytest.mark.parametrize(
    ("flags", "found"), [("sse2 avx2 avx512_vnni", True), ("avx_vnni", True), ("sse2 avx2", False)]
)
def test_vnni_is_read_from_the_processors_flags(monkeypatch, flags, found):
    output = f"processor\t: 0\nvmx flags\t: avx_vnni\nflags\t\t: {flags}\nbugs\t\t:\n"
    monkeypatch.setattr(environment, "_read_text", lambda path: output)
    assert environment.has_vnni() is found


def test_both_files_are_made_from_the_weights_beside_them():
    as_floats, int8 = (read_card(BUILT_IN / f"compact-{precision}.onnx") for precision in ("fp32", "int8"))
    weights = hashlib.sha256((BUILT_IN / "compact.pt").read_bytes()).hexdigest()
    assert as_floats.source["checkpoint_sha256"] == int8.source["checkpoint_sha256"] == weights
    assert "windows, sha256" in int8.source["calibration"]
    assert dataclasses.replace(int8, precision="fp32", source=as_floats.source) == as_floats


def test_both_find_the_same_nuclei(shared_data):
    pair = "compact-fp32", "compact-int8"
    path = sorted((shared_data / "brca-m2c" / "images").glob("TCGA-A8*.png"))[0]
    pixels = np.ascontiguousarray(cv2.imread(str(path))[..., ::-1])
    floats, int8 = (detect_image(Predictor(BUILT_IN / f"{name}.onnx"), pixels, IDENTITY) for name in pair)
    apart = np.hypot(*(floats.xy[:, None] - int8.xy[None]).transpose(2, 0, 1)).min(1)
    assert len(floats) > 50
    assert abs(len(floats) - len(int8)) < 0.05 * len(floats)
    assert (apart < 1).mean() > 0.95

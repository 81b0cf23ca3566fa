"""Export of region models to ONNX: parity with torch in every precision, and what is rejected."""

import cv2
import numpy as np
import onnx
import pytest
import torch
from drawn_regions import CLASSES, MPP, draw_blobs, draw_texture, save_drawn_model

from muse_pipeline.cli.main import main
from muse_pipeline.core.errors import ModelError
from muse_pipeline.export.region_models import check_region_parity, load_region_model
from muse_pipeline.inference.model import read_card
from muse_pipeline.inference.predictor import RegionPredictor
from muse_pipeline.models.region import RegionNetwork


@pytest.fixture(scope="module")
def checkpoint(region_model):
    return region_model.parent / "checkpoint.pt"


def test_integers_are_checked_against_torch(checkpoint, region_model, tmp_path, muse, monkeypatch):
    monkeypatch.setattr(
        "muse_pipeline.export.region_models.trace_windows", lambda *_: onnx.load(region_model)
    )
    require_checked(checkpoint, tmp_path / "model.onnx", muse, "int8")


@pytest.mark.slow
def test_half_precision_is_checked_against_torch(checkpoint, tmp_path, muse):
    require_checked(checkpoint, tmp_path / "model.onnx", muse, "fp16")


@pytest.mark.slow
def test_windows_of_any_sides_are_taken(checkpoint, tmp_path, muse):
    muse.ok(f"export {checkpoint} --output {tmp_path / 'model.onnx'}")
    predictor = RegionPredictor(tmp_path / "model.onnx")
    picture = draw_texture(draw_blobs(192, 9), MPP, 10)[None]
    assert predictor.any_size
    whole, part = (
        predictor(each, np.eye(3, 4, dtype=np.float32)) for each in (picture, picture[:, :, :160])
    )
    assert part.shape == (1, 2, 48, 40)
    np.testing.assert_allclose(part[..., :20], whole[..., :20], atol=0.02)


def require_checked(checkpoint, output, muse, precision):
    status, out, _ = muse(f"export {checkpoint} --output {output} --precision {precision}")
    assert (status, "checked against torch" in out) == (0, True)
    card = read_card(output)
    assert (card.kind, card.precision, card.mpp, card.cell_px) == ("regions", precision, MPP, 4)
    assert [one.name for one in card.classes] == [one.name for one in CLASSES]
    assert ("calibration" in card.source) is (precision == "int8")
    kinds = [node.op_type for node in onnx.load(output).graph.node]
    assert (kinds.count("DequantizeLinear") > 10) is (precision == "int8")


def test_another_network_is_noticed(region_model, tmp_path):
    torch.manual_seed(1)
    other = save_drawn_model(tmp_path, RegionNetwork("muse_compact_16", 2).eval())
    with pytest.raises(ModelError, match="do not use it"):
        check_region_parity(other, region_model, tmp_path / "pictures")


@pytest.mark.slow
def test_vgg_leaves_as_onnx_and_not_as_int8(tmp_path, capsys):
    torch.manual_seed(0)
    checkpoint = save_drawn_model(
        tmp_path, RegionNetwork("vgg16_3_stages", 2).eval(), "vgg16_3_stages"
    )
    words = (
        f"export {checkpoint} --output {tmp_path / 'm.onnx'} --input-px 192 --halo-px 32".split()
    )
    assert main(words) == 0
    assert main([*words, "--precision", "int8"]) == 2
    assert "choose fp32 or fp16" in capsys.readouterr().err


def test_a_checkpoint_keeps_the_network(checkpoint):
    network, card = load_region_model(checkpoint)
    picture = draw_texture(draw_blobs(128, 5), MPP, 6)
    cv2.setNumThreads(1)
    with torch.no_grad():
        maps = network(torch.from_numpy(picture).permute(2, 0, 1)[None].float(), torch.eye(3, 4))
    assert maps.fused.shape == (1, 1, 32, 32)
    assert card.stride_px == 16

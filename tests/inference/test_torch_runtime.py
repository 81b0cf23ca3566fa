"""Networks run by PyTorch give the numbers of ONNX Runtime; models without their checkpoint are
rejected.
"""

import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest

from muse_pipeline.core.errors import ModelError
from muse_pipeline.core.files import sha256_of
from muse_pipeline.export.onnx import write_model
from muse_pipeline.inference.artefacts import MODEL as ARTEFACTS
from muse_pipeline.inference.card import RegionCard
from muse_pipeline.inference.embed import Embedder
from muse_pipeline.inference.model import BUILT_IN, find_model, read_card
from muse_pipeline.inference.predictor import Predictor, RegionPredictor
from muse_pipeline.models.region import RegionNetwork
from muse_pipeline.tissue.stain import IDENTITY
from muse_pipeline.training.checkpoint import Checkpoint, save_checkpoint


@pytest.fixture(scope="module")
def nuclei_pixels(tiled_slide):
    """Pixels (256, 256, 3) of the synthetic slide around one of its nuclei."""
    truth = np.loadtxt(tiled_slide.folder / "truth.csv", delimiter=",", skiprows=1, usecols=(0, 1))
    xy = truth[len(truth) // 2] * 0.25 / tiled_slide.store.mpp
    return tiled_slide.store.read(tuple((xy - 128).round().astype(int).tolist()), (256, 256))


@pytest.mark.parametrize("model", ["compact-fp32", "accurate-fp32", "label_free"])
@pytest.mark.parametrize("sides", [(256, 256), (64, 128)])
def test_a_built_in_detector_gives_the_same_numbers(model, sides, nuclei_pixels):
    pixels = np.ascontiguousarray(nuclei_pixels[: sides[0], : sides[1]])[None]
    expected, actual = (
        predictor.run(predictor.outputs, pixels, IDENTITY)
        for predictor in (
            Predictor(find_model(model), provider) for provider in ("cpu", "torch-cpu")
        )
    )
    n = int((expected[1] > 0).sum())
    assert n
    for name, wanted, got in zip(("xy", "score", "prob", "rays"), expected, actual, strict=True):
        assert got.shape == wanted.shape
        np.testing.assert_allclose(got[:, :n], wanted[:, :n], rtol=0, atol=1e-3, err_msg=name)


def test_the_features_of_a_detector_are_the_same_numbers(nuclei_pixels):
    xy = np.array([[60.5, 100.0], [128.0, 128.0]])
    path = find_model("compact-fp32")
    expected, actual = (
        Embedder(path, provider)(nuclei_pixels, IDENTITY, xy) for provider in ("cpu", "torch-cpu")
    )
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4)


def test_a_region_model_runs_the_network_of_the_checkpoint_beside_it(nuclei_pixels, tmp_path):
    network = RegionNetwork("muse_compact_16", 4, (0.2, 0.3, 0.5)).eval()
    save_checkpoint(
        tmp_path / "checkpoint.pt",
        Checkpoint(network.backbone.state_dict(), network.sides.state_dict(), {}),
    )
    own = {"backbone": "muse_compact_16", "fusion": "0.2, 0.3, 0.5"}
    card = read_card(ARTEFACTS, RegionCard)
    card = replace(card, source={**own, "checkpoint_sha256": "0" * 64})
    write_model(onnx.load(str(ARTEFACTS)), card, tmp_path / "regions.onnx")
    with pytest.raises(ModelError, match="choose provider 'cuda'"):
        RegionPredictor(tmp_path / "regions.onnx", "torch-cpu")
    card = replace(card, source={**own, "checkpoint_sha256": sha256_of(tmp_path / "checkpoint.pt")})
    write_model(onnx.load(str(ARTEFACTS)), card, tmp_path / "regions.onnx")
    probabilities = RegionPredictor(tmp_path / "regions.onnx", "torch-cpu")(
        nuclei_pixels[None], IDENTITY
    )
    assert probabilities.shape == (1, 4, 64, 64)
    assert probabilities.min() > 0 and probabilities.max() < 1


def test_a_copy_of_a_model_needs_its_checkpoint(tmp_path):
    model = shutil.copy(find_model("compact-fp32"), tmp_path / "mine.onnx")
    shutil.copy(
        BUILT_IN / "torch/label_free.pt", tmp_path / "mine.pt"
    )  # not the checkpoint of this model
    with pytest.raises(ModelError, match="provider 'torch' runs"):
        Predictor(model, "torch-cpu")
    shutil.copy(BUILT_IN / "compact.pt", tmp_path / "mine.pt")
    assert Predictor(model, "torch-cpu").device == "cpu"


def test_a_model_in_int8_is_rejected():
    with pytest.raises(ModelError, match="floating-point model"):
        Predictor(find_model("compact-int8"), "torch-cpu")

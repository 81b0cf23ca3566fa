"""The same network in half precision, with windows and batches of other sizes, and with embeddings
of nuclei.
"""

from contextlib import redirect_stdout
from io import StringIO

import cv2
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from muse_pipeline.cli.main import main
from muse_pipeline.core.errors import ConfigError
from muse_pipeline.export.onnx import export_onnx, load_detector
from muse_pipeline.export.parity import check_parity
from muse_pipeline.inference.model import find_checkpoint
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.models.base import HALF_PIXEL, interpolate_at
from muse_pipeline.tissue.stain import IDENTITY


@pytest.fixture(scope="module")
def half(run, tmp_path_factory):
    """A model in half precision with embeddings, for windows of 128 px, and what its export
    printed.
    """
    path, printed = tmp_path_factory.mktemp("half") / "model.onnx", StringIO()
    how = ["--precision", "fp16", "--embedding", "--input-px", "128"]
    with redirect_stdout(printed):
        assert main([*f"export {run / 'run/checkpoint.pt'} --output {path}".split(), *how]) == 0
    return path, printed.getvalue()


@pytest.fixture(scope="module")
def windows(run):
    """Four windows of 128 px of a synthetic picture."""
    picture = cv2.imread(str(run / "images/P0.png"))[..., ::-1]
    return np.stack([picture[y : y + 128, x : x + 128] for y in (0, 32) for x in (0, 32)])


@pytest.mark.slow
def test_half_precision_runs_on_a_cpu_and_finds_the_same_nuclei(run, half):
    model, printed = half
    card = Predictor(model).card
    assert (card.precision, card.input_px, card.capacity) == ("fp16", 128, 30)
    weights = [
        tensor.data_type for tensor in onnx.load(model).graph.initializer if len(tensor.dims) == 4
    ]
    assert weights.count(TensorProto.FLOAT16) > 0.8 * len(weights)
    parity = check_parity(run / "run/checkpoint.pt", model, run / "run/pictures")
    assert parity.n_nuclei > 40
    assert printed == f"checked against torch on {run}/run/pictures: {parity}\n"


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.slow
def test_trained_weights_find_the_same_nuclei_on_real_tissue(precision, shared_data, tmp_path):
    """For the built-in network, positions agree within 0.05 px, and 99.9 % of the classes."""
    checkpoint = find_checkpoint("compact")
    model = tmp_path / "compact.onnx"
    export_onnx(checkpoint, model, precision=precision, input_px=512)
    parity = check_parity(checkpoint, model, shared_data / "brca-m2c/images")
    assert parity.n_nuclei > 1000
    assert parity.n_unmatched <= (0.001 if precision == "fp16" else 0) * parity.n_nuclei
    assert parity.n_other_class <= 0.001 * parity.n_nuclei
    assert parity.xy_px <= 0.05


@pytest.mark.slow
def test_an_embedding_is_the_dense_map_where_its_nucleus_lies(run, half, windows):
    graph, card = load_detector(run / "run/checkpoint.pt", input_px=128, embedding=True)
    (found,) = Predictor(half[0])(windows[:1], IDENTITY)
    assert found.embedding.shape == (len(found), card.embedding_dim) == (len(found), 16)
    with torch.no_grad():
        dense = graph.detector.features(
            torch.from_numpy(windows[:1]).permute(0, 3, 1, 2), torch.eye(3, 4)
        )
        expected = interpolate_at(
            dense, torch.from_numpy(found.xy.astype(np.float32))[None], HALF_PIXEL
        )[0].numpy()
    assert len(found) > 10
    assert np.abs(found.embedding - expected).max() < 0.05 * float(dense.std())


@pytest.mark.slow
def test_a_window_finds_the_same_in_batches_of_any_size(half, windows):
    predictor = Predictor(half[0])
    together, alone = (
        predictor(windows, IDENTITY),
        [predictor(window[None], IDENTITY)[0] for window in windows],
    )
    for one, other in zip(together, alone, strict=True):
        assert len(one) > 10
        np.testing.assert_allclose(one.xy, other.xy, atol=0.05)


@pytest.mark.parametrize("changes", [{"input_px": 200}, {"halo_px": 40}, {"halo_px": 96}])
def test_a_window_that_does_not_suit_the_network_is_rejected(run, tmp_path, changes):
    with pytest.raises(ConfigError, match="suit muse_compact_16"):
        export_onnx(run / "run/checkpoint.pt", tmp_path / "m.onnx", **changes)

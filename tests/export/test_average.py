"""Several checkpoints as one model."""

import dataclasses

import numpy as np
import onnx
import pytest
import torch

from muse_pipeline.cli.main import main
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.training.checkpoint import load_checkpoint, save_checkpoint


@pytest.fixture(scope="module")
def other(run, tmp_path_factory):
    """The checkpoint of ``run`` with slightly other weights."""
    checkpoint = load_checkpoint(run / "run" / "checkpoint.pt")
    generator = torch.Generator().manual_seed(0)
    noisy = {
        name: value + 0.02 * torch.randn(value.shape, generator=generator) if value.ndim == 4 else value
        for name, value in checkpoint.backbone.items()
    }
    path = tmp_path_factory.mktemp("other") / "checkpoint.pt"
    save_checkpoint(path, dataclasses.replace(checkpoint, backbone=noisy))
    return path


def export(*checkpoints, output, how=()):
    return main(["export", *map(str, checkpoints), "--output", str(output), "--input-px", "128", *how])


def test_the_mean_of_two_is_one_model_that_agrees_with_torch(run, other, tmp_path, capsys):
    first = run / "run" / "checkpoint.pt"
    assert export(first, other, output=tmp_path / "mean.onnx", how=["--name", "both"]) == 0
    assert "checked against torch" in capsys.readouterr().out
    assert export(first, output=tmp_path / "first.onnx") == 0
    assert export(other, output=tmp_path / "other.onnx") == 0
    mean, alone = (Predictor(tmp_path / f"{name}.onnx").card for name in ("mean", "first"))
    assert (mean.name, alone.name) != (alone.name, mean.name)
    assert mean.name == "both"
    assert len(mean.source["checkpoint_sha256"].split()) == 2
    assert mean.source["backbone"] == f"the mean of 2 {alone.source['backbone']}"
    weights = [
        sum(np.prod(t.dims) for t in onnx.load(tmp_path / f"{n}.onnx").graph.initializer) for n in ("mean", "first")
    ]
    assert weights[0] == pytest.approx(2 * weights[1], rel=0.1)


def test_one_checkpoint_twice_finds_what_it_finds(run, tmp_path):
    first = run / "run" / "checkpoint.pt"
    for name, members in (("once", [first]), ("twice", [first, first])):
        assert export(*members, output=tmp_path / f"{name}.onnx") == 0
    window = np.random.default_rng(0).integers(0, 256, (1, 128, 128, 3), np.uint8)
    colour = np.eye(3, 4, dtype=np.float32)
    once, twice = (Predictor(tmp_path / f"{name}.onnx")(window, colour)[0] for name in ("once", "twice"))
    assert len(once) == len(twice)
    np.testing.assert_allclose(once.xy, twice.xy, atol=1e-3)


@pytest.mark.parametrize(
    ("what", "changes"),
    [("mpp", {"mpp": 1.0}), ("threshold", {"export": {"threshold": 0.7}}), ("licence", {"licence": "CC-BY-NC-4.0"})],
)
def test_networks_of_two_kinds_are_not_averaged(run, tmp_path, capsys, what, changes):
    checkpoint = load_checkpoint(run / "run" / "checkpoint.pt")
    config = {**checkpoint.meta["config"], **changes}
    save_checkpoint(tmp_path / "other.pt", dataclasses.replace(checkpoint, meta={**checkpoint.meta, "config": config}))
    assert export(run / "run" / "checkpoint.pt", tmp_path / "other.pt", output=tmp_path / "mean.onnx") == 2
    assert f"are not of one kind: their {what} differ" in capsys.readouterr().err
    assert not (tmp_path / "mean.onnx").exists()

"""A small detector trained on synthetic pictures, and the model exported from it."""

from pathlib import Path

import onnx
import pytest
from labelled import draw_labelled_folder, write_config

from muse_pipeline.cli.main import main
from muse_pipeline.export.onnx import trace


@pytest.fixture(scope="session")
def run(once) -> Path:
    """A folder with run/checkpoint.pt and model.onnx, written by `muse`."""
    return once("export", train_and_export)


@pytest.fixture(scope="module")
def as_traced_before(run):
    """Let exports of this network reuse the traced graph of ``run``, which takes windows of any
    size.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "muse_pipeline.export.onnx.trace", lambda graph, card: onnx.load(run / "traced.onnx")
        )
        yield


def train_and_export(folder: Path) -> None:
    config = write_config(draw_labelled_folder(folder), steps=60, capacity=30)
    words = f"finetune {config} --output {folder / 'run'} --accelerator cpu".split()
    assert main([*words, "--set", "schedule.save_every=60"]) == 0

    def trace_and_keep(graph, card):
        model = trace(graph, card)
        onnx.save(model, folder / "traced.onnx")
        return model

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("muse_pipeline.export.onnx.trace", trace_and_keep)
        assert (
            main(
                (f"export {folder / 'run/checkpoint.pt'} --output {folder / 'model.onnx'}").split()
            )
            == 0
        )

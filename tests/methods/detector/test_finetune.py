"""Training on synthetic pictures: it learns, resumes exactly, and reports mistakes in its settings
and data.
"""

import json
import shutil

import cv2
import numpy as np
import pytest
import torch
from labelled import CPU, draw_labelled_folder, write_config

from experiments.common.training import finetune
from muse_pipeline.core.errors import LabelError, OutputError
from muse_pipeline.methods.detector import data as finetune_data
from muse_pipeline.methods.detector.data import read_detector_data
from muse_pipeline.methods.detector.run import load_detector_config
from muse_pipeline.training.checkpoint import load_checkpoint
from muse_pipeline.training.run import RunFolder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return draw_labelled_folder(tmp_path_factory.mktemp("labelled"))


def test_a_run_learns_and_leaves_what_it_was(folder, tmp_path):
    config = load_detector_config(write_config(folder, steps=40))
    checkpoint = load_checkpoint(finetune(config, tmp_path, CPU))
    losses = [
        json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
    ]
    assert len(losses) == 40
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    assert checkpoint.meta["images"] == ["P0", "P1", "P2"]
    assert checkpoint.meta["patients"] == ["P0", "P1", "P2"]
    assert all(
        torch.isfinite(value).all() for value in (checkpoint.backbone | checkpoint.head).values()
    )
    assert (
        load_detector_config(tmp_path / "config.yaml") == config
    )  # the saved settings can be used again


def test_a_picture_whose_stains_cannot_be_fitted_is_named(folder, tmp_path):
    blank = shutil.copytree(folder, tmp_path / "blank")
    picture = np.full((160, 160, 3), 255, np.uint8)
    cv2.imwrite(str(blank / "images/P1.png"), picture)
    data = read_detector_data(load_detector_config(write_config(blank, colour="macenko")))
    output = []
    data.describe(RunFolder(tmp_path), output.append)
    assert "the stains of 1 picture (first P1) could not be fitted" in output[-1]


@pytest.mark.parametrize("window_px, context_px", [(96, 1024), (2048, 2048)])
def test_slides_are_read_as_far_around_a_region_as_windows_reach(
    folder, monkeypatch, window_px, context_px
):
    def reject(*given):
        raise LabelError(str(given[-1]))

    monkeypatch.setattr(finetune_data, "read_labelled_images", reject)
    with pytest.raises(LabelError, match=f"^{context_px}$"):
        read_detector_data(
            load_detector_config(write_config(folder), changes=[f"window_px={window_px}"])
        )


def test_a_folder_of_a_user_s_own_is_spared(folder, tmp_path):
    config = load_detector_config(write_config(folder, steps=1))
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/mine.png").write_bytes(b"years of work")
    with pytest.raises(OutputError, match="contains pictures"):
        finetune(config, tmp_path, CPU)
    assert [path.name for path in tmp_path.rglob("*")] == ["pictures", "mine.png"]

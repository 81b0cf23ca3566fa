"""Runs with trained teachers: how teachers are named, which are rejected, and what the checkpoint
records.
"""

import dataclasses
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from labelled import CPU, draw_labelled_folder, write_config

from experiments.common.training import finetune
from muse_pipeline.core.errors import CheckpointError, ConfigError
from muse_pipeline.methods.detector.data import read_detector_data
from muse_pipeline.methods.detector.mixing import restrict
from muse_pipeline.methods.detector.run import DetectorRecipe, DetectorStage, load_detector_config
from muse_pipeline.methods.detector.start import read_start
from muse_pipeline.training.checkpoint import load_checkpoint, save_checkpoint
from muse_pipeline.training.run import Options


class SmallSquares(DetectorStage):
    """Keeps the labels of only a small square of each picture."""

    def read(self, log):
        plain = dataclasses.replace(self.config, distillation=None)  # no picture has a region yet
        data = read_detector_data(plain, self.start)
        images = [keep_square(image) for image in data.images]
        return dataclasses.replace(data, config=self.config, images=images)


def keep_square(image, side_px=80):
    region = np.zeros(image.pixels.shape[:2], bool)
    region[:side_px, :side_px] = True
    kept = (image.nuclei.xy < side_px).all(1)
    return dataclasses.replace(image, nuclei=image.nuclei[kept], region=region, annotated=None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Labelled pictures, ``tiny.yaml``, and the runs of two networks trained with that config."""
    folder = draw_labelled_folder(tmp_path_factory.mktemp("distilled"))
    for seed in (0, 1):
        finetune(
            load_detector_config(write_config(folder, steps=5), changes=[f"seed={seed}"]),
            folder / f"t{seed}",
            CPU,
        )
    return folder


def distilled(folder, *teachers, changes=()):
    named = ", ".join(f"{name}/checkpoint.pt" for name in teachers)
    return load_detector_config(
        folder / "tiny.yaml", changes=[f"distillation={{teachers: [{named}]}}", *changes]
    )


def test_teachers_are_found_beside_the_config_and_are_inputs_of_the_run(folder):
    config = distilled(folder, "t0", "t1")
    teachers = [str(folder / name / "checkpoint.pt") for name in ("t0", "t1")]
    assert DetectorRecipe().describe(config)["inputs"][:2] == teachers
    output = []
    checkpoint = load_checkpoint(
        finetune(config, folder / "both", Options(accelerator="cpu", log=output.append))
    )
    assert any("with 2 teachers" in sentence for sentence in output)
    alone = load_checkpoint(folder / "t0/checkpoint.pt")
    assert (
        checkpoint.backbone.keys() == alone.backbone.keys()
    )  # no weights of the teachers are saved
    assert not torch.equal(checkpoint.head["out.weight"], alone.head["out.weight"])


def test_a_run_goes_on_with_the_same_teachers_alone(folder, tmp_path):
    shutil.copytree(folder / "t0", tmp_path / "t0")
    change = f"distillation={{teachers: [{tmp_path / 't0' / 'checkpoint.pt'}]}}"
    config = load_detector_config(folder / "tiny.yaml", changes=[change])
    finetune(config, tmp_path / "run", CPU)
    finetune(config, tmp_path / "run", CPU)
    shutil.copy(folder / "t1/checkpoint.pt", tmp_path / "t0/checkpoint.pt")
    with pytest.raises(CheckpointError, match="teachers changed"):
        finetune(config, tmp_path / "run", CPU)


def test_a_teacher_that_cannot_take_the_windows_is_rejected(folder, tmp_path):
    coarse = load_detector_config(
        folder / "tiny.yaml", changes=["backbone=muse_compact_32", "schedule.steps=1"]
    )
    finetune(coarse, folder / "coarse", CPU)
    with pytest.raises(ConfigError, match="window"):
        finetune(distilled(folder, "coarse", changes=["window_px=80"]), tmp_path, CPU)


@pytest.mark.parametrize("window_px", [96, 192])  # pictures smaller than 192 px are extended
def test_teachers_outside_of_regions_teach_everywhere_if_all_is_annotated(
    folder, tmp_path, window_px
):
    output, window = [], f"window_px={window_px}"
    config = distilled(folder, "t0", changes=["distillation.where=outside", window])
    taught = load_checkpoint(
        finetune(config, tmp_path / "taught", Options(accelerator="cpu", log=output.append))
    )
    assert any("the teachers have 50% of the loss" in sentence for sentence in output)
    everywhere = distilled(folder, "t0", changes=["distillation.share=0.5", window])
    expected = load_checkpoint(finetune(everywhere, tmp_path / "everywhere", CPU))
    assert all(torch.equal(taught.head[name], value) for name, value in expected.head.items())


def test_the_weight_of_teachers_depends_on_tissue_around_labels(folder):
    config = distilled(
        folder, "t0", changes=["distillation.where=outside", "distillation.share=0.9"]
    )
    image = read_detector_data(config).images[0]
    part = np.arange(image.pixels.shape[1]) < 40 + np.zeros((image.pixels.shape[0], 1))
    chosen = {
        "whole": config.distillation.on([image]),
        "held out in part": config.distillation.on([restrict(image, part)]),
        "corrected in part": config.distillation.on([image, replace(image, region=part)]),
    }
    assert {name: (each.share, each.where) for name, each in chosen.items()} == {
        "whole": (0.5, "everywhere"),
        "held out in part": (0.5, "everywhere"),
        "corrected in part": (0.9, "outside"),
    }


def test_teachers_teach_outside_of_regions(folder, tmp_path):
    config = distilled(folder, "t0", changes=["distillation.where=outside", "window_px=128"])
    SmallSquares(config, tmp_path).run(CPU)


def test_a_teacher_that_is_not_there_or_finds_no_nuclei_is_rejected(folder, tmp_path):
    with pytest.raises(CheckpointError, match="correct `checkpoint`"):
        DetectorRecipe().describe(distilled(folder, "nowhere"))
    found = load_checkpoint(folder / "t0/checkpoint.pt")
    (tmp_path / "bare").mkdir()
    save_checkpoint(tmp_path / "bare/checkpoint.pt", dataclasses.replace(found, head={}))
    with pytest.raises(CheckpointError, match="holds no detector"):
        finetune(distilled(folder, tmp_path / "bare"), tmp_path, CPU)
    regions = dataclasses.replace(
        found, meta={**found.meta, "kind": "regions", "config": {"fusion": [1, 1, 1]}}
    )
    save_checkpoint(tmp_path / "bare/checkpoint.pt", regions)  # only its backbone is usable
    with pytest.raises(CheckpointError, match="detector"):
        finetune(distilled(folder, tmp_path / "bare"), tmp_path, CPU)
    changes = ["schedule.steps=1", f"checkpoint={tmp_path / 'bare/checkpoint.pt'}"]
    assert not read_start(load_detector_config(folder / "tiny.yaml", changes=changes)).is_whole
    config = {**found.meta["config"], "backbone": "muse_compact_17"}
    save_checkpoint(
        tmp_path / "bare/checkpoint.pt",
        dataclasses.replace(found, meta={**found.meta, "config": config}),
    )
    with pytest.raises(CheckpointError, match="unknown backbone 'muse_compact_17'"):
        finetune(distilled(folder, tmp_path / "bare"), tmp_path, CPU)


def test_a_checkpoint_names_whose_its_beginnings_have_seen(folder, tmp_path):
    """A checkpoint lists the patients of its start and teachers, so that scores on them can be
    marked as too high.
    """
    output = []
    options = Options(accelerator="cpu", log=output.append)
    alone = ["sources.0.exclude=[P1, P2]", "schedule.steps=1"]
    begun = distilled(folder, "t0", changes=alone)
    checkpoint = load_checkpoint(finetune(begun, tmp_path / "distilled", options))
    assert checkpoint.seen.images == checkpoint.seen.patients == {"P0", "P1", "P2"}
    assert not any("scores are too high" in sentence for sentence in output)
    begun = load_detector_config(
        folder / "tiny.yaml", changes=[*alone, f"checkpoint={folder / 't0/checkpoint.pt'}"]
    )
    held = dataclasses.replace(begun.sources[0], exclude=("P0", "P2"))
    finetune(dataclasses.replace(begun, validation=(held,)), tmp_path / "validated", options)
    assert any(
        "validation scores will be too high" in sentence and "P1" in sentence for sentence in output
    )
    output.clear()
    alone = load_detector_config(folder / "tiny.yaml", changes=alone)
    finetune(dataclasses.replace(alone, validation=(held,)), tmp_path / "first", options)
    again = dataclasses.replace(
        alone, checkpoint=tmp_path / "first/checkpoint.pt", validation=(held,)
    )
    assert load_checkpoint(finetune(again, tmp_path / "second", options)).seen.learnt_patients == {
        "P0"
    }
    assert not any(
        "scores are too high" in sentence for sentence in output
    )  # P1 was in validation only

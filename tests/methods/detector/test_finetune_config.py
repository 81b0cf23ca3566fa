"""Settings of a run: an unknown one is reported with the most similar name, before any data is
read.
"""

import dataclasses
import shutil
from pathlib import Path

import pytest
import yaml
from labelled import CPU, draw_labelled_folder, write_config

from experiments.common.training import finetune
from muse_pipeline.core.errors import CheckpointError
from muse_pipeline.inference.model import BUILT_IN, find_model, read_card
from muse_pipeline.methods.detector.run import load_detector_config
from muse_pipeline.training.checkpoint import load_checkpoint
from muse_pipeline.training.run import Inputs, describe_run, plain_settings

RECIPES = Path(__file__).parents[3] / "config/train"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return draw_labelled_folder(tmp_path_factory.mktemp("labelled"))


DESCRIBED = {"schedule", "training_data", "metrics", "limits"}


@pytest.mark.parametrize(
    "stages, changed",
    [
        (("wide", "outlines"), {"sources", "checkpoint"}),
        (("outlines", "distilled"), {"sources", "checkpoint", "distillation"}),
        (("distilled", "narrow"), {"name", "backbone", "checkpoint", "distillation"}),
    ],
)
def test_each_stage_of_the_built_in_model_goes_on_with_the_one_before(stages, changed):
    before, after = (
        load_detector_config(RECIPES / "compact.yaml", changes=[f"stage={name}"]) for name in stages
    )
    differing = {
        each.name
        for each in dataclasses.fields(before)
        if getattr(before, each.name) != getattr(after, each.name)
    }
    assert differing - DESCRIBED == changed
    points = [source for source in after.sources if not source.grow_outlines]
    assert [source.labels.parent.name for source in points] == ["brca-m2c"]


def test_own_corrections_begin_with_the_whole_built_in_model():
    config = load_detector_config(RECIPES / "my_labels.yaml")
    assert str(config.checkpoint) == "compact"
    assert (
        config.classes == read_card(find_model("compact-fp32")).classes
    )  # otherwise the head would be random
    assert config.backbone == load_checkpoint(BUILT_IN / "compact.pt").meta["config"]["backbone"]
    assert [str(teacher) for teacher in config.distillation.teachers] == [
        "compact"
    ]  # so that nothing is unlearnt
    assert config.distillation.where == "outside"
    assert config.export == load_detector_config(RECIPES / "compact.yaml").export
    pretraining = yaml.safe_load((RECIPES / "muse_pretrain.yaml").read_text(encoding="utf-8"))
    assert (
        config.backbone == pretraining["backbone"]
    )  # the workflow rejects `pretrain` with a different backbone


@pytest.mark.parametrize(
    "stages, changes, expected",
    [
        ("{long: {schedule: {steps: 9}}, short: {name: brief}}", (), 9),
        ("{long: {schedule: {steps: 9}}, short: {name: brief}}", ('stage="short"',), 3),
        ("{long: {schedule: {steps: 9}}}", ("schedule.steps=5", "stage=long"), 5),
    ],
)
def test_a_stage_differs_from_the_settings_above(folder, tmp_path, stages, changes, expected):
    text = write_config(folder, steps=3).read_text(encoding="utf-8")
    path = tmp_path / "stages.yaml"
    path.write_text(f"{text}\nstages: {stages}\n", encoding="utf-8")
    config = load_detector_config(path, folder, changes)
    assert (config.schedule.steps, config.name == "brief") == (expected, expected == 3)


def test_changes_replace_what_the_file_states(folder):
    changes = (
        "schedule.steps=7",
        "sources.0.weight=2",
        "name=other",
        "validation=[]",
        "augmentation.noise=0",
    )
    config = load_detector_config(write_config(folder), changes=changes)
    assert (config.schedule.steps, config.sources[0].weight, config.name) == (7, 2.0, "other")
    assert (config.validation, config.augmentation.noise) == ((), 0.0)
    assert config.schedule.learning_rate == 0.005  # settings that are not named keep their values


@pytest.mark.parametrize("written", ["1e-3", "1.0e-3", "1E-03", "0.001"])
def test_a_small_number_may_be_written_without_a_point(folder, written):
    """YAML 1.1, unlike this package, reads 1e-3 as text."""
    config = load_detector_config(
        write_config(folder), changes=[f"schedule.learning_rate={written}"]
    )
    assert config.schedule.learning_rate == 0.001


def test_a_run_goes_on_where_its_data_moved_to_and_not_with_other_labels(folder, tmp_path):
    config = load_detector_config(write_config(folder, steps=2))
    finetune(config, tmp_path / "run", CPU)
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    finetune(load_detector_config(moved / "tiny.yaml"), tmp_path / "run", CPU)
    with (moved / "labels/P1_points.txt").open("a") as file:
        file.write("3 3 1\n")
    with pytest.raises(CheckpointError, match=r"source 0: labels/P1_points.txt changed"):
        finetune(load_detector_config(moved / "tiny.yaml"), tmp_path / "run", CPU)
    (tmp_path / "run/config.yaml").write_text("name: [")
    with pytest.raises(CheckpointError, match="cannot be read") as caught:
        finetune(config, tmp_path / "run", CPU)
    assert "\n" not in str(caught.value)


def test_no_checkpoint_and_no_provenance_names_a_folder_of_this_machine(
    folder, tmp_path, monkeypatch
):
    monkeypatch.setattr("sys.argv", f"muse finetune {folder / 'tiny.yaml'} --output run".split())
    config = load_detector_config(write_config(folder, steps=1))
    path = finetune(config, tmp_path, CPU)
    assert str(folder) not in (tmp_path / "provenance.json").read_text()
    assert '"tiny.yaml"' in (tmp_path / "provenance.json").read_text()
    assert str(folder).encode() not in path.read_bytes()
    assert load_checkpoint(path).meta["config"]["sources"][0]["images"] == "images"


def test_provenance_follows_settings_and_labels(folder):
    config = load_detector_config(write_config(folder))
    plain = plain_settings(config, portable=True)
    one = describe_run(plain, Inputs(config.sources))
    assert one == describe_run(plain, Inputs(config.sources))
    assert set(one["inputs"]) >= {f"source 0: labels/P{i}_points.txt" for i in range(3)}
    other = plain_settings(dataclasses.replace(config, seed=1), portable=True)
    assert describe_run(other, Inputs(config.sources))["config_sha256"] != one["config_sha256"]
    assert {"torch", "numpy"} <= one["packages"].keys()

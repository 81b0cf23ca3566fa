"""Settings of a run: an unknown one is reported with the most similar name, before any data is
read.
"""

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from labelled import CPU, draw_labelled_folder, write_config

from experiments.common.training import finetune
from muse_pipeline.core.errors import CheckpointError, ConfigError, ProviderError
from muse_pipeline.inference.model import BUILT_IN, find_model, read_card
from muse_pipeline.methods.detector.run import load_detector_config
from muse_pipeline.training.checkpoint import load_checkpoint
from muse_pipeline.training.devices import open_fabric
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
        ("{long: {}, short: {}}", ("stage=shrot",), "stage 'shrot' is unknown; .* long, short"),
        ("[long]", (), "stages: expected settings for each name of a stage"),
        ("{}", (), "stages: expected settings for each name of a stage"),
        ("{long: {schedul: 1}}", (), "unknown setting 'schedul'; did you mean 'schedule'"),
    ],
)
def test_a_stage_differs_from_the_settings_above(folder, tmp_path, stages, changes, expected):
    text = write_config(folder, steps=3).read_text(encoding="utf-8")
    path = tmp_path / "stages.yaml"
    path.write_text(f"{text}\nstages: {stages}\n", encoding="utf-8")
    if isinstance(expected, int):
        config = load_detector_config(path, folder, changes)
        assert (config.schedule.steps, config.name == "brief") == (expected, expected == 3)
    else:
        with pytest.raises(ConfigError, match=expected):
            load_detector_config(path, folder, changes)


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


@pytest.mark.parametrize(
    "change, message",
    [
        ("schedule.step=7", "unknown setting 'step'; did you mean 'steps'"),
        ("schedul.steps=7", "unknown setting 'schedul'; did you mean 'schedule'"),
        ("backbone_rates=7", "did you mean 'backbone_rate'"),
        ("sources.0.label=x", "did you mean 'labels'"),
        ("export.embeding=true", "did you mean 'embedding'"),
        ("augmentation.nois=1", "did you mean 'noise'"),
        ("initial=x.pt", "unknown setting 'initial'; known: .*checkpoint"),
        ("schedule.steps=many", "schedule: steps: expected a whole number, found 'many'"),
        ("schedule.steps=0", "steps is 0; give a whole number"),
        ("export.precision=fp8", "precision 'fp8' is unknown; choose fp32, fp16 or int8"),
        ("export.colour_share=2", r"export: colour_share is 2\.0; give a number from 0 to 1"),
        ("mpp=0", r"mpp is 0\.0; give a number from 0\.01 to 100"),
        ("mpp=.nan", "mpp is nan; give a number"),
        ("batch=0", "batch is 0; give a whole number of 1 or more"),
        ("window_px=-96", "window_px is -96; give a whole number"),
        ("n_rays=2", "n_rays is 2; give a whole number from 3 to 360"),
        ("region_px=80", "unknown setting 'region_px'"),
        ("seed=-1", "seed is -1; give a whole number from 0 to 1,099,511,627,776"),
        ("backbone_rate=.inf", "backbone_rate is inf"),
        ("schedule.warmup=2", r"schedule: warmup is 2\.0; give a number from 0 to 1"),
        ("schedule.clip=0", r"schedule: clip is 0\.0; give a number above 0"),
        ("schedule.learning_rate=0", r"schedule: learning_rate is 0\.0; give a number above 0"),
        ("schedule.learning_rate=.inf", "schedule: learning_rate is inf"),
        (
            "schedule.weight_decay=-1",
            r"schedule: weight_decay is -1\.0; give a number of 0 or more",
        ),
        ("export.capacity=0", "export: capacity is 0"),
        ("export.halo_px=-32", "export: halo_px is -32"),
        ("export.batch=0", "export: batch is 0"),
        ("augmentation.scale=0.5", r"augmentation: scale is 0\.5; give a number from 1 to 10"),
        ("precision=16-mixed", "precision '16-mixed' is unknown; choose 32-true or bf16-mixed"),
        ("colour=reinhard", "colour 'reinhard' is unknown; choose macenko or identity"),
        ("augmentation.noise=.nan", "augmentation: noise is nan"),
        (
            "distillation={teachers: [a], share: 80}",
            r"distillation: share is 80\.0; give a number from 0 to 1",
        ),
        ("classes.0.color=[1, 2, 999]", r"class 'Dark': color \(1, 2, 999\) is not \(r, g, b\)"),
        ("method=detectr", "unknown method 'detectr'; did you mean 'detector'"),
        ("method=muse", "has method 'muse', not 'detector'"),
        ("sources.0.class_map={1: Dark}", "class_map: expected text, found 1; put it in quotes"),
        ("sources.0.exclude=P0", "exclude: expected a list, found 'P0'"),
        ("schedule.steps", "there is no '='"),
        ("sources.5.weight=1", "the list has no such entry"),
        ("sources.first.weight=1", "not usable"),
        ("name.x=1", "not usable"),
        ("schedule=[", "not usable"),
    ],
)
def test_a_wrong_change_is_one_sentence(folder, change, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_detector_config(write_config(folder), changes=[change])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change, message",
    [
        ("backbone=muse_vit_s_16_225", "unknown backbone .* did you mean 'muse_vit_s_16_224'"),
        ("head=dens", "unknown head 'dens'; did you mean 'dense'"),
        ("classes.1.name=Dark", "Dark is named more than once"),
        ("classes=[]", "classes: the list is empty"),
        ("classes.1.name=''", "classes: the list is empty, or a class has no name"),
    ],
)
def test_names_are_looked_up_before_any_data_is_read(folder, tmp_path, change, message):
    config = load_detector_config(write_config(folder), data=tmp_path / "nowhere", changes=[change])
    with pytest.raises(ConfigError, match=message):
        finetune(config, tmp_path, CPU)


def test_a_window_that_the_network_cannot_take_is_rejected_before_anything_is_written(
    folder, tmp_path
):
    config = load_detector_config(write_config(folder), changes=["window_px=100"])
    with pytest.raises(ConfigError, match="suit muse_compact_16"):
        finetune(config, tmp_path / "run", CPU)
    assert not (tmp_path / "run").exists()


def test_devices_that_are_not_there_are_one_sentence():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(ProviderError, match="accelerator 'cuda' cannot") as caught:
        open_fabric("cuda", 1, "32-true")
    assert "\n" not in str(caught.value)


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
    monkeypatch.setattr(
        "sys.argv", ["muse", "finetune", str(folder / "tiny.yaml"), "--output", "run"]
    )
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


def test_a_file_that_is_no_mapping_is_named_before_any_change_of_it(tmp_path):
    (tmp_path / "list.yaml").write_text("- a\n- b\n")
    with pytest.raises(ConfigError, match="write `name"):
        load_detector_config(tmp_path / "list.yaml", changes=["mpp=1"])

"""Runs on labels of a part of each picture: the settings, what is logged, and what is refused."""

import json
from pathlib import Path

import pytest
from labelled import CPU, draw_labelled_folder, write_config

from muse_pipeline.core.errors import ConfigError
from muse_pipeline.methods.detector.consistency import ConsistencySettings
from muse_pipeline.methods.detector.run import finetune, load_detector_config

RECIPE = Path(__file__).parents[3] / "config" / "train" / "label_scarce.yaml"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return draw_labelled_folder(tmp_path_factory.mktemp("labelled"))


@pytest.mark.parametrize("head", ["dense", "point"])
def test_the_third_arm_runs_and_counts_its_pseudo_labels(folder, tmp_path, head):
    changes = ("region_px=80", "window_px=128", "consistency={}", f"head={head}")
    config = load_detector_config(write_config(folder, steps=3), changes=changes)
    assert config.consistency == ConsistencySettings()
    finetune(config, tmp_path, CPU)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {"consistency", "pseudo_nuclei", "pseudo_right"} <= set(rows[-1])


def test_consistency_needs_tissue_without_labels(folder, tmp_path):
    config = load_detector_config(write_config(folder), changes=("consistency={}",))
    with pytest.raises(ConfigError, match="give regions of slides as labels, or set `region_px`"):
        finetune(config, tmp_path, CPU)


def test_the_recipe_is_three_lines_away_from_plain_training():
    recipe = load_detector_config(RECIPE)
    assert recipe.consistency == ConsistencySettings()
    plain = load_detector_config(RECIPE, changes=("consistency=null", "window_px=224", "region_px=224"))
    assert plain.consistency is None
    assert (plain.window_px, plain.region_px) == (224, 224)


def test_a_misspelt_setting_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'threshold'"):
        load_detector_config(RECIPE, changes=("consistency.treshold=0.9",))

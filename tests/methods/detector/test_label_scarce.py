"""Runs on labels of a part of each picture: the settings, and what is rejected."""

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


def test_consistency_needs_tissue_without_labels(folder, tmp_path):
    config = load_detector_config(write_config(folder), changes=("consistency={}",))
    with pytest.raises(ConfigError, match="give regions of slides as labels, or remove this setting"):
        finetune(config, tmp_path, CPU)


def test_the_recipe_is_two_lines_away_from_plain_training():
    recipe = load_detector_config(RECIPE)
    assert recipe.consistency == ConsistencySettings()
    plain = load_detector_config(RECIPE, changes=("consistency=null", "window_px=224"))
    assert plain.consistency is None
    assert plain.window_px == 224


def test_a_misspelt_setting_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'threshold'"):
        load_detector_config(RECIPE, changes=("consistency.treshold=0.9",))

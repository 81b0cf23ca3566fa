"""Mistakes in the workflow's config, and the messages about them."""

import pytest

from muse_pipeline.core.errors import ConfigError
from muse_pipeline.settings import complete_config

README = "config/README.md explains the settings"


def complaint(**changes) -> str:
    with pytest.raises(ConfigError) as caught:
        complete_config({"slides": "slides.tsv", **changes})
    return str(caught.value)


def test_a_config_without_mistakes_has_every_default():
    settings = complete_config({"slides": "slides.tsv", "pretrain_store": {}})
    assert (settings["model"], settings["slides"], settings["keep_stores"]) == (
        "compact",
        "slides.tsv",
        True,
    )


@pytest.mark.parametrize(
    "setting, sentence",
    [
        ({"modle": "compact"}, "config: unknown setting 'modle'; did you mean 'model'?"),
        (
            {"proposals": {"methd": "haematoxylin"}},
            "config: proposals: unknown setting 'methd'; did you mean 'method'?",
        ),
        ({"colour": "red"}, f"config: unknown setting 'colour'; {README}"),
        ({"mpp": "a"}, f"config: mpp: 'a' is not of type 'number'; {README}"),
        ({"shards": 0}, f"config: shards: 0 is less than the minimum of 1; {README}"),
        (
            {"pretrain": {"backbone": "muse_compact_16"}},
            f"config: pretrain: 'name' is a required property; {README}",
        ),
        (
            {"pretrain": {"name": "a", "backbone": "b", "exclude": "a"}},
            "config: pretrain.exclude: 'a' is not of type",
        ),
    ],
)
def test_a_mistake_names_the_setting_and_what_is_near(setting, sentence):
    assert complaint(**setting).startswith(sentence)


def test_a_text_that_is_read_as_a_number_is_to_be_quoted():
    read = "is read as a number, or as true, false or null; write it in quotes in a config file, as"
    assert complaint(output=202405) == f'config: output: 202405 {read} output: "..."'
    assert complaint(model=True).startswith(f"config: model: True {read} model: ")

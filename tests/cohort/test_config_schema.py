"""Mistakes in the workflow's config: the messages of its schema and of the checks that `common.smk` makes next."""

from pathlib import Path

import pytest
from snakemake.cli import parse_config
from snakemake.exceptions import WorkflowError
from snakemake.utils import validate

from muse_pipeline.cohort import settings
from muse_pipeline.core.errors import ConfigError
from muse_pipeline.settings import complete

SCHEMA = Path(__file__).parents[2] / "workflow/schemas/config.schema.yaml"
README = "config/README.md explains the settings"


def complaint(typed=None, **changes) -> str:
    with pytest.raises(WorkflowError) as caught:
        validate({"slides": "slides.tsv", **changes}, str(SCHEMA))
    return settings.explain_schema_error(caught.value.__context__, typed or {})


def test_a_config_without_mistakes_has_every_default():
    config = {"slides": "slides.tsv"}
    validate(config, str(SCHEMA))
    assert complete(config)["model"] == "compact"


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"modle": "compact"}, "config: unknown setting 'modle'; did you mean 'model'?"),
        ({"proposals": {"methd": "otsu"}}, "config: proposals: unknown setting 'methd'; did you mean 'method'?"),
        ({"colour": "red"}, f"config: unknown setting 'colour'; {README}"),
        ({"mpp": "a"}, f"config: mpp: 'a' is not of type 'number'; {README}"),
        ({"shards": 0}, f"config: shards: 0 is less than the minimum of 1; {README}"),
        ({"pretrain": {"backbone": "muse_compact_16"}}, f"config: pretrain: 'name' is a required property; {README}"),
        ({"pretrain": {"name": "a", "backbone": "b", "exclude": "a"}}, "config: pretrain.exclude: 'a' is not of type"),
    ],
)
def test_a_mistake_names_the_setting_and_what_is_near(setting, sentence):
    assert complaint(**setting).startswith(sentence)


def test_a_text_that_is_read_as_a_number_is_to_be_quoted():
    read = "is read as a number, or as true, false or null; write it in quotes in a config file, as"
    assert complaint(output=202405) == f'config: output: 202405 {read} output: "..."'
    assert complaint({"output": "2024_05"}, output=202405) == (
        f'config: output: 2024_05 {read} output: "2024_05", or as ./2024_05 if it is a path'
    )
    assert complaint(model=True).startswith(f"config: model: True {read} model: ")


@pytest.mark.parametrize("text", ["/data/study #1", "study ", '"/data/study #1"'])
def test_a_text_that_the_command_line_shortens_is_rejected(text):
    given = parse_config([f"output={text}"])
    with pytest.raises(
        ConfigError, match=r"^config: output: '.*' is read as '.*' after --config; write it in a config"
    ):
        settings.require_as_typed(given, {"output": text})


@pytest.mark.parametrize("text", ["true", "null", "Yes", "off"])
def test_a_word_that_is_no_text_in_yaml_is_to_be_quoted(text):
    with pytest.raises(ConfigError, match=f"^config: output: {text} is read as a number, or as true, .* ./{text} if"):
        settings.require_as_typed(parse_config([f"output={text}"]), {"output": text})


@pytest.mark.parametrize(
    ("text", "read"), [("/data/a: b", "{'/data/a': 'b'}"), ("/data/a:", "{'/data/a': ''}"), ("[a]", "['a']")]
)
def test_a_text_that_is_read_as_a_mapping_or_list_is_for_a_config_file(text, read):
    assert complaint({"output": text}, **parse_config([f"output={text}"])) == (
        f"config: output: '{text}' is read as {read} after --config; write it in a config file, as output: \"{text}\""
    )


@pytest.mark.parametrize("text", ["/data/study#1", "a  b", '"a b"', "~/study", '"true"', "2024-05-01"])
def test_a_text_that_is_read_as_typed_passes(text):
    settings.require_as_typed(parse_config([f"output={text}", "shards=2"]), {"output": text, "shards": "2"})

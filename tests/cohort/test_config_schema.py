"""Mistakes in the workflow's config, found by its schema and by what completes it, as `common.smk` reports them."""

from pathlib import Path

import pytest
from snakemake.exceptions import WorkflowError
from snakemake.utils import validate

from muse_pipeline.cohort import settings

SCHEMA = Path(__file__).parents[2] / "workflow/schemas/config.schema.yaml"
README = "config/README.md explains the settings"


def complaint(**changes) -> str:
    with pytest.raises(WorkflowError) as caught:
        validate({"slides": "slides.tsv", **changes}, str(SCHEMA))
    return settings.explain_schema_error(caught.value.__context__)


def test_a_config_without_mistakes_has_every_default():
    config = {"slides": "slides.tsv"}
    validate(config, str(SCHEMA))
    assert settings.complete_settings(config)["model"] == "compact"


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

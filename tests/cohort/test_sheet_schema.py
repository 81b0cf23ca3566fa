"""The workflow's schema of the sheet says what the package's own check says, as far as a schema can."""

from dataclasses import asdict
from pathlib import Path

import jsonschema
import pytest
import yaml

from muse_pipeline.cohort.sheet import COLUMNS, ID_FORBIDDEN, MAX_SHARDS, REQUIRED, SheetRow, id_problem

SCHEMA = yaml.safe_load((Path(__file__).parents[2] / "workflow/schemas/slides.schema.yaml").read_text("utf-8"))
ITEM = SCHEMA["items"]


def accepts(row: SheetRow) -> bool:
    return jsonschema.Draft202012Validator(SCHEMA).is_valid([asdict(row)])


def test_the_columns_agree():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert tuple(ITEM["properties"]) == COLUMNS
    assert tuple(ITEM["required"]) == REQUIRED
    assert ITEM["properties"]["shards"]["maximum"] == MAX_SHARDS


@pytest.mark.parametrize("name", ["a", "S 12 [b]", "test3-DAPI-2-(387)", "組織1", "a,b=c+d@e", "x" * 120])
def test_both_take_a_name(name):
    assert accepts(SheetRow(name, "/a.svs", 0.25, "P", "/roi.geojson", "train", 3))
    assert id_problem(name) is None


@pytest.mark.parametrize(
    "name", ["", "-a", ".a", "a.", "a ", "a\tb", "x" * 121, *(f"a{c}b" for c in sorted(ID_FORBIDDEN))]
)
def test_both_refuse_a_name(name):
    assert not accepts(SheetRow(name, "/a.svs"))
    assert id_problem(name)

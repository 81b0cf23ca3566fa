"""The page on training names every setting, with the default that it has."""

import dataclasses
import re
from pathlib import Path

import pytest
import yaml

from muse_pipeline.data.augment import Augmentation
from muse_pipeline.methods.detector.config import DetectorConfig, ExportSettings
from muse_pipeline.methods.detector.consistency import ConsistencySettings
from muse_pipeline.methods.detector.distillation import DistillationSettings
from muse_pipeline.training.schedule import Schedule

PAGE = Path(__file__).parents[3] / "docs" / "training.md"
TABLES = (DetectorConfig, Schedule, Augmentation, ConsistencySettings, DistillationSettings, ExportSettings)


def read_tables() -> list[dict[str, str]]:
    """Setting -> default as written, of every table of settings, in the order of the page."""
    tables = []
    for block in PAGE.read_text(encoding="utf-8").split("| setting | default | what |\n")[1:]:
        rows = re.findall(r"^\| (`[^|]+) \| ([^|]+) \|", block.split("\n\n")[0], re.MULTILINE)
        pairs = [
            (names.replace("`", "").split(", "), defaults.replace("`", "").split(", ")) for names, defaults in rows
        ]
        tables.append({name: ds[i % len(ds)] for names, ds in pairs for i, name in enumerate(names)})
    return tables


@pytest.mark.parametrize(("kind", "table"), list(zip(TABLES, read_tables(), strict=True)))
def test_every_setting_and_its_default(kind, table):
    assert list(table) == sorted(table, key=[field.name for field in dataclasses.fields(kind)].index)
    assert table.keys() == {field.name for field in dataclasses.fields(kind)}
    for field in dataclasses.fields(kind):
        if field.default is not dataclasses.MISSING:
            written = yaml.safe_load(table[field.name])
            assert (tuple(written) if isinstance(written, list) else written) == field.default, field.name
        elif field.default_factory is dataclasses.MISSING:
            assert table[field.name] == "-", field.name
        else:
            assert table[field.name] in {"all defaults", "{}"}, field.name

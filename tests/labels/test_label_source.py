"""Settings of a source: how the patient of a picture is found, and which settings exclude each other."""

from pathlib import Path

import pytest

from muse_pipeline.core.config import parse_config
from muse_pipeline.core.errors import ConfigError, LabelError
from muse_pipeline.labels.sources import LabelSource


@pytest.mark.parametrize(
    ("rule", "name", "patient"),
    [
        (None, "TCGA-A7-A0DB-01Z-00-DX1_19001_5001", "TCGA-A7-A0DB"),
        (None, "TCGA-like name", "TCGA-like name"),
        (None, "train_1", "train_1"),
        (5, "train_1", "train"),
        (r"case(\d+)_", "x_case17_2", "17"),
        (r"case\d+", "x_case17_2", "case17"),
    ],
)
def test_patients(rule, name, patient):
    assert LabelSource(Path("l"), "geojson", images=Path("i"), patient=rule).patient_of(name) == patient


def test_a_rule_that_does_not_suit_a_name():
    with pytest.raises(LabelError, match="i: 'a' does not match the patient rule 'case'"):
        LabelSource(Path("l"), "geojson", images=Path("i"), patient="case").patient_of("a")


def test_from_yaml():
    values = {"labels": "l", "format": "geojson", "slides": "s.tsv", "patient": 4}
    assert parse_config(values, LabelSource, "c").patient == 4
    assert parse_config({**values, "patient": "a+"}, LabelSource, "c").patient == "a+"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"images": None}, "give either `images` or `slides`"),
        ({"slides": "s"}, "give either `images` or `slides`"),
        ({"format": "xml"}, "label format 'xml' is unknown; use 'row column class'"),
        ({"mpp": -0.5}, "c: mpp is -0.5; give a number above 0"),
        ({"mpp": float("nan")}, "c: mpp is nan"),
        ({"weight": float("inf")}, "c: weight is inf"),
        ({"weight": 0.0}, "c: weight is 0.0; give a number above 0"),
        ({"outside": "skip"}, "outside 'skip' is unknown; choose refuse or leave out"),
        ({"patient": 0}, "patient 0 is not a number"),
        ({"diameter_um": -8.0, "mpp": None}, "diameter_um is -8.0"),
        ({"patient": "("}, "is not a regular expression"),
    ],
)
def test_settings_that_cannot_be_meant(settings, message):
    with pytest.raises(ConfigError, match=message):
        parse_config({"labels": "l", "format": "geojson", "images": "i", **settings}, LabelSource, "c")

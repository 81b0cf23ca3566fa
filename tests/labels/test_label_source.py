"""The settings of a source: whose a picture is, and what does not go together."""

from pathlib import Path

import pytest

from muse_pipeline.core.config import parse_config
from muse_pipeline.core.errors import LabelError
from muse_pipeline.labels.sources import LabelSource, check_source


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
        ({"slides": Path("s")}, "give either `images` or `slides`"),
        ({"format": "xml"}, "label format 'xml' is unknown; use 'row column class'"),
        ({"mpp": -0.5}, "mpp -0.5 is not a size"),
        ({"mpp": float("nan")}, "mpp nan is not a size"),
        ({"weight": float("inf")}, r"weight must be > 0 \(got inf\)"),
        ({"weight": 0.0}, r"weight must be > 0 \(got 0.0\)"),
        ({"outside": "skip"}, "outside 'skip' is unknown"),
        ({"patient": 0}, "patient 0 is not a number"),
        ({"patient": "("}, "is not a regular expression"),
        ({"labels": Path("nowhere")}, "nowhere: no such folder of labels"),
    ],
)
def test_settings_that_cannot_be_meant(tmp_path, settings, message):
    with pytest.raises(LabelError, match=message):
        check_source(LabelSource(**{"labels": tmp_path, "format": "geojson", "images": tmp_path, **settings}))

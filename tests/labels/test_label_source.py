"""Settings of a source: how the patient of a picture is found, and which settings exclude each
other.
"""

from pathlib import Path

import pytest

from muse_pipeline.core.errors import LabelError
from muse_pipeline.labels.base_source import Sample
from muse_pipeline.labels.dataset_source import DatasetSource
from muse_pipeline.labels.label_sources import parse_source
from muse_pipeline.labels.picture_source import PictureSource
from muse_pipeline.labels.slide_source import SlideSource


def patient_of(name, rule):
    return PictureSource(Path("l"), "geojson", images=Path("i"), patient=rule).patient_of(
        Sample(name, "")
    )


@pytest.mark.parametrize(
    "rule, name, patient",
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
    assert patient_of(name, rule) == patient


def test_a_rule_that_does_not_suit_a_name():
    with pytest.raises(LabelError, match=r"i: 'a' .* rule 'case'"):
        patient_of("a", "case")


@pytest.mark.parametrize(
    "settings, kind",
    [
        ({"format": "geojson", "images": "i"}, PictureSource),
        ({"format": "geojson", "slides": "s.tsv", "images": None}, SlideSource),
        ({"format": "puma", "mpp": 0.23, "slides": None}, DatasetSource),
    ],
)
def test_each_kind_of_source_has_its_class(settings, kind):
    source = parse_source({"labels": "l", "patient": 4, **settings}, "c")
    assert type(source) is kind and source.patient == 4

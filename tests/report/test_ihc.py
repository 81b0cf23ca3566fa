"""Scores of no nuclei, and the intensities at which grades begin."""

from dataclasses import replace

import numpy as np
from nuclei_example import draw_nuclei, write_example

from muse_pipeline.inference.counts import count_intensities, score, score_values
from muse_pipeline.nuclei.parquet import read_provenance
from muse_pipeline.settings import RunSettings


def test_nothing_is_no_score():
    assert score((0, 0, 0, 0)) == {"percent_positive": None, "h_score": None, "allred": None}
    assert score_values({}) == {}


def test_a_grade_begins_at_its_intensity(tmp_path):
    nuclei = replace(draw_nuclei(6), dab_od=np.array([[0.2], [0.25], [0.3], [0.5], [0.75], [0.75]]))
    path = write_example(tmp_path / "nuclei.parquet", nuclei)
    provenance = replace(read_provenance(path), intensities_od=(0.25, 0.5, 0.75))
    assert count_intensities(path, provenance, ())["slide"] == {"nucleus": [1, 2, 1, 2]}


def test_intensities_of_the_command_line_are_numbers():
    assert RunSettings({"intensities": ["0.1", "0.3", "0.5"]}).intensities == [0.1, 0.3, 0.5]

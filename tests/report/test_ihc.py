"""Scores of no nuclei, and the intensities at which grades begin."""

import pytest

from muse_pipeline.core.errors import ConfigError
from muse_pipeline.report.counts import score, score_values
from muse_pipeline.settings import RunSettings


def test_nothing_is_no_score():
    assert score((0, 0, 0, 0)) == {"percent_positive": None, "h_score": None, "allred": None}
    assert score_values(None) == {}


@pytest.mark.parametrize("limits", [[0.2, 0.2, 0.6], [0, 0.4, 0.6], [0.2, 0.4], ["a", 0.4, 0.6], [0.6, 0.4, 0.2]])
def test_intensities_ascend(limits):
    with pytest.raises(ConfigError, match="ascending optical densities"):
        RunSettings({"intensities": limits})


def test_intensities_of_the_command_line_are_numbers():
    assert RunSettings({"intensities": ["0.1", "0.3", "0.5"]}).intensities == [0.1, 0.3, 0.5]

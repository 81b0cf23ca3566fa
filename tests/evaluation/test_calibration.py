"""The calibration error of class probabilities, and the temperature that changes it."""

import numpy as np
import pytest
from scored_slides import draw_results

from muse_pipeline.core.files import read_json
from muse_pipeline.evaluation.reliability import count_calibration
from muse_pipeline.inference.predictor import temper


def test_a_temperature_above_1_makes_probabilities_less_certain():
    assert temper(np.array([[0.8, 0.2]]), 2.0) == pytest.approx(np.array([[2 / 3, 1 / 3]]))
    assert count_calibration(np.zeros((0, 2)), np.zeros(0, int)).n == 0


def test_evaluate_states_it(muse, tmp_path):
    draw_results(tmp_path)
    scores = tmp_path / "s.json"
    assert "calibration error" in muse.ok(
        f"evaluate {tmp_path / 'results'} --truth {tmp_path / 'truth'} --json {scores}"
    )
    calibration = read_json(scores)["calibration"]
    # three nuclei are matched on each of two slides, all with a probability of 1; two of them have
    # the right class
    assert (calibration["n"], calibration["confidence"]) == (6, 1.0)
    assert calibration["error"] == pytest.approx(1 / 3)

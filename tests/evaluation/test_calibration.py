"""The calibration error of class probabilities, for synthetic models whose calibration is known."""

import numpy as np
import pytest
from scored_slides import TRUTH, write_result

from experiments.calibration.run import fit_temperature, log_loss
from muse_pipeline.core.files import read_json
from muse_pipeline.evaluation.reliability import CalibrationCounts, count_calibration
from muse_pipeline.inference.predictor import temper


@pytest.fixture(scope="module")
def calibrated():
    """(N, 3) probabilities, and (N,) classes sampled from them."""
    rng = np.random.default_rng(0)
    prob = rng.dirichlet((0.7, 0.7, 0.7), 20_000).astype(np.float32)
    return prob, (prob.cumsum(1) > rng.random((len(prob), 1))).argmax(1)


@pytest.mark.parametrize("sharper", [2.0, 0.5])
def test_a_temperature_takes_back_what_was_overdone(calibrated, sharper):
    prob, label = calibrated
    spoilt = temper(prob, 1 / sharper)
    temperature = fit_temperature(spoilt, label)
    assert temperature == pytest.approx(sharper, rel=0.05)
    assert (
        count_calibration(spoilt, label).error
        > 0.05
        > 5 * count_calibration(temper(spoilt, temperature), label).error
    )
    assert log_loss(temper(spoilt, temperature), label) < log_loss(spoilt, label)


def test_counts_of_slides_add_up(calibrated):
    prob, label = calibrated
    parts = [
        count_calibration(prob[half], label[half]).values
        for half in (slice(0, 9000), slice(9000, None))
    ]
    assert np.allclose(CalibrationCounts(sum(parts)).values, count_calibration(prob, label).values)
    assert count_calibration(prob[:0], label[:0]).n == 0


def test_evaluate_states_it(muse, tmp_path):
    (tmp_path / "truth").mkdir()
    for name in ("A7-1", "A7-2", "A8-1"):
        write_result(tmp_path / "results", name)
        (tmp_path / f"truth/{name}.csv").write_text(TRUTH)
    scores = tmp_path / "s.json"
    assert "calibration error" in muse.ok(
        f"evaluate {tmp_path / 'results'} --truth {tmp_path / 'truth'} --json {scores}"
    )
    calibration = read_json(scores)["calibration"]
    # three nuclei are matched on each slide, all with a probability of 1; two of them have the
    # right class
    assert (calibration["n"], calibration["confidence"]) == (9, 1.0)
    assert calibration["error"] == pytest.approx(1 / 3)

"""The calibration error of class probabilities, for synthetic models whose calibration is known."""

import sys

import numpy as np
import pytest
from test_evaluated_slides import TRUTH, write_result

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


def test_evaluate_states_it_by_site_and_draws_it(muse, tmp_path):
    (tmp_path / "truth").mkdir()
    for name in ("A7-1", "A7-2", "A8-1"):
        write_result(tmp_path / "results", name)
        (tmp_path / "truth" / f"{name}.csv").write_text(TRUTH)
    picture, scores = tmp_path / "r.png", tmp_path / "s.json"
    status, out, _ = muse(
        *("evaluate", tmp_path / "results", "--truth", tmp_path / "truth", "--site", "^.."),
        *("--json", scores, "--reliability", picture),
    )
    assert status == 0 and picture.read_bytes()[:4] == b"\x89PNG"
    calibration = read_json(scores)["calibration"]
    # three nuclei are matched on each slide, all with a probability of 1; two of them have the
    # right class
    assert (calibration["n"], calibration["confidence"]) == (9, 1.0)
    assert calibration["error"] == pytest.approx(1 / 3)
    assert {name: row["n"] for name, row in calibration["by_site"].items()} == {"A7": 6, "A8": 3}
    assert "calibration error" in out
    status, _, errors = muse(
        "evaluate", tmp_path / "results", "--truth", tmp_path / "truth", "--site", "Z"
    )
    assert status == 2 and "--site 'Z': does not match 'A7-1'" in errors


def test_a_missing_drawing_package_is_reported_before_anything_is_scored(
    muse, tmp_path, monkeypatch
):
    write_result(tmp_path, "A7-1")
    (tmp_path / "truth.csv").write_text(TRUTH)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    command = "evaluate", tmp_path / "A7-1/nuclei.parquet", "--truth", tmp_path / "truth.csv"
    status, out, errors = muse(*command, "--reliability", tmp_path / "r.png")
    assert (status, out) == (2, "")
    assert "needs the package 'matplotlib'" in errors and "extra `train`" in errors
    assert muse(*command)[0] == 0

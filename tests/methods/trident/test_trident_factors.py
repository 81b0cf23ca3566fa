"""The experiment on drawn factors: what its pictures show, and what each arm must learn."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[3] / "experiments"))
import trident_factors
from trident_factors import ARMS, STEPS, draw_pictures, probe_factors, run_arm

from muse_pipeline.models import BACKBONES


@pytest.fixture(autouse=True)
def no_curves(monkeypatch):
    """Drawing takes longer than these runs."""
    monkeypatch.setattr("muse_pipeline.training.loop.draw_curves", lambda rows, output: None)


def test_partners_show_the_first_and_the_third_factor_alone():
    _, partners, factors = draw_pictures(64, 0)
    kinds = {(tuple(row[[0, 2]]), partner.tobytes()) for row, partner in zip(factors, partners, strict=True)}
    assert len(kinds) == 4


def test_the_third_factor_is_not_in_the_mean_colour():
    he, _, factors = draw_pictures(1000, 0)
    mean, has = he.mean((1, 2)), factors[:, 2]
    assert (np.abs(mean[has].mean(0) - mean[~has].mean(0)) < 0.6 * mean.std(0)).all()


def test_vectors_shrink_without_the_variance_term(tmp_path, monkeypatch):
    monkeypatch.setattr(trident_factors, "N_PICTURES", 200)
    monkeypatch.setattr(trident_factors, "N_PROBED", 100)
    assert run_arm("three", 0, 20, tmp_path / "three")["std"] > 0.3
    assert run_arm("three", 0, 20, tmp_path / "shrunk", variance=0.0, invariance=25.0)["std"] < 0.2


@pytest.mark.slow
@pytest.mark.xfail(reason="in 600 steps three branches learn the first factor alone, see docs/results.md")
def test_a_partner_adds_a_factor_and_takes_none(tmp_path):
    """Minutes; the requirements of the experiment for one seed."""
    untrained = probe_factors(BACKBONES["muse_compact_16"](), 0)
    assert untrained["B"] < 0.8 and untrained["C"] < 0.65
    siamese, two, three, shuffled = (
        run_arm(arm, 0, STEPS, tmp_path / arm) for arm in list(ARMS) if arm != "three-blank"
    )
    assert siamese["B"] > 0.9 and siamese["C"] < 0.65
    assert two["C"] > 0.9 and two["B"] < 0.8
    assert three["B"] > siamese["B"] - 0.05 and three["C"] > two["C"] - 0.05
    assert abs(shuffled["B"] - siamese["B"]) < 0.03 and shuffled["C"] < 0.65

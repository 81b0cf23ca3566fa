"""k-means and its foreground rules on a picture of three colours."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from muse_pipeline.core.config import parse_config
from muse_pipeline.methods.psm.activation_map import (
    Clusters,
    ClusterSettings,
    jet,
    stain_densities,
)
from muse_pipeline.proposals.otsu_mask import blend_stains

PRESETS = {  # settings of the two releases
    "rel2022": ClusterSettings(features="jet", beta=0.5, n_clusters=3, foreground="green"),
    "rel2023": ClusterSettings(features="jet", beta=1.0, n_clusters=3, foreground="dark"),
}
COLOURS = np.array(
    [[90, 60, 140], [220, 130, 170], [240, 238, 242]], np.uint8
)  # nuclei, eosin, glass


@pytest.fixture(scope="module")
def toy():
    """An index (30, 30) into ``COLOURS``, the pixels with these colours and some noise, and their
    stain densities.
    """
    generator = np.random.default_rng(0)
    truth = np.repeat(np.arange(3), 10)[None].repeat(30, 0)
    pixels = (COLOURS[truth] + generator.integers(-6, 7, (30, 30, 3))).clip(0, 255).astype(np.uint8)
    return truth, pixels, stain_densities(pixels, blend_stains(None))


def fit(activation, pixels, stains, settings):
    return Clusters(activation.ravel(), pixels.reshape(-1, 3), stains.reshape(-1, 2), settings)


def activation_of(truth, levels):
    return np.array(levels, np.float32)[truth]


@pytest.mark.parametrize("levels", [(0.9, 0.5, 0.1), (0.1, 0.5, 0.9), (0.0, 0.0, 0.0)])
@pytest.mark.parametrize("features", ["stain", "jet"])
def test_the_stain_rule_finds_nuclei_whatever_the_sign_of_the_map(toy, features, levels):
    truth, pixels, stains = toy
    activation = activation_of(truth, levels)
    clusters = fit(
        activation,
        pixels,
        stains,
        ClusterSettings(features=features, n_clusters=2 + (features != "stain")),
    )
    assert ((clusters(activation, pixels, stains) == clusters.foreground) == (truth == 0)).all()


def test_the_rule_of_2022_takes_what_is_in_the_middle_of_the_map(toy):
    truth, pixels, stains = toy
    activation = activation_of(truth, (0.5, 0.9, 0.0))
    clusters = fit(activation, pixels, stains, PRESETS["rel2022"])
    assert ((clusters(activation, pixels, stains) == clusters.foreground) == (truth == 0)).all()
    activation = activation_of(truth, (1.0, 0.5, 0.0))  # now eosin is in the middle
    clusters = fit(activation, pixels, stains, PRESETS["rel2022"])
    assert ((clusters(activation, pixels, stains) == clusters.foreground) == (truth == 1)).all()


def test_the_rule_of_2023_takes_what_is_dark_and_active(toy):
    truth, pixels, stains = toy
    activation = activation_of(truth, (1.0, 0.5, 0.2))
    clusters = fit(activation, pixels, stains, PRESETS["rel2023"])
    assert ((clusters(activation, pixels, stains) == clusters.foreground) == (truth == 0)).all()


def test_the_colour_map_is_blue_green_red():
    assert (
        jet(np.array([0.0, 0.5, 1.0], np.float32)) == [[128, 0, 0], [126, 255, 130], [0, 0, 128]]
    ).all()


def test_the_seed_decides_everything(toy):
    truth, pixels, stains = toy
    first, second = (
        fit(activation_of(truth, (1, 0, 0)), pixels, stains, ClusterSettings()) for _ in range(2)
    )
    assert (first.centres == second.centres).all()


def test_pixels_that_are_all_alike_form_one_cluster():
    values = np.zeros(50, np.float32), np.full((50, 3), 128, np.uint8), np.ones((50, 2), np.float32)
    clusters = Clusters(*values, ClusterSettings())
    assert (clusters(*values) == clusters.foreground).all()


def test_the_presets_can_be_written_as_the_docs_state():
    text = (Path(__file__).parents[2] / "docs/guide/label-free.md").read_text(encoding="utf-8")
    output = [yaml.safe_load(each) for each in re.findall(r"`(clusters: {.+?})`", text)]
    settings = [parse_config(each["clusters"], ClusterSettings, "clusters") for each in output]
    assert settings == list(PRESETS.values())

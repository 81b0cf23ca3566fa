"""The proposer of PSM's maps: discs come back at either mpp, with outlines; a wrong checkpoint is printed."""

import json

import cv2
import numpy as np
import pytest
import torch
from test_pseudo_mask import draw_discs

from muse_pipeline.core.errors import CheckpointError, MppError
from muse_pipeline.methods.psm.activation import ActivationConfig, ActivationStage, PriorSelfActivation
from muse_pipeline.models.activation import ActivationNetwork
from muse_pipeline.proposals import PROPOSERS
from muse_pipeline.proposals.activation import ActivationFinderSettings
from muse_pipeline.proposals.base import SlideSample
from muse_pipeline.training.checkpoint import save_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("activation") / "checkpoint.pt"
    stage = ActivationStage(ActivationConfig(sources=()), path.parent)
    save_checkpoint(path, stage.checkpoint([], PriorSelfActivation(ActivationNetwork("shallow_cnn", 1))))
    return path


def fit(checkpoint, mpp, *pictures):
    return PROPOSERS["activation"].fit(SlideSample(mpp, pictures), ActivationFinderSettings(checkpoint))


@pytest.mark.parametrize("factor", [1, 2])
def test_discs_come_back(checkpoint, factor):
    pixels, truth = draw_discs()
    pixels = pixels.repeat(factor, 0).repeat(factor, 1)
    finder = fit(checkpoint, 0.5 / factor, pixels)
    nuclei = finder(pixels[None], np.zeros((1, 2)))[0]
    n_separate, _ = cv2.connectedComponents(truth.astype(np.uint8))
    assert n_separate - 1 <= len(nuclei) <= 16
    assert truth[tuple((nuclei.xy / factor).astype(int).T[::-1])].all()
    assert 3 < np.median(nuclei.rays) < 5 and (nuclei.score > 0).all()  # discs of 8 px, 4 um
    assert (np.diff(nuclei.score) <= 0).all()
    assert json.loads(json.dumps(finder.facts()))["proposer"]["fitted"]["foreground"] in (0, 1)


def test_a_slide_without_tissue_has_no_nuclei(checkpoint):
    assert not len(fit(checkpoint, 0.5).find(np.full((128, 128, 3), 250, np.uint8)))


def test_a_missing_network_or_one_of_another_mpp_is_reported(checkpoint, tmp_path):
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        fit(tmp_path / "a.pt", 0.5, draw_discs()[0])
    with pytest.raises(MppError, match="was trained at"):
        fit(checkpoint, 1.0, draw_discs()[0])

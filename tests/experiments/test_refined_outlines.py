"""A small training of the network that refines outlines."""

import numpy as np
import pytest
import torch
from drawn_tissue import draw_labelled_tissue

from experiments.refined_outlines import run as experiment
from muse_pipeline.inference.model import find_model
from muse_pipeline.inference.outlines import OutlineRefiner, sample_along_rays
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.nuclei.masks import number_areas


@pytest.fixture(scope="module")
def examples():
    pixels = draw_labelled_tissue((400, 300), 0.25, seed=1).pixels
    instances = number_areas(pixels[..., 0] < 160, 40)
    picture, rng = experiment.Picture(pixels, 0.25, "dsb2018", instances), np.random.default_rng(0)
    found = experiment.make_examples(picture, [Predictor(find_model("label_free"))], rng)
    return experiment.Examples.join(list(found)).thin()


def test_examples_are_nuclei_with_rays_to_the_outlines_drawn(examples):
    n = len(examples.rays)
    assert n > 200 and examples.rays.shape == examples.true.shape == (n, 16)
    assert examples.samples.shape == (n, 3, 17, 16) and examples.samples.dtype == np.uint8
    assert 0.7 < experiment.dice(examples.rays, examples.true).mean() < 0.95
    inner, outer = examples.samples[:, 0, 0].mean(), examples.samples[:, 0, -1].mean()
    assert inner < outer - 20  # nuclei are darker than the tissue around them


@pytest.mark.slow
def test_a_trained_network_refines_and_its_graph_does_the_same(examples, tmp_path):
    torch.manual_seed(0)
    network = experiment.RefiningNetwork(16)
    before = experiment.dice(examples.rays, examples.true).mean()
    experiment.fit(network, [examples], 150, np.random.default_rng(0))
    after = experiment.dice(experiment.refine(network, examples.samples, examples.rays), examples.true).mean()
    assert 1 - after < 0.7 * (1 - before)

    experiment.export(network, tmp_path / "refine.onnx")
    pixels, rng = draw_labelled_tissue((200, 200), 0.5, seed=2).pixels, np.random.default_rng(0)
    xy, rays = rng.uniform(20, 180, (70, 2)), rng.uniform(2, 6, (70, 16)).astype(np.float32)
    expected = experiment.refine(network, sample_along_rays(pixels, xy, rays, 0.5).transpose(2, 0, 1, 3), rays)
    assert np.allclose(OutlineRefiner(tmp_path / "refine.onnx")(pixels, xy, rays, 0.5), expected, atol=1e-4)


@pytest.mark.slow  # tests/inference/test_outline_refiner.py tests the built-in network
def test_rays_move_by_3_um_at_most_and_do_not_vanish(tmp_path):
    network = experiment.RefiningNetwork(16).eval()
    torch.nn.init.constant_(network.last.bias, -100)
    experiment.export(network, tmp_path / "shorter.onnx")
    rays = np.repeat(np.array([[0.3], [2.0], [5.0]], np.float32), 32, 1)
    refined = OutlineRefiner(tmp_path / "shorter.onnx")(np.zeros((9, 9, 3), np.uint8), np.full((3, 2), 4.5), rays, 0.5)
    assert refined[:, 0] == pytest.approx((0.3, 0.5, 2.0)) and (refined == refined[:, :1]).all()


def test_a_fold_leaves_its_pictures_out_and_no_others():
    assert experiment.is_left_out("tnbc", "01", "TNBC 01 02 04")
    assert not experiment.is_left_out("tnbc", "05", "TNBC 01 02 04")
    assert experiment.is_left_out("nucls", "any", "NuCLS") and not experiment.is_left_out("tnbc", "01", "NuCLS")
    assert not experiment.is_left_out("tnbc", "01", None)
    patients = [patient for kind, held in experiment.FOLDS.values() if kind == "tnbc" for patient in held]
    assert sorted(patients) == ["01", "02", "04", "05", "06", "08", "09"]

"""Classes with few labels, or labels in one picture alone: they are taught by the initial weights,
so that the labels do not lower them.
"""

import dataclasses

import numpy as np
import pytest
import torch
from labelled import CPU, draw_labelled_folder, write_config
from torch import nn

from experiments.common.training import finetune
from muse_pipeline.data.augment import LabelledBatch, WeakView
from muse_pipeline.methods.detector.data import read_detector_data
from muse_pipeline.methods.detector.method import DetectorTraining, DistillationTerm
from muse_pipeline.methods.detector.mixing import count_left, find_kept, split_images
from muse_pipeline.methods.detector.run import load_detector_config
from muse_pipeline.methods.detector.stage import HeldOutStage
from muse_pipeline.methods.detector.start import load_trained, read_start
from muse_pipeline.methods.detector.validation import Scorer
from muse_pipeline.models.detector import NucleusMaps
from muse_pipeline.training.checkpoint import load_checkpoint
from muse_pipeline.training.run import Options


class Maps(nn.Module):
    """A detector whose maps are its parameters: one nucleus of three classes in 2 x 2 cells."""

    def __init__(self, *logits):
        super().__init__()
        self.label = nn.Parameter(torch.tensor(logits, dtype=torch.float32)[None, :, None, None])

    def forward(self, pixels, colour):
        ones = torch.ones(1, 1, 2, 2)
        zeros, rays = torch.zeros(1, 2, 2, 2), torch.full((1, 4, 2, 2), 4.0)
        return NucleusMaps(4 * ones, zeros, self.label.expand(1, 3, 2, 2), rays)


def batch_of(label, shares=None):
    views = torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 4)
    nucleus = torch.tensor([[[2.0, 2.0]]]), torch.tensor([[label]]), torch.full((1, 1, 4), 4.0)
    region = None if shares is None else torch.full((1, 2, 2), 9.0)
    return LabelledBatch(*views, *nucleus, region=region, shares=shares)


@pytest.mark.parametrize("kept", [[], [1]])
def test_labels_move_only_the_classes_that_are_learnt(kept):
    network = Maps(0.5, -0.2, 0.1)
    method = DetectorTraining(network, "dense", 0.5, torch.ones(3), kept=kept)
    method.losses(batch_of(2), "model", 0.0)["loss"].backward()
    assert (network.label.grad[0, 1] == 0).all() == bool(kept)
    assert network.label.grad[0, 2].sum() < 0 < network.label.grad[0, 0].sum()
    network.label.grad = None
    losses = method.losses(batch_of(1), "model", 0.0)
    assert (losses["label"] == 0) == bool(kept)
    of_area = torch.tensor([[[0.0, 1.0, 0.0]]])
    assert (method.losses(batch_of(-1, of_area), "model", 0.0)["label"] == 0) == bool(kept)


@pytest.mark.parametrize("kept", [[1], [0, 1, 2]])
def test_the_probability_of_a_kept_class_is_that_of_the_teacher(kept):
    """The other classes may divide the rest as they like."""
    teacher = torch.tensor([0.2, 0.5, 0.3]).log()[None, :, None, None]
    term = DistillationTerm(0.5, [], kept=kept)
    other = torch.tensor([0.4, 0.5, 0.1]).log()[None, :, None, None]
    assert term._error_of_kept(teacher, teacher).item() == pytest.approx(0, abs=1e-6)
    expected = 0.0 if kept == [1] else 0.2 * np.log(0.2 / 0.4) + 0.3 * np.log(0.3 / 0.1)
    assert term._error_of_kept(teacher, other).item() == pytest.approx(expected, abs=1e-6)
    third = torch.tensor([0.3, 0.3, 0.4]).log()[None, :, None, None]
    assert term._error_of_kept(teacher, third).item() > 0.05


def test_a_kept_class_is_taught_inside_annotated_regions():
    batch = batch_of(2)._replace(region=torch.full((1, 2, 2), 9.0))
    batch = batch._replace(weak=WeakView(batch.pixels, batch.colour))
    teacher, student = Maps(0.0, 1.0, 0.5), Maps(0.0, -1.0, 0.5)
    for kept in ((), (1,)):
        term = DistillationTerm(0.5, [teacher], "outside", kept)
        assert (term(student(None, None), batch) > 0.1) == bool(kept)
        assert term(teacher(None, None), batch).item() == pytest.approx(0, abs=1e-6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four labelled pictures, and ``first``, a detector that was trained on them."""
    folder = draw_labelled_folder(tmp_path_factory.mktemp("kept"), 4)
    finetune(load_detector_config(write_config(folder, steps=60)), folder / "first", CPU)
    return folder


def with_few_pale(image, n):
    """The image with labels of its first ``n`` pale nuclei; all others are labelled as dark."""
    label = image.nuclei.label.copy()
    label[np.flatnonzero(label)[n:]] = 0
    return dataclasses.replace(image, nuclei=dataclasses.replace(image.nuclei, label=label))


def test_a_class_in_one_picture_alone_does_not_fall(folder, tmp_path):
    """Only one of three pictures has pale nuclei, as its labels say; the fourth is judged."""
    start = folder / "first/checkpoint.pt"
    teacher = f"distillation={{teachers: [{start}], share: 0.1}}"
    changes = [f"checkpoint={start}", teacher, "schedule.steps=30"]
    config = load_detector_config(folder / "tiny.yaml", changes=changes)
    data = read_detector_data(config, read_start(config))
    *images, judged = data.images
    images = [with_few_pale(image, n) for image, n in zip(images, (0, 0, 3), strict=True)]
    left = count_left(split_images(images, 3), 2)
    assert left[1] == 0
    network, _, _ = load_trained(start)
    before = Scorer(network, config, data.reference).total([judged]).f1[2]
    after = []
    for kept in ([], find_kept(left)):
        stage = HeldOutStage(config, tmp_path / f"{len(kept)}", "held-out")
        stage._kept = kept
        stage._data = dataclasses.replace(data, images=images, held=[judged])
        network, _, _ = load_trained(stage.run(CPU))
        after.append(Scorer(network, config, data.reference).total([judged]).f1[2])
    assert after[0] < before - 5 and after[1] > before - 1.5


def test_a_run_states_what_it_keeps(folder, tmp_path):
    """Without one of two pictures, 36 nuclei are left, of two classes."""
    start, output = folder / "first/checkpoint.pt", []
    changes = [f"checkpoint={start}", f"distillation.teachers=[{start}]", "schedule.steps=1"]
    changes += ["mixing.folds=2", "sources.0.exclude=[P2, P3]", "organ=breast"]
    config = load_detector_config(folder / "tiny.yaml", changes=changes)
    checkpoint = finetune(config, tmp_path, Options(accelerator="cpu", log=output.append))
    assert any(line.startswith("classes kept as in the initial weights: ") for line in output)
    organs = load_checkpoint(checkpoint).meta["organs"]
    assert set(organs) < {"Dark", "Pale"} and all(of == ["breast"] for of in organs.values())

"""Distillation: a copy of the teacher has nothing to learn, other students improve, and the teacher
never changes.
"""

import numpy as np
import pytest
import torch
from torch import nn

from muse_pipeline.data.augment import LabelledBatch, WeakView
from muse_pipeline.methods.detector.method import (
    DetectorTraining,
    DistillationTerm,
)
from muse_pipeline.models import HEADS
from muse_pipeline.models.detector import NucleusDetector, NucleusMaps

COLOUR = torch.eye(3, 4).expand(2, 3, 4)


def detector(seed, head="dense", backbone="muse_compact_16"):
    """A detector with a random head, whose weights are so large that predictions differ from cell
    to cell.
    """
    torch.manual_seed(seed)
    made = NucleusDetector(backbone, head, 2, 8)
    with torch.no_grad():
        for layer in made.head.modules():
            if isinstance(layer, nn.Conv2d) and layer.bias is not None:
                layer.weight.normal_(std=0.3)
    return made.eval()


def batch_of(seed=0):
    pixels = torch.rand((2, 3, 64, 64), generator=torch.Generator().manual_seed(seed)) * 255
    xy, label = torch.full((2, 1, 2), 20.0), torch.zeros((2, 1), dtype=torch.long)
    return LabelledBatch(
        pixels, COLOUR, xy, label, torch.full((2, 1, 8), 3.0), weak=WeakView(pixels, COLOUR)
    )


@pytest.mark.parametrize("head", HEADS.names())
def test_there_is_nothing_to_learn_from_oneself_and_something_from_another(head):
    teacher, other, batch = detector(0, head), detector(1, head), batch_of()
    term = DistillationTerm(0.5, [teacher])
    assert term(teacher(batch.pixels, COLOUR), batch).item() == pytest.approx(0, abs=1e-5)
    assert term(other(batch.pixels, COLOUR), batch) > 0.1


def test_several_teachers_state_their_mean():
    one, other, batch = detector(0), detector(1, backbone="muse_compact_32"), batch_of()
    pairs = zip(one(batch.pixels, COLOUR), other(batch.pixels, COLOUR), strict=True)
    mean = NucleusMaps(*((a + b) / 2 for a, b in pairs))
    assert DistillationTerm(0.5, [one, other])(mean, batch).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("what", ["centre", "offset", "label", "rays"])
def test_every_map_counts(what):
    teacher, batch = detector(0), batch_of()
    maps = teacher(batch.pixels, COLOUR)
    noise = torch.randn(getattr(maps, what).shape, generator=torch.Generator().manual_seed(1))
    assert (
        DistillationTerm(0.5, [teacher])(
            maps._replace(**{what: getattr(maps, what) + noise}), batch
        )
        > 0.05
    )


def test_the_teacher_sees_the_windows_as_they_are():
    teacher, batch = detector(0), batch_of()
    output = teacher(batch.pixels, COLOUR)
    varied = batch._replace(pixels=batch.pixels / 2)
    assert DistillationTerm(0.5, [teacher])(output, varied).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(
    "where, changed, counts",
    [
        ("everywhere", "inside", True),
        ("everywhere", "outside", True),
        ("outside", "inside", False),
        ("outside", "outside", True),
    ],
)
def test_outside_of_the_regions_alone(where, changed, counts):
    teacher, batch = detector(0), batch_of()
    region = torch.zeros(2, 16, 16)
    region[:, :, :4], region[:, :, 4:8] = (
        5.0,
        -0.5,
    )  # inside a region, and inside one whose labels are held out
    maps = teacher(batch.pixels, COLOUR)
    part = slice(0, 8) if changed == "inside" else slice(8, 16)
    other = NucleusMaps(*(values.clone() for values in maps))
    for values in other:
        values[..., part] += torch.randn(
            values[..., part].shape, generator=torch.Generator().manual_seed(1)
        )
    distance = DistillationTerm(0.5, [teacher], where)(other, batch._replace(region=region)).item()
    assert (distance > 0.05) if counts else distance == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_its_share_of_the_loss_is_what_was_asked_for(share):
    student, batch = detector(1), batch_of()
    term = DistillationTerm(share, [detector(0)])
    plain = DetectorTraining(student, "dense", 0.5, torch.ones(2)).losses(batch, "model", 0)
    both = DetectorTraining(student, "dense", 0.5, torch.ones(2), term).losses(batch, "model", 0)
    expected = (1 - share) * plain["loss"] + share * both["distillation"]
    assert both["loss"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_student_comes_nearer_and_the_teacher_stays():
    teacher = detector(0, backbone="muse_compact_32")  # a larger network than the student
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    method = DetectorTraining(
        detector(1), "dense", 0.5, torch.ones(2), DistillationTerm(1.0, [teacher])
    ).train()
    trained = [parameter for parameter in method.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=3e-3)
    seen = []
    for step in range(15):
        losses = method.losses(batch_of(step % 3), step, step / 15)
        optimiser.zero_grad()
        losses["loss"].backward()
        optimiser.step()
        seen.append(losses["distillation"].item())
    assert np.mean(seen[-3:]) < 0.7 * np.mean(seen[:3])
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    assert not teacher.training


def test_a_run_goes_on_without_its_teachers_being_saved_with_it():
    method = DetectorTraining(
        detector(1), "dense", 0.5, torch.ones(2), DistillationTerm(0.5, [detector(0)])
    )
    state = method.state_dict()
    assert not any("teachers" in name for name in state)
    again = DetectorTraining(
        detector(2), "dense", 0.5, torch.ones(2), DistillationTerm(0.5, [detector(0)])
    )
    again.load_state_dict(state)
    assert torch.equal(again.network.head.out.weight, method.network.head.out.weight)
    del state["network.head.out.bias"]
    with pytest.raises(RuntimeError, match=r"Missing key.*network\.head\.out\.bias"):
        again.load_state_dict(state)

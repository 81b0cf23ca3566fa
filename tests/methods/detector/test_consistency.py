"""Pseudo-labels: which cells are chosen, what they cost, and where nothing happens."""

import dataclasses
import math

import pytest
import torch
from torch.nn import functional

from muse_pipeline.data.augment import LabelledBatch
from muse_pipeline.losses.penalty_reduced_focal import focal_posterior
from muse_pipeline.methods.detector.consistency import ConsistencySettings, ConsistencyTerm, Teacher
from muse_pipeline.models.heads import NucleusMaps

SIDE = 16
EVEN = torch.ones(2)


def maps_of(centre, label, requires_grad=False):
    maps = NucleusMaps(centre, torch.zeros(1, 2, SIDE, SIDE), label, torch.ones(1, 4, SIDE, SIDE))
    return NucleusMaps(*(values.requires_grad_() for values in maps)) if requires_grad else maps


def scene(logits, settings=None, weights=EVEN):
    """A teacher with predictions at (row, column): (centre logit, label logit of class 1); Omega is the left half."""
    centre, label = torch.full((1, 1, SIDE, SIDE), -9.0), torch.zeros(1, 2, SIDE, SIDE)
    for (row, column), (sure, second) in logits.items():
        centre[0, 0, row, column], label[0, 1, row, column] = sure, second
    maps = maps_of(centre, label)
    teacher = Teacher(maps, centre.sigmoid(), centre > -8)
    region = torch.zeros(1, SIDE, SIDE)
    region[..., :8] = 5.0
    batch = LabelledBatch(None, None, torch.zeros(1, 1, 2), torch.zeros(1, 1), torch.zeros(1, 1, 4), region)
    term = ConsistencyTerm(settings or ConsistencySettings(), weights, 0.5)
    torch.manual_seed(0)
    student = maps_of(torch.zeros(1, 1, SIDE, SIDE), torch.zeros(1, 2, SIDE, SIDE), requires_grad=True)
    return term, student, term(student, teacher, batch)


def test_inside_the_region_the_gradient_is_exactly_zero():
    _, student, terms = scene({(3, 3): (5.0, 5.0), (3, 12): (5.0, 5.0)})
    terms["consistency"].backward()
    for values in student[:1] + student[2:3]:
        assert (values.grad[..., :8] == 0).all()
        assert values.grad[..., 8:].abs().sum() > 0
    assert student.offset.grad is None
    assert student.rays.grad is None
    assert terms["pseudo_nuclei"] == 1


def test_nuclei_cost_their_class_and_three_times_as_many_cells_the_background():
    _, student, terms = scene({(3, 12): (5.0, 5.0), (9, 9): (5.0, -5.0)})
    assert terms["pseudo_nuclei"] == 2
    expected = (2 * 2 * math.log(2) + 6 * math.log(2)) / 8
    assert float(terms["consistency"].detach()) == pytest.approx(expected)
    terms["consistency"].backward()
    assert (student.centre.grad > 0).sum() == 6
    assert (student.centre.grad < 0).nonzero().tolist() == [[0, 0, 3, 12], [0, 0, 9, 9]]
    assert student.label.grad[0, :, 3, 12].tolist() == pytest.approx([1 / 16, -1 / 16])


def test_types_weigh_as_in_the_loss_of_the_labels():
    _, student, terms = scene({(3, 12): (5.0, 5.0), (9, 9): (5.0, -5.0)}, weights=torch.tensor([3.0, 0.5]))
    expected = (2 * math.log(2) + (3 + 0.5) * math.log(2) + 6 * math.log(2)) / 8
    assert float(terms["consistency"].detach()) == pytest.approx(expected)
    terms["consistency"].backward()
    assert student.label.grad[0, :, 9, 9].tolist() == pytest.approx([-3 / 16, 3 / 16])
    assert student.label.grad[0, :, 3, 12].tolist() == pytest.approx([0.5 / 16, -0.5 / 16])


def test_what_is_not_sure_is_left_alone():
    """0.73 for a nucleus, 0.27 against; and a sure nucleus of unsure class."""
    _, student, terms = scene({(3, 12): (1.0, 5.0), (9, 9): (5.0, 0.1)})
    assert terms["pseudo_nuclei"] == 0
    assert float(terms["consistency"].detach()) == 0
    terms["consistency"].backward()
    assert (student.centre.grad == 0).all()


def test_the_threshold_follows_the_confidence_of_its_type_and_stops_at_the_floor():
    term, _, _ = scene({})
    term.confidence[:] = torch.tensor([0.9, 0.5])
    logit = math.log(0.65 / 0.35)
    centre, label = torch.full((1, 1, SIDE, SIDE), -9.0), torch.zeros(1, 2, SIDE, SIDE)
    label[0, 0, 3, 12], label[0, 1, 9, 9] = 20.0, 20.0
    centre[0, 0, 3, 12] = centre[0, 0, 9, 9] = logit  # 0.65: under 0.72, over the floor of 0.6
    teacher = Teacher(maps_of(centre, label), centre.sigmoid(), centre > -8)
    region = torch.zeros(1, SIDE, SIDE)
    batch = LabelledBatch(None, None, None, None, None, region)
    student = maps_of(torch.zeros(1, 1, SIDE, SIDE), torch.zeros(1, 2, SIDE, SIDE), requires_grad=True)
    term.eval()(student, teacher, batch)["consistency"].backward()
    assert (student.centre.grad < 0).nonzero().tolist() == [[0, 0, 9, 9]]


def test_confidence_is_remembered_by_type():
    term, _, _ = scene({(3, 12): (1.0, 9.0), (3, 3): (9.0, 9.0)})
    expected = 1 + 0.01 * (torch.tensor(1.0).sigmoid() * torch.tensor([0.0, 9.0]).softmax(0)[1] - 1)
    assert term.confidence[0] == 1
    assert float(term.confidence[1]) == pytest.approx(float(expected), abs=1e-6)


def test_the_weight_rises_over_a_fifth_of_the_run():
    term = ConsistencyTerm(ConsistencySettings(weight=2.0), EVEN, 0.5)
    assert [term.weight(progress) for progress in (0, 0.1, 0.2, 0.9)] == [0, 1, 2, 2]


CHANGED = {"weight": 0.5, "ramp": 0.4, "threshold": 0.6, "floor": 0.9, "background_threshold": 1, "background_ratio": 1}


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(ConsistencySettings)])
def test_every_setting_acts(name):
    """On nuclei of a probability of 0.7 and 0.85."""
    logits = {(3, 12): (math.log(0.7 / 0.3), 20.0), (9, 9): (math.log(0.85 / 0.15), 20.0)}
    found = []
    for settings in (ConsistencySettings(), ConsistencySettings(**{name: CHANGED[name]})):
        term, _, terms = scene(logits, settings)
        found.append((term.weight(0.1) * float(terms["consistency"].detach()), int(terms["pseudo_nuclei"])))
    assert found[0] != found[1] and found[0][1] == 1


def test_the_focal_posterior_undoes_what_the_focal_loss_does():
    """The minimiser of the expected loss at probability 0.8, found by a search, stands for 0.8."""
    logit = torch.linspace(-6, 6, 20001, dtype=torch.float64)
    for prob in (0.05, 0.3, 0.5, 0.8, 0.95):
        hit = (-logit).sigmoid() ** 2 * functional.logsigmoid(logit)
        miss = logit.sigmoid() ** 2 * functional.logsigmoid(-logit)
        best = logit[(-(prob * hit + (1 - prob) * miss)).argmin()]
        assert float(focal_posterior(best)) == pytest.approx(prob, abs=2e-3)
    assert torch.isfinite(focal_posterior(torch.tensor([-80.0, 80.0]))).all()

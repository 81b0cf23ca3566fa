"""The losses of a point head: each nucleus gets one proposal, and nothing is learnt where there are
no labels.
"""

import math

import pytest
import torch

from muse_pipeline.data.augment import LabelledBatch
from muse_pipeline.methods.detector.criterion import (
    BACKGROUND_WEIGHT,
    OFFSET_WEIGHT,
    PointCriterion,
)
from muse_pipeline.models.detector import NucleusMaps

SIDE = 16


def drawn_batch(label=(0, 1), region=None):
    xy = torch.tensor([[[18.0, 22.0], [45.0, 9.0]]])
    rays = torch.full((1, 2, 4), 3.0)
    rays[0, 1] = math.nan
    return LabelledBatch(None, None, xy, torch.tensor([label]), rays, region)


def flat_maps(logit=0.0):
    maps = NucleusMaps(
        torch.full((1, 1, SIDE, SIDE), logit),
        torch.zeros(1, 2, SIDE, SIDE),
        torch.zeros(1, 2, SIDE, SIDE),
        torch.ones(1, 4, SIDE, SIDE),
    )
    return NucleusMaps(*(values.requires_grad_() for values in maps))


def criterion():
    return PointCriterion(0.5, torch.tensor([2.0, 1.0]))


def test_the_terms_are_what_their_equations_state():
    terms = {
        name: float(value.detach())
        for name, value in criterion()(flat_maps(), drawn_batch()).items()
    }
    n_background = SIDE * SIDE - 2
    type_error = (3 * 2 * math.log(2) + BACKGROUND_WEIGHT * n_background * math.log(2)) / 3
    # the nuclei are in cells (4, 5) and (11, 2), whose centres are at (18, 22) and (46, 10) px
    assert terms["offset"] == pytest.approx(OFFSET_WEIGHT * (0 + 0.5**2 + 0.5**2) / 2)
    assert terms["type"] == pytest.approx(type_error)
    assert terms["rays"] == pytest.approx((3 - 1) / 4)
    assert terms["loss"] == pytest.approx(terms["offset"] + terms["type"] + terms["rays"])


def test_a_confident_proposal_is_preferred_to_a_slightly_nearer_one():
    maps = flat_maps(-4.0)
    with torch.no_grad():
        maps.centre[0, 0, 5, 5] = 4.0
        maps.offset[0, 0, 5, 5] = -0.9
    pairs = criterion().match(maps, drawn_batch(), torch.ones(1, 1, SIDE, SIDE))
    assert pairs.cell.tolist() == [5 * SIDE + 5, 2 * SIDE + 11]


def test_an_unknown_class_teaches_that_it_is_a_nucleus_and_not_which():
    maps = flat_maps()
    criterion()(maps, drawn_batch(label=(-1, -1)))["loss"].backward()
    assert (maps.label.grad == 0).all()
    assert maps.centre.grad[0, 0, 5, 4] < 0


def test_outside_of_the_region_no_term_has_a_gradient():
    region = torch.zeros(1, SIDE, SIDE)
    region[:, :, :8] = torch.arange(8, 0, -1) * 2.0  # distance in um from the border at column 8
    maps = flat_maps()
    criterion()(maps, drawn_batch(region=region))["loss"].backward()
    for values in maps:
        assert (values.grad[..., 8:] == 0).all()
    assert (
        maps.centre.grad[..., 7] == 0
    ).all()  # the rim: 2 um from the border, where a cut nucleus may lie
    assert (maps.centre.grad[..., :7] != 0).all()
    assert (maps.offset.grad[0, :, 5, 4] == 0).all()
    assert maps.rays.grad[0, :, 5, 4].abs().sum() > 0


def test_a_nucleus_in_the_rim_is_learnt():
    region = torch.full((1, SIDE, SIDE), 1.0)
    maps = flat_maps()
    criterion()(maps, drawn_batch(region=region))["loss"].backward()
    assert (maps.centre.grad != 0).nonzero()[:, 2:].tolist() == [[2, 11], [5, 4]]


def test_a_window_without_nuclei_is_background():
    batch = LabelledBatch(
        None, None, torch.full((1, 1, 2), -1e6), torch.tensor([[-1]]), torch.zeros(1, 1, 4)
    )
    maps = flat_maps()
    terms = criterion()(maps, batch)
    terms["loss"].backward()
    assert float(terms["offset"].detach()) == float(terms["rays"].detach()) == 0
    assert (maps.centre.grad > 0).all()


def test_a_nucleus_beyond_the_window_has_no_proposal():
    batch = drawn_batch()._replace(xy=torch.tensor([[[18.0, 22.0], [-1.0, 9.0]]]))
    assert criterion().match(flat_maps(), batch, torch.ones(1, 1, SIDE, SIDE)).nucleus.tolist() == [
        0
    ]

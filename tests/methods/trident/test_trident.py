"""The branches of TriDeNT: which networks and rows are compared, and what a missing partner
changes.
"""

from itertools import combinations

import pytest
import torch
from literal_muse import read_bilinear
from trident_batches import make_pairs, make_trident

from muse_pipeline.core.errors import CollapsedError
from muse_pipeline.data.views import Views
from muse_pipeline.methods.trident.method import covariance, invariance, measure_spread, variance
from muse_pipeline.methods.trident.partners import PairBatch, PartnerBatch
from muse_pipeline.methods.trident.run import SpreadAlarm
from muse_pipeline.models.base import ALIGNED_CORNERS, interpolate_at
from muse_pipeline.training.loop import GRACE, IN_A_ROW
from muse_pipeline.training.method import Schedule

KNOWN = [True, False, True]


def features(network, pixels, colour):
    return network(network.prepare(pixels, colour))


def test_three_branches_are_two_views_and_the_partner():
    """The losses of image vectors and of nuclei are recomputed from the networks."""
    method, batch = make_trident().eval(), make_pairs(KNOWN)
    method.partner.lattice = ALIGNED_CORNERS  # as if it were a network of a different kind
    found = method.losses(batch, "model", 0.0)
    first, second = (
        features(method.backbone, pixels, colour)
        for pixels, colour in zip(
            *(part.chunk(2) for part in batch.views.global_views), strict=True
        )
    )
    partner = features(method.partner, batch.partner.image, torch.eye(3, 4))
    has, everywhere = torch.tensor(KNOWN), torch.ones(3, dtype=torch.bool)
    image = method.image
    rows = torch.zeros(3, 8)
    rows[has] = image.partner(partner.image)
    branches = [image.he(first.image), image.he(second.image), rows]
    masks = [everywhere, everywhere, has]
    expected = (
        25 * invariance(branches, masks)
        + 25 * variance(branches, masks)
        + covariance(branches, masks)
    )
    torch.testing.assert_close(found["image_loss"], expected)

    shared, covered = batch.views.shared[0], batch.partner.nuclei_known
    xy, lattice = batch.views.teacher_xy[0], method.backbone.lattice
    dense = torch.zeros(3, *partner.dense.shape[1:])
    dense[has] = partner.dense
    nuclei = [
        method.nucleus.he(interpolate_at(first.dense, xy, lattice)[shared]),
        method.nucleus.he(interpolate_at(second.dense, batch.views.student_xy[0], lattice)[shared]),
        method.nucleus.partner(interpolate_at(dense, xy, ALIGNED_CORNERS)[shared]),
    ]
    masks = [torch.ones(int(shared.sum()), dtype=torch.bool)] * 2 + [covered[shared]]
    torch.testing.assert_close(found["nucleus_invariance"], invariance(nuclei, masks))
    torch.testing.assert_close(found["loss"], found["image_loss"] + 0.5 * found["nucleus_loss"])
    assert found["image_partners"] == pytest.approx(2 / 3)


def literal_vicreg(samples):
    """The loss of VICReg with weights 2, 3 and 0.5; ``samples`` has a dict (sample number ->
    vector) per branch.
    """
    invariance = variance = covariance = 0.0
    for one, other in combinations(samples, 2):
        both = one.keys() & other.keys()
        invariance += 2 * sum(((one[k] - other[k]) ** 2).mean() for k in both) / len(both)
    for one in samples:
        rows, width = torch.stack([*one.values()]), len(next(iter(one.values())))
        means = [rows[:, d].mean() for d in range(width)]
        for d in range(width):
            deviation = (((rows[:, d] - means[d]) ** 2).mean() + 1e-5) ** 0.5
            variance += torch.clamp(1 - deviation, min=0) / width
            for e in set(range(width)) - {d}:
                covariance += (
                    (rows[:, d] - means[d]) * (rows[:, e] - means[e])
                ).mean() ** 2 / width
    return 2 * invariance + 3 * variance + 0.5 * covariance


def literal_trident(method, batch, branches):
    """0.7 times the image loss plus 0.4 times the nucleus loss, computed one image and one nucleus
    at a time.
    """
    n_sets, partner, which = (
        len(batch.partner.image_known),
        batch.partner,
        batch.partner.image_known.nonzero()[:, 0],
    )
    views = [(0, batch.views.teacher_xy[0]), (1, batch.views.student_xy[0])][
        : 1 if branches == 2 else 2
    ]
    images, nuclei = [], []
    for view, xy in views:
        images.append({})
        nuclei.append({})
        for b in range(n_sets):
            number = view * n_sets + b
            pixels, colour = (part[number : number + 1] for part in batch.views.global_views)
            found = features(method.backbone, pixels, colour)
            images[-1][b] = method.image.he(found.image)[0]
            for m in batch.views.shared[0, b].nonzero()[:, 0].tolist():
                nuclei[-1][b, m] = method.nucleus.he(read_bilinear(found.dense[0], xy[b, m])[None])[
                    0
                ]
    if branches > 1:
        images.append({})
        nuclei.append({})
        for k, b in enumerate(which.tolist()):
            one = partner.image[k : k + 1]
            found = features(method.partner, one, torch.eye(3, 4).double())
            images[-1][b] = method.image.partner(found.image)[0]
            for m in partner.nuclei_known[b].nonzero()[:, 0].tolist():
                at = batch.views.teacher_xy[0][b, m]
                nuclei[-1][b, m] = method.nucleus.partner(read_bilinear(found.dense[0], at)[None])[
                    0
                ]
    return 0.7 * literal_vicreg(images) + 0.4 * literal_vicreg(nuclei)


@pytest.mark.parametrize("branches", [1, 2, 3])
def test_loss_and_gradients_of_every_network_are_those_of_the_formula(branches):
    weights = {
        "image_weight": 0.7,
        "nucleus_weight": 0.4,
        "invariance": 2.0,
        "variance": 3.0,
        "covariance": 0.5,
    }
    method = make_trident(branches=branches, width=4, **weights).double().eval()
    pairs = make_pairs([True, False, True, True])
    is_covered = pairs.partner.nuclei_known[
        pairs.views.shared[0] & pairs.partner.image_known[:, None]
    ]
    assert is_covered.any() and not is_covered.all()
    wide = Views(*(part.double() for part in pairs.views.global_views))
    partner = [p.double() if p.is_floating_point() else p for p in pairs.partner]
    batch = PairBatch(pairs.views._replace(global_views=wide), PartnerBatch(*partner))
    parameters = dict(method.named_parameters())
    loss, expected = (
        method.losses(batch, "model", 0.0)["loss"],
        literal_trident(method, batch, branches),
    )
    torch.testing.assert_close(loss, expected)
    found, wanted = (
        dict(
            zip(
                parameters,
                torch.autograd.grad(one, [*parameters.values()], allow_unused=True),
                strict=True,
            )
        )
        for one in (loss, expected)
    )
    assert all(gradient is not None and gradient.any() for gradient in wanted.values())
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-7)


def test_no_two_networks_share_weights():
    method = make_trident()
    levels = [
        network for level in (method.image, method.nucleus) for network in (level.he, level.partner)
    ]
    weights = [
        {id(parameter) for parameter in one.parameters()}
        for one in (method.backbone, method.partner, *levels)
    ]
    assert len(weights) == 6 and all(weights)
    assert not any(one & other for one, other in combinations(weights, 2))
    assert {id(parameter) for _, parameter in method.turn_parameters("model")} == set.union(
        *weights
    )


@pytest.mark.parametrize("loss", ["vicreg", "infonce"])
@pytest.mark.parametrize("branches", [1, 2, 3])
@pytest.mark.parametrize("known", [KNOWN, [False, True, False], [False] * 3])
def test_every_kind_trains_whatever_partners_there_are(loss, branches, known):
    method = make_trident(loss=loss, branches=branches).train()
    found = method.losses(make_pairs(known), "model", 0.0)
    found["loss"].backward()
    assert all(value.isfinite() for value in found.values())
    assert all(
        parameter.grad is None or parameter.grad.isfinite().all()
        for parameter in method.parameters()
    )
    assert (method.partner is None) == (branches == 1)


def test_a_partner_that_is_absent_changes_no_gradient_of_the_partner_encoder():
    method = make_trident(nucleus_weight=0.0)
    method.losses(make_pairs([False] * 3), "model", 0.0)["loss"].backward()
    assert all(
        parameter.grad is None or not parameter.grad.any()
        for parameter in method.partner.parameters()
    )
    assert any(
        parameter.grad.any()
        for parameter in method.backbone.parameters()
        if parameter.grad is not None
    )


def test_nuclei_are_drawn_where_there_are_too_many():
    method = make_trident(image_weight=0.0, max_nuclei=4, loss="infonce").eval()
    batch = make_pairs([True] * 3)
    assert batch.views.shared[0].sum() > 4
    torch.manual_seed(1)
    one = method.losses(batch, "model", 0.0)["loss"]
    torch.manual_seed(2)
    assert method.losses(batch, "model", 0.0)["loss"] != one


def test_gauges_of_rows_that_point_everywhere_and_of_collapsed_ones():
    rows = torch.randn(400, 8, generator=torch.Generator().manual_seed(0))
    gauges = measure_spread(rows)
    assert gauges["std"].item() == pytest.approx(1, abs=0.1)
    assert gauges["spread"] > 0.98 and gauges["rank"] > 0.95
    alike = measure_spread(rows[:1] + 1e-3 * rows)
    assert alike["spread"] < 0.01
    line = measure_spread(rows[:, :1] * torch.ones(8))
    assert line["rank"].item() == pytest.approx(1 / 8, rel=1e-4)
    assert measure_spread(rows[:1])["std"] == 0


def test_a_collapsed_run_is_ended(tmp_path):
    alarm = SpreadAlarm(Schedule(steps=100), tmp_path)
    for done in range(IN_A_ROW - 1):
        alarm.on_log(done, {"image_spread": 0.0})  # before the grace period is over
    begin = round(100 * GRACE)
    for done in range(begin, begin + IN_A_ROW - 1):
        alarm.on_log(done, {"trident image_spread": 0.01})
    alarm.on_log(begin + 9, {"trident image_spread": 0.5})
    for done in range(50, 49 + IN_A_ROW):
        alarm.on_log(done, {"trident image_spread": 0.01})
    with pytest.raises(CollapsedError, match="trident image spread"):
        alarm.on_log(60, {"trident image_spread": 0.01})

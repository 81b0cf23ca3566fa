"""The branches: which networks and rows are compared, and what a missing partner changes."""

import pytest
import torch
from trident_batches import make_pairs, make_trident

from muse_pipeline.core.errors import CollapsedError, ConfigError
from muse_pipeline.losses.vicreg import covariance, invariance, variance
from muse_pipeline.methods.trident.config import AlignmentSettings
from muse_pipeline.methods.trident.method import measure_spread
from muse_pipeline.methods.trident.run import SpreadAlarm
from muse_pipeline.models.readout import read_at
from muse_pipeline.training.loop import GRACE, IN_A_ROW
from muse_pipeline.training.schedule import Schedule

KNOWN = [True, False, True]


def features(network, pixels, colour):
    return network(network.prepare(pixels, colour))


def test_three_branches_are_two_views_and_the_partner():
    """The loss of image vectors and of nuclei, computed anew from the networks."""
    method, batch = make_trident().eval(), make_pairs(KNOWN)
    found = method.losses(batch, "model", 0.0)
    first, second = (
        features(method.backbone, pixels, colour)
        for pixels, colour in zip(*(part.chunk(2) for part in batch.views.global_views), strict=True)
    )
    partner = features(method.partner, batch.partner.image, torch.eye(3, 4))
    has, everywhere = torch.tensor(KNOWN), torch.ones(3, dtype=torch.bool)
    image = method.image
    rows = torch.zeros(3, 8)
    rows[has] = image.partner(partner.image)
    branches = [image.he(first.image), image.he(second.image), rows]
    masks = [everywhere, everywhere, has]
    expected = 25 * invariance(branches, masks) + 25 * variance(branches, masks) + covariance(branches, masks)
    torch.testing.assert_close(found["image_loss"], expected)

    shared, covered = batch.views.shared[0], batch.partner.nuclei_known
    xy, lattice = batch.views.teacher_xy[0], method.backbone.lattice
    dense = torch.zeros(3, *partner.dense.shape[1:])
    dense[has] = partner.dense
    nuclei = [
        method.nucleus.he(read_at(first.dense, xy, lattice)[shared]),
        method.nucleus.he(read_at(second.dense, batch.views.student_xy[0], lattice)[shared]),
        method.nucleus.partner(read_at(dense, xy, lattice)[shared]),
    ]
    masks = [torch.ones(int(shared.sum()), dtype=torch.bool)] * 2 + [covered[shared]]
    torch.testing.assert_close(found["nucleus_invariance"], invariance(nuclei, masks))
    torch.testing.assert_close(found["loss"], found["image_loss"] + 0.5 * found["nucleus_loss"])
    assert found["image_partners"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("loss", ["vicreg", "infonce", "barlow twins"])
@pytest.mark.parametrize("vectors", [False, True])
@pytest.mark.parametrize("branches", [1, 2, 3])
@pytest.mark.parametrize("known", [KNOWN, [False, True, False], [False] * 3])
def test_every_kind_trains_whatever_partners_there_are(loss, vectors, branches, known):
    if loss == "barlow twins" and branches == 3:
        with pytest.raises(ConfigError, match="'barlow twins' compares two branches; set `branches` to 1 or 2"):
            AlignmentSettings(loss=loss, branches=branches)
        return
    method = make_trident(vectors, loss=loss, branches=branches).train()
    found = method.losses(make_pairs(known, vectors=vectors), "model", 0.0)
    found["loss"].backward()
    assert all(value.isfinite() for value in found.values())
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in method.parameters())
    assert (method.partner is None) == (branches == 1)


def test_two_branches_see_the_first_view_alone():
    method, batch = make_trident(branches=2).eval(), make_pairs(KNOWN)
    changed = batch.views.global_views.pixels.clone()
    changed[3:] = 0
    other = batch._replace(views=batch.views._replace(global_views=batch.views.global_views._replace(pixels=changed)))
    assert method.losses(batch, "model", 0.0)["loss"] == method.losses(other, "model", 0.0)["loss"]
    assert method.trained() is method.backbone


def test_a_partner_that_is_absent_changes_no_gradient_of_the_partner_encoder():
    method = make_trident(nucleus_weight=0.0)
    method.losses(make_pairs([False] * 3), "model", 0.0)["loss"].backward()
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in method.partner.parameters())
    assert any(parameter.grad.any() for parameter in method.backbone.parameters() if parameter.grad is not None)


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
        alarm.on_log(done, {"image_spread": 0.0})  # before the grace is over
    begin = round(100 * GRACE)
    for done in range(begin, begin + IN_A_ROW - 1):
        alarm.on_log(done, {"trident image_spread": 0.01})
    alarm.on_log(begin + 9, {"trident image_spread": 0.5})
    for done in range(50, 49 + IN_A_ROW):
        alarm.on_log(done, {"trident image_spread": 0.01})
    with pytest.raises(CollapsedError, match=r"collapsed by step 60: trident image spread is 0\.01, below 0\.05"):
        alarm.on_log(60, {"trident image_spread": 0.01})

"""Two processes with different numbers of nuclei and partners do what one process with all of them
does.
"""

import pytest
import torch
from processes import run_in_two
from trident_batches import make_pairs, make_trident

from muse_pipeline.data.views import ViewBatch, Views
from muse_pipeline.methods.trident.partners import PairBatch, PartnerBatch
from muse_pipeline.training.devices import average_gradients, gather_rows

# tests/methods/muse/test_muse_processes.py is fast and tests the same functions that gather and
# average.
pytestmark = pytest.mark.slow

CASES = [("vicreg", 3), ("vicreg", 1), ("infonce", 3)]
KNOWN = [[True, False, True], [True, False, False]]


def halves() -> list[PairBatch]:
    return [make_pairs(known, seed) for seed, known in enumerate(KNOWN, 1)]


def joined(first: PairBatch, second: PairBatch) -> PairBatch:
    """One batch with the sets of both."""
    parts = [[part.chunk(2) for part in one.views.global_views] for one in (first, second)]
    wide = Views(*(torch.cat([a[0], b[0], a[1], b[1]]) for a, b in zip(*parts, strict=True)))
    tables = (torch.cat(pair, 1) for pair in zip(first.views[2:5], second.views[2:5], strict=True))
    partners = zip(first.partner, second.partner, strict=True)
    partner = PartnerBatch(*map(torch.cat, partners))
    return PairBatch(ViewBatch(wide, None, *tables), partner)


def learn(loss: str, branches: int, batch: PairBatch) -> dict[str, torch.Tensor]:
    """Losses and gradients in evaluation mode, in which batch norms do not depend on the batch."""
    method = make_trident(loss=loss, branches=branches).double().eval()
    wide = Views(*(part.double() for part in batch.views.global_views))
    partner = [p.double() if p.is_floating_point() else p for p in batch.partner]
    found = method.losses(
        PairBatch(batch.views._replace(global_views=wide), PartnerBatch(*partner)), "model", 0.5
    )
    found["loss"].backward()
    parameters = dict(method.named_parameters())
    average_gradients(list(parameters.values()))
    gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
    return {**{name: value.detach() for name, value in found.items()}, **gradients}


def in_a_process(rank: int) -> dict:
    found = {(loss, branches): learn(loss, branches, halves()[rank]) for loss, branches in CASES}
    return {**found, "rows": gather_rows(torch.full((3 * rank, 2), float(rank)))}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return run_in_two(in_a_process, tmp_path_factory.mktemp("two"))


@pytest.mark.parametrize("loss, branches", CASES)
def test_two_processes_make_the_step_of_one(found, loss, branches):
    expected = learn(loss, branches, joined(*halves()))
    for name, value in expected.items():
        for one in found:
            # The difference of large terms that nearly cancel is only as exact as these terms.
            atol = 1e-6 * max(1.0, value.abs().max().item())
            torch.testing.assert_close(
                one[loss, branches][name], value, rtol=1e-6, atol=atol, msg=name
            )


def test_a_process_without_rows_gathers_those_of_the_other(found):
    assert all(torch.equal(one["rows"], torch.ones(3, 2)) for one in found)

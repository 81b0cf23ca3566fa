"""Two processes with different numbers of nuclei do what one process with all of them does."""

import pytest
import torch
from muse_views import make_batch, make_method
from processes import run_in_two, run_sync_batch_norms_on_cpu

from muse_pipeline.data.views import ViewBatch, Views
from muse_pipeline.methods.muse.method import MusePretraining, sinkhorn_targets
from muse_pipeline.training.devices import average_gradients, share_batch_norms

BALANCES = ("centring", "sinkhorn")


def batches(with_none: bool) -> list[ViewBatch]:
    """One batch for each process; with ``with_none``, the second has no shared nuclei."""
    first, second = make_batch(seed=1), make_batch(seed=2)
    if with_none:
        second.shared[:] = False
    return [first, second]


def join(first: Views, second: Views, n_views: int) -> Views:
    parts = zip(*(tensor.chunk(n_views) for one in (first, second) for tensor in one), strict=True)
    pixels, colour, more_pixels, more_colour = zip(*parts, strict=True)
    return Views(
        *(
            torch.cat([t for pair in zip(a, b, strict=True) for t in pair])
            for a, b in ((pixels, more_pixels), (colour, more_colour))
        )
    )


def joined(first: ViewBatch, second: ViewBatch) -> ViewBatch:
    """One batch with the sets of both."""
    tables = (torch.cat(pair, 1) for pair in zip(first[2:5], second[2:5], strict=True))
    return ViewBatch(
        join(first.global_views, second.global_views, 2),
        join(first.local_views, second.local_views, 2),
        *tables,
    )


def rows() -> torch.Tensor:
    return torch.nn.functional.normalize(
        torch.randn(40, 12, generator=torch.Generator().manual_seed(3)), dim=-1
    )


def make_exact_method() -> MusePretraining:
    """A method in training mode, whose backbones use double precision so that rounding does not
    switch a ReLU.
    """
    method = make_method().train()
    method.backbone.double()
    method.teacher.double()
    return method


def in_double(batch: ViewBatch) -> ViewBatch:
    wide, near = (
        Views(*(part.double() for part in views))
        for views in (batch.global_views, batch.local_views)
    )
    return batch._replace(global_views=wide, local_views=near)


def learn(method, batch: ViewBatch) -> dict[str, torch.Tensor]:
    """Losses, gradients and state after one step."""
    found = method.losses(batch, "model", 0.5)
    found["loss"].backward()
    average_gradients([parameter for _, parameter in method.turn_parameters("model")])
    method.after_step(0.5)
    gradients = {
        f"gradient of {name}": p.grad for name, p in method.named_parameters() if p.requires_grad
    }
    return {
        name: value.detach()
        for name, value in {**found, **gradients, **method.state_dict()}.items()
    }


def in_a_process(rank: int) -> dict:
    found = {}
    for balance in BALANCES:
        for with_none in (False, True):
            method = make_method(balance=balance).eval()
            found[balance, with_none] = learn(method, batches(with_none)[rank])
    for device in ("cuda", "cpu"):
        method = share_batch_norms(make_exact_method(), 2, torch.device(device))
        run_sync_batch_norms_on_cpu(method)
        found["training", device] = learn(method, in_double(batches(False)[rank]))
    for n_first in (40, 17):
        part = rows()[:n_first] if rank == 0 else rows()[n_first:]
        found["sinkhorn", n_first] = {"targets": sinkhorn_targets(part, 0.05)}
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return run_in_two(in_a_process, tmp_path_factory.mktemp("two"))


def require_same_step(first: dict, second: dict, expected: dict) -> None:
    """Require that both processes reach the state of one process with the joined batch."""
    assert first.keys() == expected.keys()
    for name, value in expected.items():
        if name in {"loss", "nucleus", "image"}:  # these are averaged over the processes
            torch.testing.assert_close(
                (first[name] + second[name]) / 2, value, rtol=1e-6, atol=1e-6, msg=name
            )
        else:
            torch.testing.assert_close(first[name], second[name], rtol=0, atol=0, msg=name)
            # The difference of large terms that nearly cancel is only as exact as these terms.
            atol = 1e-6 * max(1.0, value.abs().max().item())
            torch.testing.assert_close(first[name], value, rtol=1e-4, atol=atol, msg=name)


@pytest.mark.parametrize("balance", BALANCES)
@pytest.mark.parametrize("with_none", [False, True])
def test_two_processes_make_the_step_of_one(found, balance, with_none):
    """The networks are in evaluation mode, in which batch norms do not depend on the batch."""
    method = make_method(balance=balance).eval()
    expected = learn(method, joined(*batches(with_none)))
    require_same_step(*(one[balance, with_none] for one in found), expected)


def test_batch_norms_of_two_gpus_normalise_by_both_batches(found):
    """Statistics, losses and gradients of student and teacher equal those of one process with the
    joined batch.
    """
    method = make_exact_method()
    expected = learn(method, in_double(joined(*batches(False))))
    require_same_step(*(one["training", "cuda"] for one in found), expected)


def test_batch_norms_of_two_cpu_processes_normalise_each_by_its_own_batch(found):
    first, second = (one["training", "cpu"] for one in found)
    means = [name for name in first if name.endswith("running_mean")]
    assert {name.split(".")[0] for name in means} == {"backbone", "teacher"}
    assert not any(torch.equal(first[name], second[name]) for name in means)


@pytest.mark.parametrize("n_first", [40, 17])
def test_sinkhorn_assigns_the_rows_of_both_together(found, n_first):
    """The rows are divided between the processes; with ``n_first`` = 40, the second process has
    none.
    """
    both = torch.cat([one["sinkhorn", n_first]["targets"] for one in found])
    torch.testing.assert_close(both, sinkhorn_targets(rows(), 0.05), rtol=1e-5, atol=1e-6)

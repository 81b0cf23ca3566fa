"""MUSE pretraining compared with its definition; ``literal_muse`` has the losses written out from
formulas.
"""

import copy
import dataclasses

import pytest
import torch
from lightning_fabric import Fabric
from literal_muse import literal_values
from muse_views import make_batch, make_method, randomise
from torch.utils._python_dispatch import TorchDispatchMode

from muse_pipeline.methods.muse.method import (
    DistillationLevel,
    Projector,
    SelfDistillationSettings,
)
from muse_pipeline.models.base import Features
from muse_pipeline.training.loop import Turn, _require_finite
from muse_pipeline.training.method import Schedule
from muse_pipeline.training.run import RunFolder


@pytest.mark.parametrize(
    "n_local, n_sets, nucleus, image", [(0, 2, 0.5, 2.0), (2, 3, 2.0, 0.5), (3, 4, 0.3, 1.0)]
)
def test_losses_and_gradients_are_their_definitions(n_local, n_sets, nucleus, image):
    """Losses agree to 1e-6, and gradients of the weighted sum to 1e-5 of the largest gradient in
    each weight tensor.
    """
    method = make_method(n_local, nucleus_weight=nucleus, image_weight=image).eval()
    randomise(method)
    batch = make_batch(n_local, seed=n_sets, batch=n_sets)
    batch.teacher_xy[1, 0, 0] = torch.tensor(
        [0.5, 63.9]
    )  # beyond the centres of the outermost cells
    batch.shared[-1] = (
        False  # pairs of views without a shared nucleus are left out of the mean over pairs
    )
    exact = copy.deepcopy(method).double()
    # A rounded activation near zero could have the other sign, so the maps are not rounded either.
    for network in (method.backbone, method.teacher):
        forward = network.double().forward
        network.forward = lambda x, run=forward: Features(*(m.float() for m in run(x.double())))
    expected = literal_values(exact, batch, temperature=0.055)  # halfway from 0.04 to 0.07
    found = method.losses(batch, "model", progress=0.15)
    for name in ("nucleus", "image", "loss"):
        assert found[name].item() == pytest.approx(expected[name].item(), rel=1e-6), name
    found["loss"].backward()
    expected["loss"].backward()
    for name, parameter in exact.named_parameters():
        if parameter.requires_grad:
            gradient = method.get_parameter(name).grad.double()
            atol = 1e-5 * parameter.grad.abs().max().item()
            torch.testing.assert_close(gradient, parameter.grad, rtol=0, atol=atol, msg=name)


@pytest.mark.parametrize("balance", ["centring", "sinkhorn"])
@torch.no_grad()
def test_losses_and_gauges_are_their_definitions(balance):
    """Each teacher's view is in three pairs, and Sinkhorn balances over the nuclei of all three
    together.
    """
    method = make_method(2, balance=balance, n_prototypes=6).eval()
    randomise(method)
    batch = make_batch(2, seed=1, batch=2)
    exact = copy.deepcopy(method).double()
    expected = literal_values(exact, batch, temperature=0.055)
    found = method.losses(batch, "model", progress=0.15)
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(float(value), rel=1e-5, abs=1e-6), name


class WaitCounter(TorchDispatchMode):
    """Records operations for which the host would wait for a GPU."""

    def __init__(self):
        super().__init__()
        self.waits = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function)
        by_mask = name.startswith(("aten.index.Tensor", "aten.index_put")) and any(
            isinstance(one, torch.Tensor) and one.dtype == torch.bool for one in args[1]
        )
        if name.startswith(("aten._local_scalar_dense", "aten.nonzero")) or by_mask:
            self.waits.append(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("gauges", [False, True])
def test_the_host_rarely_waits_for_the_device_in_a_step(tmp_path, gauges):
    """The test covers a whole step except for the optimiser, which counts its steps on the CPU."""
    method, batch = make_method(n_local=8), make_batch(n_local=8)
    method.gauges = gauges
    turn, counter = Turn(method, "model", Schedule(steps=10)), WaitCounter()
    with counter:
        found = turn.update(5, [batch], Fabric(accelerator="cpu", devices=1))
        _require_finite(found, 5, RunFolder(tmp_path))
    turn.apply(5)
    with counter:
        method.after_step(0.5)
    assert 0 < len(counter.waits) <= 5, counter.waits


@torch.no_grad()
def test_what_is_only_logged_is_left_out_on_demand():
    method, batch = make_method().eval(), make_batch()
    everything = method.losses(batch, "model", 0.5)
    method.gauges = False
    found = method.losses(batch, "model", 0.5)
    assert set(found) == {"loss", "nucleus", "image"} < set(everything)
    assert all(torch.equal(value, everything[name]) for name, value in found.items())


def test_prototypes_stay_at_first_and_then_move_like_any_other_weight():
    """Steps with zero gradients would shrink the prototypes, and let Adam leap at the first real
    gradient.
    """
    method, batch = make_method(frozen=0.2), make_batch()
    levels = (method.nucleus, method.image)
    before = [level.student.prototypes.clone() for level in levels]
    optimiser = torch.optim.AdamW(
        [p for p in method.parameters() if p.requires_grad], lr=1e-3, weight_decay=0.4
    )
    for progress in (0.1, 0.1, 0.1, 0.3):
        optimiser.zero_grad()
        method.losses(batch, "model", progress)["loss"].backward()
        method.before_step("model", progress)
        optimiser.step()
        moved = [
            (level.student.prototypes - was).abs().max().item()
            for level, was in zip(levels, before, strict=True)
        ]
        assert all((one == 0) is (progress < 0.2) for one in moved)
    assert all(
        1e-4 < one < 2e-3 for one in moved
    )  # the first step of Adam: the learning rate plus the decay


def test_prototypes_begin_as_long_as_dinos():
    assert Projector(384).prototypes.norm(dim=1).mean().item() == pytest.approx(3**-0.5, rel=0.01)


def test_in_bfloat16_cosines_keep_their_bits():
    projector, features = Projector(32, 64, 16, 50), torch.randn(20, 32)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = projector(features)
        latent = projector.layers(features).float()
    assert mixed.dtype == torch.float32
    unit = (
        torch.nn.functional.normalize(latent, dim=1),
        torch.nn.functional.normalize(projector.prototypes, dim=1),
    )
    torch.testing.assert_close(mixed, unit[0] @ unit[1].T, rtol=0, atol=1e-6)


@pytest.mark.parametrize("progress, rest", [(0.0, 1.0), (0.5, 0.5), (1.0, 0.0)])
@torch.no_grad()
def test_the_teacher_moves_by_its_momentum(progress, rest):
    method = make_method(momentum=0.9)
    for parameter in method.parameters():
        parameter.copy_(torch.randn_like(parameter))
    before = {name: value.clone() for name, value in method.state_dict().items()}
    method.after_step(progress)
    momentum = 1 - (1 - 0.9) * rest
    pairs = [
        ("teacher.", "backbone."),
        ("nucleus.teacher.", "nucleus.student."),
        ("image.teacher.", "image.student."),
    ]
    n_moved = 0
    for name, value in method.named_parameters():
        reference = next(((a, b) for a, b in pairs if name.startswith(a)), None)
        if reference is None:
            assert torch.equal(value, before[name])
            continue
        student = before[reference[1] + name.removeprefix(reference[0])]
        torch.testing.assert_close(
            value, momentum * before[name] + (1 - momentum) * student, rtol=1e-5, atol=1e-6
        )
        n_moved += 1
    assert n_moved == sum("teacher" in name for name, _ in method.named_parameters())


@torch.no_grad()
def test_batch_norms_of_the_teacher_are_its_own():
    method = make_method().train()
    before = {name: value.clone() for name, value in method.teacher.named_buffers()}
    method.losses(make_batch(), 0, 0)
    assert any(
        not torch.equal(value, before[name]) for name, value in method.teacher.named_buffers()
    )


@torch.no_grad()
def test_the_centre_follows_the_mean_logit_of_all_batches_of_a_step():
    """The centre is an exponential average with DINO's momentum of 0.9."""
    level = DistillationLevel(8, SelfDistillationSettings(n_prototypes=12, hidden=16, bottleneck=4))
    before = level.centre.normal_(generator=torch.Generator().manual_seed(0)).clone()
    parts = [torch.randn(n, 8, generator=torch.Generator().manual_seed(n)) for n in (5, 0, 9)]
    for part in parts:
        level.targets(part, 0)
    expected = 0.9 * before + 0.1 * level.teacher(torch.cat(parts)).mean(0)
    level.update(1.0)
    torch.testing.assert_close(level.centre, expected)
    level.update(1.0)  # after a step without samples
    torch.testing.assert_close(level.centre, expected)


@torch.no_grad()
def test_used_prototypes_are_counted_over_the_last_hundred_steps():
    level = DistillationLevel(8, SelfDistillationSettings(n_prototypes=12, hidden=16, bottleneck=4))
    use = [0.1 * one for one in range(12)]
    level.use.copy_(torch.tensor(use))
    parts = [torch.randn(n, 8, generator=torch.Generator().manual_seed(n)) for n in (5, 9)]
    first = [row.argmax().item() for part in parts for row in level.targets(part, 0)]
    level.update(1.0)
    expected = [0.99 * one + 0.01 * first.count(k) / 14 for k, one in enumerate(use)]
    assert level.use.tolist() == pytest.approx(expected)
    is_used = [one > 0.05 * sum(expected) / 12 for one in expected]
    assert level.prototype_usage().item() == pytest.approx(sum(is_used) / 12)


@pytest.mark.parametrize(
    "progress, temperature", [(0.0, 0.04), (0.05, 0.05), (0.15, 0.07), (0.2, 0.08), (1.0, 0.08)]
)
@torch.no_grad()
def test_the_temperature_of_the_teacher_rises_along_a_line(progress, temperature):
    settings = SelfDistillationSettings(
        n_prototypes=5, hidden=8, bottleneck=4, teacher_temperature=(0.04, 0.08)
    )
    level = DistillationLevel(8, dataclasses.replace(settings, teacher_warmup=0.2))
    features = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    expected = torch.softmax(level.teacher(features) / temperature, -1)
    torch.testing.assert_close(level.targets(features, progress), expected)


@pytest.mark.parametrize("balance", ["centring", "sinkhorn"])
def test_a_batch_without_a_match_teaches_views_alone(balance):
    method, batch = make_method(balance=balance), make_batch()
    batch.shared[:] = False
    found = method.losses(batch, "model", 0.5)
    assert all(value.isfinite() for value in found.values())
    assert found["nucleus"] == 0 and found["shared_nuclei"] == 0
    found["loss"].backward()
    # A missing gradient would make other processes wait.
    assert all(p.grad.isfinite().all() for p in method.parameters() if p.requires_grad)
    method.after_step(0.5)
    assert all(value.isfinite().all() for value in method.state_dict().values())
    assert (method.nucleus.centre == 0).all()


@pytest.mark.parametrize("off", [{"nucleus_weight": 0.0}, {"image_weight": 0.0}])
def test_without_one_of_the_losses_every_parameter_still_has_a_gradient(off):
    method = make_method(**off)
    found = method.losses(make_batch(), 0, 0.5)
    found["loss"].backward()
    assert all(
        parameter.grad is not None for parameter in method.parameters() if parameter.requires_grad
    )
    assert ("nucleus" in found) is not ("nucleus_weight" in off)

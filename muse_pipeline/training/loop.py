"""The training loop of every method: read it top to bottom."""

from __future__ import annotations

from collections.abc import Callable

import torch
from lightning_fabric import Fabric
from torch import Tensor

from muse_pipeline.core.errors import DivergedError
from muse_pipeline.data.stream import seed_of_step
from muse_pipeline.methods.base import Method
from muse_pipeline.training.curves import draw_curves
from muse_pipeline.training.metrics import MetricsLog
from muse_pipeline.training.optimiser import build_optimiser, set_step
from muse_pipeline.training.resume import load_resume_point, save_resume_point
from muse_pipeline.training.run_folder import RunFolder
from muse_pipeline.training.schedule import Schedule


def train(
    method: Method,
    batches: Callable[[int], tuple],
    schedule: Schedule,
    folder: RunFolder,
    fabric: Fabric,
    *,
    seed: int = 0,
    backbone_rate: float = 1.0,
    validate: Callable[[int, MetricsLog], None] | None = None,
    progress: Callable[[int, dict[str, float]], None] | None = None,
    check: Callable[[int, dict[str, float]], None] | None = None,
) -> None:
    """Run ``method`` to the end of ``schedule``; a run that was stopped goes on from its last resume point.

    Args:
        method: what is trained.
        batches: number -> batch on the device; the same number gives the same batch.
        schedule: how long and how fast.
        folder: of the run.
        fabric: launched; device, precision and processes.
        seed: of every random number that the method draws.
        backbone_rate: see ``build_optimiser``.
        validate: called with (steps done, log) by the first process when validation is due.
        progress: called with (steps done, losses) by the first process at every logged step.
        check: the same, by every process with the same losses; what it raises ends the run before anything is saved.

    Raises:
        CheckpointError: the resume point does not fit.
        DivergedError: a loss or a gradient is no finite number; nothing is saved then.
    """
    optimiser = build_optimiser(method, schedule, backbone_rate)
    wrapped, optimiser = fabric.setup(method, optimiser)
    start = load_resume_point(folder.resume, fabric.world_size, method, optimiser)
    log, leads = MetricsLog(folder.metrics), fabric.is_global_zero
    if leads:
        log.forget_from(start)
    wrapped.train()
    for step in range(start, schedule.steps):
        # Random numbers start anew at every step: a run that goes on needs to remember none.
        torch.manual_seed(seed_of_step(seed, step * fabric.world_size + fabric.global_rank))
        set_step(optimiser, schedule, step)
        losses = _add_gradients(wrapped, batches, step, schedule, fabric)
        norm = fabric.clip_gradients(wrapped, optimiser, max_norm=schedule.clip, error_if_nonfinite=False)
        _require_finite({**losses, "gradient": norm}, step, folder)
        method.before_step(step / schedule.steps)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        method.after_step(step / schedule.steps)

        done = step + 1
        if step % schedule.log_every == 0 or done == schedule.steps:
            values = {name: float(value) for name, value in losses.items()}
            if leads:
                log.append(step, {"learning_rate": schedule.rate(step), **values})
            if leads and progress:
                progress(done, values)
            if check:
                check(done, values)
        if leads and validate and schedule.is_due(done, schedule.validate_every):
            validate(done, log)
        if schedule.is_due(done, schedule.save_every):
            _require_finite(method.state_dict(), step, folder)
            if leads:
                save_resume_point(folder.resume, done, fabric.world_size, method, optimiser)
                draw_curves(log.read(), folder.curves)


def _add_gradients(
    wrapped: Method, batches: Callable[[int], tuple], step: int, schedule: Schedule, fabric: Fabric
) -> dict[str, Tensor]:
    """Mean losses over the step's batches and all processes; their mean gradient is left on the parameters."""
    total: dict[str, Tensor] = {}
    for part in range(schedule.accumulate):
        number = (step * schedule.accumulate + part) * fabric.world_size + fabric.global_rank
        is_last = part == schedule.accumulate - 1
        with fabric.no_backward_sync(wrapped, enabled=not is_last):
            losses = wrapped(batches(number), step, step / schedule.steps)
            fabric.backward(losses["loss"] / schedule.accumulate)
        for name, value in losses.items():
            total[name] = total.get(name, 0.0) + value.detach() / schedule.accumulate
    return fabric.all_reduce(total, reduce_op="mean") if fabric.world_size > 1 else total


def _require_finite(values: dict[str, Tensor], step: int, folder: RunFolder) -> None:
    """All processes see the same values, so all of them stop at the same step."""
    numbers = {name: value.detach().double().sum() for name, value in values.items() if value.is_floating_point()}
    if torch.stack(list(numbers.values())).sum().isfinite():  # one look at the device
        return
    broken = next((name for name, value in numbers.items() if not value.isfinite()), "loss")
    raise DivergedError(
        f"{folder.path}: '{broken}' is no finite number at step {step}, and nothing was saved there; begin another run "
        "folder with a lower `learning_rate`"
    )

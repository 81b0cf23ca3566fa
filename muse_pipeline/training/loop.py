"""The training loop: read it top to bottom."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning_fabric import Fabric

from muse_pipeline.errors import CheckpointError, DivergedError
from muse_pipeline.files import complete_file
from muse_pipeline.methods.base import Method


@dataclass(frozen=True)
class Schedule:
    """How long and how fast.

    Attributes:
        steps: optimiser steps of the whole run.
        learning_rate: peak, reached after the warm-up; falls to a hundredth along a cosine.
        warmup: share of the steps spent rising.
        weight_decay: AdamW's, on matrices and kernels only.
        clip: largest norm of the gradient.
        save_every: steps between resume points.
        log_every: steps between lines of ``metrics.jsonl``.
    """

    steps: int
    learning_rate: float = 2e-3
    warmup: float = 0.05
    weight_decay: float = 0.05
    clip: float = 5.0
    save_every: int = 500
    log_every: int = 50

    def rate(self, step: int) -> float:
        """Learning rate of ``step``."""
        rise = self.warmup * self.steps
        if step < rise:
            return self.learning_rate * (step + 1) / rise
        done = (step - rise) / max(self.steps - rise, 1)
        return self.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def train(
    method: Method,
    batches: Callable[[int], tuple],
    schedule: Schedule,
    folder: Path,
    fabric: Fabric,
    progress: Callable[[int, dict[str, float]], None] | None = None,
) -> None:
    """Run ``method`` to the end of ``schedule``; a run that was stopped goes on from its last resume point.

    Args:
        method: what is trained, on the fabric's device.
        batches: step number -> batch on the device; the same number gives the same batch.
        schedule: how long and how fast.
        folder: of the run; ``resume.pt`` and ``metrics.jsonl`` live there.
        fabric: device and precision.
        progress: called with (step, losses) at every logged step.

    Raises:
        DivergedError: a loss became infinite or not a number.
    """
    optimiser = torch.optim.AdamW(_parameter_groups(method, schedule.weight_decay), lr=schedule.learning_rate)
    method, optimiser = fabric.setup(method, optimiser)
    method.mark_forward_method("losses")
    start = _resume(folder, method, optimiser, fabric)
    method.train()
    for step in range(start, schedule.steps):
        for group in optimiser.param_groups:
            group["lr"] = schedule.rate(step)
        losses = method.losses(batches(step), step, step / schedule.steps)
        fabric.backward(losses["loss"])
        fabric.clip_gradients(method, optimiser, max_norm=schedule.clip, error_if_nonfinite=False)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        method.after_step(step / schedule.steps)
        if step % schedule.log_every == 0 or step == schedule.steps - 1:
            values = {name: float(value.detach()) for name, value in losses.items()}
            if not math.isfinite(values["loss"]):
                raise DivergedError(
                    f"{folder}: the loss is {values['loss']} at step {step}; lower `learning_rate` and start again"
                )
            _log(folder, step, schedule.rate(step), values)
            if progress:
                progress(step, values)
        if (step + 1) % schedule.save_every == 0:
            _save(folder, step + 1, method, optimiser, fabric)


def _parameter_groups(method: Method, weight_decay: float) -> list[dict]:
    trained = [parameter for parameter in method.parameters() if parameter.requires_grad]
    kernels = [parameter for parameter in trained if parameter.ndim > 1]
    others = [parameter for parameter in trained if parameter.ndim <= 1]
    return [{"params": kernels, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def _save(folder: Path, step: int, method: Method, optimiser: torch.optim.Optimizer, fabric: Fabric) -> None:
    state = {
        "step": step,
        "method": method.state_dict(),
        "optimiser": optimiser.state_dict(),
        "rng": torch.get_rng_state(),
    }
    if fabric.is_global_zero:
        with complete_file(folder / "resume.pt") as partial:
            torch.save(state, partial)


def _resume(folder: Path, method: Method, optimiser: torch.optim.Optimizer, fabric: Fabric) -> int:
    path = folder / "resume.pt"
    if not path.is_file():
        _forget_after(folder, 0)
        return 0
    try:
        state = torch.load(path, map_location=fabric.device, weights_only=True)
    except Exception as error:  # torch raises many unrelated classes on damaged bytes
        raise CheckpointError(f"{path}: damaged; delete it to train from the start") from error
    try:
        method.load_state_dict(state["method"])
        optimiser.load_state_dict(state["optimiser"])
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path}: belongs to another configuration; choose another run folder or delete it"
        ) from error
    torch.set_rng_state(state["rng"].cpu())
    _forget_after(folder, state["step"])
    return state["step"]


def _log(folder: Path, step: int, rate: float, values: dict[str, float]) -> None:
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": step, "learning_rate": rate, **values}) + "\n")


def _forget_after(folder: Path, step: int) -> None:
    """Drop the log lines of steps that will be run again."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if json.loads(line)["step"] < step]
    with complete_file(path) as partial:
        partial.write_text("".join(line + "\n" for line in kept), encoding="utf-8")

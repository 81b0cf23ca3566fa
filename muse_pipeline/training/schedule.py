"""Length and learning rate of a run, and the optimiser that follows them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from muse_pipeline.core.config import Count, Fraction, NotNegative, Positive


@dataclass(frozen=True)
class Schedule:
    """Length, learning rate and intervals of a run. Counts are optimiser steps.

    Attributes:
        steps: length of the run.
        learning_rate: peak, reached after the warm-up; falls to a hundredth along a cosine.
        warmup: share of the steps spent rising.
        weight_decay: weight decay of AdamW, on matrices and kernels only.
        last_weight_decay: value that the weight decay reaches along a cosine; constant when not given.
        clip: largest norm of the gradient.
        accumulate: batches of each process whose mean gradient makes one step.
        reference_batches: batches per step (processes x ``accumulate``) for which ``learning_rate`` is given; with
            another number the rate is multiplied by the square root of the ratio. Not scaled when not given.
        save_every: steps between resume points.
        log_every: steps between lines of ``metrics.jsonl``.
        validate_every: steps between validations, where the config names ``validation`` or ``held`` sources.
    """

    steps: Count
    learning_rate: Positive = 2e-3
    warmup: Fraction = 0.05
    weight_decay: NotNegative = 0.05
    last_weight_decay: NotNegative | None = None
    clip: Positive = 5.0
    accumulate: Count = 1
    reference_batches: Count | None = None
    save_every: Count = 500
    log_every: Count = 50
    validate_every: Count = 500

    def for_batches(self, n_batches: int) -> Schedule:
        """The schedule with the learning rate of a run that takes ``n_batches`` per step."""
        if self.reference_batches is None:
            return self
        factor = math.sqrt(n_batches / self.reference_batches)
        return dataclasses.replace(self, learning_rate=self.learning_rate * factor)

    def rate(self, step: int) -> float:
        """Learning rate of ``step``."""
        rise = self.warmup * self.steps
        if step < rise:
            return self.learning_rate * min((step + 1) / rise, 1)  # a rise may be shorter than a step
        done = (step - rise) / max(self.steps - rise, 1)
        return self.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))

    def decay(self, step: int) -> float:
        """Weight decay of ``step``."""
        if self.last_weight_decay is None:
            return self.weight_decay
        done = 0.5 * (1 - math.cos(math.pi * step / self.steps))
        return self.weight_decay + done * (self.last_weight_decay - self.weight_decay)

    def is_logged(self, step: int) -> bool:
        """True if the losses of ``step``, counted from 0, are logged."""
        return step % self.log_every == 0 or step + 1 == self.steps

    def is_due(self, done: int, every: int) -> bool:
        """True after every ``every`` steps and at the end of the run."""
        return done % every == 0 or done == self.steps


def build_adamw(
    parameters: Iterable[tuple[str, nn.Parameter]], schedule: Schedule, backbone_rate: float = 1.0
) -> torch.optim.AdamW:
    """AdamW without decay on norms and biases, with a learning rate of its own for the backbone.

    Args:
        parameters: (dotted name, parameter); a parameter belongs to the backbone if a part of its name is ``backbone``.
        schedule: gives rate and decay.
        backbone_rate: factor of the learning rate of the backbone.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in parameters:
        groups.setdefault(("backbone" in name.split("."), parameter.ndim > 1), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": members,
                "weight_decay": schedule.weight_decay if is_kernel else 0.0,
                "decays": is_kernel,
                "factor": backbone_rate if in_backbone else 1.0,
            }
            for (in_backbone, is_kernel), members in groups.items()
        ],
        lr=schedule.learning_rate,
    )


def set_step(optimiser: torch.optim.Optimizer, schedule: Schedule, step: int) -> None:
    """Set learning rate and weight decay of ``step``; groups may scale the rate by a ``factor``."""
    for group in optimiser.param_groups:
        group["lr"] = schedule.rate(step) * group.get("factor", 1.0)
        if group.get("decays"):
            group["weight_decay"] = schedule.decay(step)

"""The interface between a method and the loop, the schedule of a run, and averaged weights."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from muse_pipeline.core.config import Count, Fraction, NotNegative, Positive

# reached gradually, so that the average of a short run forgets the random initial weights
DECAY = 0.998
Losses = dict[str, Tensor]  # scalars by name


@dataclass(frozen=True)
class Schedule:
    """Length and intervals of a run (optimiser steps), and its learning rate.

    Attributes:
        steps: length of the run.
        learning_rate: rate after the warm-up; it falls to a hundredth along a cosine.
        warmup: share of the steps in which the learning rate rises.
        weight_decay: weight decay of AdamW, on matrices and kernels only.
        last_weight_decay: final weight decay, reached along a cosine; by default the weight decay
            is constant.
        clip: largest norm of the gradient.
        accumulate: number of batches per process whose gradients a step averages.
        reference_batches: batches per step (processes x ``accumulate``) to which ``learning_rate``
            refers; for other numbers the rate is multiplied by the square root of the ratio. By
            default it is not scaled.
        save_every: steps between resume points.
        log_every: steps between lines of ``metrics.jsonl``.
        validate_every: steps between validations, if the config has ``validation`` or ``held``
            sources.
        curve: length of the curves of learning rate and weight decay, if the run is shorter; by
            default ``steps``.
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
    curve: Count | None = None

    @property
    def length(self) -> int:
        """Length of the curves, in steps."""
        return self.curve or self.steps

    def for_batches(self, n_batches: int) -> Schedule:
        """The schedule with the learning rate scaled for ``n_batches`` per step."""
        if self.reference_batches is None:
            return self
        factor = math.sqrt(n_batches / self.reference_batches)
        return dataclasses.replace(self, learning_rate=self.learning_rate * factor)

    def rate(self, step: int) -> float:
        """Learning rate of ``step``."""
        rise = self.warmup * self.length
        if step < rise:
            # the warm-up may be shorter than a step
            return self.learning_rate * min((step + 1) / rise, 1)
        done = (step - rise) / max(self.length - rise, 1)
        return self.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))

    def decay(self, step: int) -> float:
        """Weight decay of ``step``."""
        if self.last_weight_decay is None:
            return self.weight_decay
        done = 0.5 * (1 - math.cos(math.pi * step / self.length))
        return self.weight_decay + done * (self.last_weight_decay - self.weight_decay)

    def is_logged(self, step: int) -> bool:
        """True if the losses of ``step``, counted from 0, are logged."""
        return step % self.log_every == 0 or step + 1 == self.steps

    def is_due(self, done: int, every: int) -> bool:
        """True if ``done`` steps are a multiple of ``every``, or the whole run."""
        return done % every == 0 or done == self.steps


def build_adamw(
    parameters: Iterable[tuple[str, nn.Parameter]], schedule: Schedule, backbone_rate: float = 1.0
) -> torch.optim.AdamW:
    """AdamW without decay on norms and biases, with a separate learning rate for the backbone.

    Parameters, pairs (dotted name, parameter), belong to the backbone if ``backbone`` is in their
    name; the schedule's learning rate is multiplied by ``backbone_rate`` for them.
    """
    groups = {}
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


class Method(nn.Module):
    """Networks and losses of a training method; the loop handles devices, schedule, resume points
    and processes.

    Attributes:
        turns: parts of a step, which are optimised in this order. Each turn has its own losses,
            parameters and optimiser; a GAN has "generator" and "discriminator".
        gauges: True if ``losses`` also returns diagnostics, which are only logged; the loop sets
            it, also of component methods, at logged steps.
    """

    turns: tuple[str, ...] = ("model",)
    gauges: bool = True

    def losses(self, batch: Any, turn: str, progress: float) -> Losses:
        """The losses of a batch of the stage's stream; ``"loss"`` is minimised, all other entries
        are only logged.

        ``turn`` is one of ``turns``, and ``progress`` the completed share of the run, 0 to 1.
        """
        raise NotImplementedError

    def turn_parameters(self, turn: str) -> Iterator[tuple[str, nn.Parameter]]:
        """Pairs (dotted name, parameter) that ``turn`` optimises; by default all parameters that
        require gradients.
        """
        return (
            (name, parameter)
            for name, parameter in self.named_parameters()
            if parameter.requires_grad
        )

    def optimiser(self, turn: str, schedule: Schedule) -> torch.optim.Optimizer:
        """The optimiser of ``turn``, by default AdamW."""
        return build_adamw(self.turn_parameters(turn), schedule)

    def before_step(self, turn: str, progress: float) -> None:
        """Called after the gradients of ``turn`` are clipped and before they are applied."""

    def after_step(self, progress: float) -> None:
        """Called after the last turn of every step, for example to update moving averages."""

    def trained(self) -> nn.Module:
        """The network that the run's checkpoint contains."""
        raise NotImplementedError


class WeightedSum(Method):
    """Several methods that are trained together and usually share a backbone, each with the single
    turn "model".

    A batch maps the name of each method to a batch for this method. Logged losses are prefixed with
    the name. The checkpoint contains the first method's network.
    """

    def __init__(self, methods: Mapping[str, Method], weights: Mapping[str, float]):
        super().__init__()
        self.methods = nn.ModuleDict(methods)
        self.weights = dict(weights)

    def losses(self, batch: Mapping[str, Any], turn: str, progress: float) -> Losses:
        """The weighted sum, and the losses of every method."""
        losses, total = {}, 0.0
        for name, method in self.methods.items():
            terms = method.losses(batch[name], turn, progress)
            total = total + self.weights[name] * terms["loss"]
            losses |= {f"{name} {term}": value for term, value in terms.items()}
        return {"loss": total, **losses}

    def before_step(self, turn: str, progress: float) -> None:
        """Call every method's ``before_step``."""
        for method in self.methods.values():
            method.before_step(turn, progress)

    def after_step(self, progress: float) -> None:
        """Call every method's ``after_step``."""
        for method in self.methods.values():
            method.after_step(progress)

    def trained(self) -> nn.Module:
        """The network of the first method."""
        return next(iter(self.methods.values())).trained()


class AveragedNetwork(nn.Module):
    """A moving average of the weights of ``network``, always in evaluation mode and without
    gradients.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.register_buffer("n_steps", torch.tensor(0))

    def train(self, mode: bool = True) -> AveragedNetwork:
        """Set the mode, but keep the average in evaluation mode."""
        super().train(mode)
        self.network.eval()
        return self

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Update the average with the weights of ``network``."""
        self.n_steps += 1
        n_steps = int(self.n_steps)
        share = 1 - min(DECAY, (1 + n_steps) / (10 + n_steps))
        pairs = [
            *zip(self.network.parameters(), network.parameters(), strict=True),
            *zip(self.network.buffers(), network.buffers(), strict=True),
        ]
        averages, currents = zip(
            *(pair for pair in pairs if pair[0].is_floating_point()), strict=True
        )
        # one kernel per tensor is slow on a GPU
        torch._foreach_lerp_(list(averages), list(currents), share)
        for average, current in pairs:
            if not average.is_floating_point():
                average.copy_(current)


class AveragedTraining(Method):
    """Training of a network whose result is the averaged network."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        self.average = AveragedNetwork(network)

    def after_step(self, progress: float) -> None:
        """Update the averaged network."""
        self.average.update(self.network)

    def trained(self) -> nn.Module:
        """The averaged network."""
        return self.average.network

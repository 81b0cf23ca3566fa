"""The contract between a training method and the loop, the weighted sum of several methods, and averaged weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from muse_pipeline.training.schedule import Schedule, build_adamw

DECAY = 0.998  # approached from below, so that a short run does not keep its random start


class Method(nn.Module):
    """Networks and losses of one way of training; the loop has devices, schedule, resume points and processes.

    Attributes:
        turns: parts of a step, which are optimised in this order. Each turn has losses, parameters and an optimiser
            of its own; a GAN has "generator" and "discriminator".
        gauges: whether ``losses`` also returns values that are only logged; the loop sets it for steps that are logged.
    """

    turns: tuple[str, ...] = ("model",)
    gauges: bool = True

    def losses(self, batch: Any, turn: str, progress: float) -> dict[str, Tensor]:
        """Losses of one batch: ``"loss"`` is minimised, every other entry is logged under its name.

        Args:
            batch: batch of the stage's stream.
            turn: one of ``turns``.
            progress: completed share of the run, 0 to 1.
        """
        raise NotImplementedError

    def turn_parameters(self, turn: str) -> Iterator[tuple[str, nn.Parameter]]:
        """Pairs (dotted name, parameter) that ``turn`` optimises: all with a gradient unless overridden."""
        return ((name, parameter) for name, parameter in self.named_parameters() if parameter.requires_grad)

    def optimiser(self, turn: str, schedule: Schedule) -> torch.optim.Optimizer:
        """The optimiser of ``turn``: AdamW unless overridden."""
        return build_adamw(self.turn_parameters(turn), schedule)

    def set_gauges(self, gauges: bool) -> None:
        """Set ``gauges`` here and in the methods that this one is made of."""
        for one in self.modules():
            if isinstance(one, Method):
                one.gauges = gauges

    def before_step(self, turn: str, progress: float) -> None:
        """Called when the gradients of ``turn`` are clipped and not yet applied."""

    def after_step(self, progress: float) -> None:
        """Called after the last turn of every step: moving averages, queues."""

    def trained(self) -> nn.Module:
        """The network that the run's checkpoint holds."""
        raise NotImplementedError


class WeightedSum(Method):
    """Several methods trained together; they usually share a backbone.

    A batch is a mapping from a method's name to its batch. Logged losses are prefixed with the method's name.

    Args:
        methods: methods by name; all have the one turn "model". The checkpoint holds the first one's network.
        weights: factor of each method's loss.
    """

    def __init__(self, methods: Mapping[str, Method], weights: Mapping[str, float]):
        super().__init__()
        self.methods, self.weights = nn.ModuleDict(methods), dict(weights)

    def losses(self, batch: Mapping[str, Any], turn: str, progress: float) -> dict[str, Tensor]:
        """The weighted sum, and the losses of every method."""
        found, total = {}, 0.0
        for name, method in self.methods.items():
            terms = method.losses(batch[name], turn, progress)
            total = total + self.weights[name] * terms["loss"]
            found |= {f"{name} {term}": value for term, value in terms.items()}
        return {"loss": total, **found}

    def before_step(self, turn: str, progress: float) -> None:
        """Pass on to every method."""
        for method in self.methods.values():
            method.before_step(turn, progress)

    def after_step(self, progress: float) -> None:
        """Pass on to every method."""
        for method in self.methods.values():
            method.after_step(progress)

    def trained(self) -> nn.Module:
        """The network of the first method."""
        return next(iter(self.methods.values())).trained()


class AveragedNetwork(nn.Module):
    """A copy that follows ``network`` and is always in evaluation mode; it has no gradients.

    Attributes:
        network: the average.
        n_steps: moves made.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.register_buffer("n_steps", torch.tensor(0))

    def train(self, mode: bool = True) -> AveragedNetwork:
        """Stay in evaluation mode."""
        super().train(mode)
        self.network.eval()
        return self

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move a little towards ``network``."""
        self.n_steps += 1
        n_steps = int(self.n_steps)
        share = 1 - min(DECAY, (1 + n_steps) / (10 + n_steps))
        pairs = [
            *zip(self.network.parameters(), network.parameters(), strict=True),
            *zip(self.network.buffers(), network.buffers(), strict=True),
        ]
        averages, currents = zip(*(pair for pair in pairs if pair[0].is_floating_point()), strict=True)
        torch._foreach_lerp_(list(averages), list(currents), share)  # one kernel per tensor is slow on a GPU
        for average, current in pairs:
            if not average.is_floating_point():
                average.copy_(current)

"""The contract between a training method and the loop, and the weighted sum of several methods."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from muse_pipeline.training.schedule import Schedule, build_adamw


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
        """(dotted name, parameter) of all that ``turn`` optimises; everything with a gradient unless overridden."""
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

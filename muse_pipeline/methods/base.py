"""The contract between a way of training and the loop that runs it."""

from __future__ import annotations

from torch import Tensor, nn


class Method(nn.Module):
    """Owns the networks and the losses; the loop owns devices, optimiser, schedule and checkpoints."""

    def forward(self, batch: tuple, turn: int, progress: float) -> dict[str, Tensor]:
        """``losses``, by the way that precision and processes are arranged on."""
        return self.losses(batch, turn, progress)

    def losses(self, batch: tuple, turn: int, progress: float) -> dict[str, Tensor]:
        """Losses of one batch: ``"loss"`` is minimised, every other entry is logged under its name.

        Args:
            batch: what the method's data gives.
            turn: number of the step.
            progress: share of the run that is done, 0 to 1.
        """
        raise NotImplementedError

    def before_step(self, progress: float) -> None:
        """Called before each optimiser step, when gradients are clipped: what must not move yet."""

    def after_step(self, progress: float) -> None:
        """Called after each optimiser step: teachers, queues."""

    def trained(self) -> nn.Module:
        """The network that leaves the run."""
        raise NotImplementedError

"""How long a run lasts, how fast it learns and how often it is saved."""

from __future__ import annotations

import math
from dataclasses import dataclass

from muse_pipeline.core.config import require_between, require_positive


@dataclass(frozen=True)
class Schedule:
    """Counts are optimiser steps.

    Attributes:
        steps: of the whole run.
        learning_rate: peak, reached after the warm-up; falls to a hundredth along a cosine.
        warmup: share of the steps spent rising.
        weight_decay: AdamW's, on matrices and kernels only.
        last_weight_decay: that it rises or falls to along a cosine; it stays when not given.
        clip: largest norm of the gradient.
        accumulate: batches whose mean gradient makes one step.
        save_every: steps between resume points.
        log_every: steps between lines of ``metrics.jsonl``.
        validate_every: steps between validations, where the config names validation sources.
    """

    steps: int
    learning_rate: float = 2e-3
    warmup: float = 0.05
    weight_decay: float = 0.05
    last_weight_decay: float | None = None
    clip: float = 5.0
    accumulate: int = 1
    save_every: int = 500
    log_every: int = 50
    validate_every: int = 500

    def __post_init__(self) -> None:
        for name in ("steps", "accumulate", "save_every", "log_every", "validate_every"):
            require_between(self, "schedule", **{name: (1, math.inf)})
        require_positive(self, "schedule", "learning_rate", "clip")  # gradients times 0 train nothing
        require_between(self, "schedule", weight_decay=(0, math.inf), last_weight_decay=(0, math.inf), warmup=(0, 1))

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

    def is_due(self, done: int, every: int) -> bool:
        """Whether what happens ``every`` so many steps, and at the end, happens after ``done`` steps."""
        return done % every == 0 or done == self.steps

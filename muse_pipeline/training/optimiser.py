"""The optimiser of every run: AdamW, no decay on norms and biases, a rate of its own for the backbone."""

from __future__ import annotations

import torch
from torch import nn

from muse_pipeline.training.schedule import Schedule


def build_optimiser(method: nn.Module, schedule: Schedule, backbone_rate: float = 1.0) -> torch.optim.AdamW:
    """AdamW over what ``method`` trains.

    Args:
        method: a parameter belongs to the backbone if a part of its dotted name is ``backbone``.
        schedule: gives rate and decay.
        backbone_rate: factor of the learning rate on the backbone's parameters.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(("backbone" in name.split("."), parameter.ndim > 1), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "weight_decay": schedule.weight_decay if is_kernel else 0.0,
                "decays": is_kernel,
                "factor": backbone_rate if in_backbone else 1.0,
            }
            for (in_backbone, is_kernel), parameters in groups.items()
        ],
        lr=schedule.learning_rate,
    )


def set_step(optimiser: torch.optim.Optimizer, schedule: Schedule, step: int) -> None:
    """Give every group its share of the rate of ``step``, and its decay."""
    for group in optimiser.param_groups:
        group["lr"] = schedule.rate(step) * group["factor"]
        if group.get("decays"):  # resume points of before know one decay
            group["weight_decay"] = schedule.decay(step)

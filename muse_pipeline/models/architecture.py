"""Which network a set of weights belongs to, told from names and shapes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor

from muse_pipeline.models import BACKBONES
from muse_pipeline.models.vit import square_grid
from muse_pipeline.wording import some_of

POSITIONS = "encoder.encoder.pos_embed"  # the one tensor whose length may differ: it is resampled
MAX_NAMED = 3

Shapes = dict[str, torch.Size]


def matching_backbones(weights: Mapping[str, Tensor]) -> list[str]:
    """Registered names whose network has exactly these names and shapes, the grid of positions aside."""
    shapes = _shapes(weights)
    return [name for name in BACKBONES.names() if not _misfit(shapes, _registered_shapes(name))]


def nearest_backbone(weights: Mapping[str, Tensor]) -> str:
    """The registered name that shares the most names and shapes with these weights."""
    entries = set(_shapes(weights).items())
    return max(BACKBONES.names(), key=lambda name: len(entries & set(_registered_shapes(name).items())))


def describe_misfit(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """What stands between the weights and a network, in words; empty where they fit."""
    return _misfit(_shapes(weights), _shapes(wanted))


def positions_grid(weights: Mapping[str, Tensor]) -> int | None:
    """Patches per side of the positional table; None without one."""
    return square_grid(weights[POSITIONS]) if POSITIONS in weights else None


def _misfit(found: Shapes, wanted: Shapes) -> str:
    both = found.keys() & wanted.keys()
    other = sorted(name for name in both if not _same_shape(name, found[name], wanted[name]))
    parts = {
        "missing": sorted(wanted.keys() - found.keys()),
        "surplus": sorted(found.keys() - wanted.keys()),
        "of another shape": [f"{name} {tuple(found[name])}, not {tuple(wanted[name])}" for name in other],
    }
    return "; ".join(f"{what} {some_of(names, MAX_NAMED)}" for what, names in parts.items() if names)


def _same_shape(name: str, found: torch.Size, wanted: torch.Size) -> bool:
    if name != POSITIONS:
        return found == wanted
    side = max(found[1] - 1, 0) ** 0.5 if len(found) == 3 else 0.5
    return side >= 1 and side.is_integer() and (found[0], found[2]) == (1, wanted[2])


def _shapes(weights: Mapping[str, Tensor]) -> Shapes:
    return {name: value.shape for name, value in weights.items()}


@cache
def _registered_shapes(name: str) -> Shapes:
    with torch.device("meta"):  # no memory and no random numbers
        return _shapes(BACKBONES[name]().state_dict())

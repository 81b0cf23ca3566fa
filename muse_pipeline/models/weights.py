"""Read weights from checkpoint files in the layout of the MUSE authors, which this package uses
too.

A file's entry ``teacher`` is a flat dictionary. Names that begin with ``module.backbone.`` belong
to the network; other names (projectors, heads) belong to its training and are ignored. Names and
shapes must match the network's exactly, except for the grid of the positional table.
"""

from __future__ import annotations

import argparse
import re
import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from muse_pipeline.core.content import name_content
from muse_pipeline.core.errors import CheckpointError
from muse_pipeline.core.text import some_of
from muse_pipeline.models import BACKBONES
from muse_pipeline.models.base import Backbone
from muse_pipeline.models.muse import resample_positions, square_grid

PREFIX = "module.backbone."


def read_pickle(path: Path, trust_pickle: bool = False) -> dict[str, Any]:
    """Read the dictionary in a file; without ``trust_pickle``, only tensors and plain values are
    unpickled.

    Plain values include the ``argparse.Namespace`` of settings that DINO and its descendants store
    as ``args``.
    """
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            # torch warns about pickle protocols; unreadable files raise below
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location="cpu", weights_only=not trust_pickle)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise CheckpointError(
            f"{path}: no such checkpoint; give the path of a .pth or .pt file"
        ) from error
    except Exception as error:  # torch and pickle raise many unrelated classes on foreign bytes
        if code := re.search(r"Unsupported global: GLOBAL (\S+)", str(error)):
            raise CheckpointError(
                f"{path}: contains {code[1]}, which is code, not weights, and reading it could run"
                " anything; if you trust its source, convert the file once with `muse"
                " step import-checkpoint --trust-pickle`"
            ) from error
        reason = f" ({type(error).__name__}: {error})" if trust_pickle else ""
        what = name_content(path)
        raise CheckpointError(
            f"{path}: {what or f'not readable as a PyTorch checkpoint{reason}; copy it again'}"
        ) from error
    if not isinstance(state, dict):
        raise CheckpointError(
            f"{path}: contains a {type(state).__name__}, not a dictionary; give a training"
            " checkpoint"
        )
    return state


def backbone_weights(state: dict[str, Any], path: Path) -> dict[str, Tensor]:
    """Select the backbone's tensors and remove the prefix of their names."""
    teacher = state.get("teacher")
    if not isinstance(teacher, dict):
        raise CheckpointError(
            f"{path}: has no dictionary `teacher` (it has {_some(state)}); give a released MUSE"
            " file or `checkpoint.pt`"
        )
    weights = {
        name.removeprefix(PREFIX): value
        for name, value in teacher.items()
        if str(name).startswith(PREFIX)
    }
    if not weights:
        raise CheckpointError(
            f"{path}: no name in its `teacher` begins with `{PREFIX}` (it has {_some(teacher)}); "
            "give a released MUSE file or `checkpoint.pt`"
        )
    require_finite(weights, path)
    return weights


def require_finite(weights: dict[str, Any], path: Path) -> None:
    """Require that all entries are tensors of finite numbers."""
    for name, value in weights.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(
                f"{path}: `{name}` is a {type(value).__name__}, not a tensor; write the file again"
            )
        if not value.isfinite().all():
            bad = int((~value.isfinite()).sum())
            raise CheckpointError(
                f"{path}: {bad} of {value.numel()} values of `{name}` are not finite; take an"
                " earlier checkpoint"
            )


def load_weights(
    backbone: Backbone, weights: dict[str, Tensor], path: Path, always_resample: bool
) -> None:
    """Load weights into a backbone, in place; ``path`` is named in messages.

    ``always_resample`` applies ``resample_positions`` to the positional table even if its grid
    equals the network's, as the MUSE authors' loader does; it is True for their files, False for
    files of this package.
    """
    own, weights = backbone.state_dict(), backbone.complete(weights)
    if misfit := describe_misfit(weights, own):
        wanted = " or ".join(matching_backbones(own)) or type(backbone).__name__
        if names := matching_backbones(weights):
            raise CheckpointError(
                f"{path}: fits {' or '.join(names)}, not {wanted}; choose the backbone that it fits"
            )
        raise CheckpointError(
            f"{path}: does not fit {wanted}: {misfit}; give a checkpoint of this network"
        )
    if POSITIONS in own:
        grid = square_grid(own[POSITIONS])
        if always_resample or square_grid(weights[POSITIONS]) != grid:
            weights = {
                **weights,
                POSITIONS: resample_positions(weights[POSITIONS].float(), (grid, grid)),
            }
    backbone.load_state_dict(weights)


def _some(names: dict[Any, Any]) -> str:
    return some_of([f"`{name}`" for name in names], 4) or "nothing"


POSITIONS = "encoder.encoder.pos_embed"  # the only tensor whose length may differ; it is resampled
MAX_NAMED = 3


def matching_backbones(weights: Mapping[str, Tensor]) -> list[str]:
    """Names of the registered networks with exactly these names and shapes, except for the
    positional table's grid.
    """
    return [name for name in BACKBONES.names() if not describe_misfit(weights, _registered(name))]


def describe_nearest(weights: Mapping[str, Tensor]) -> str:
    """The registered network that shares the most names and shapes with these weights, and how it
    differs from them.
    """

    def shapes(of: Mapping[str, Tensor]) -> set[tuple[str, torch.Size]]:
        return {(name, value.shape) for name, value in of.items()}

    own = shapes(weights)
    near = max(BACKBONES.names(), key=lambda name: len(own & shapes(_registered(name))))
    return f"{near}: {describe_misfit(weights, _registered(near))}"


def describe_misfit(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """Describe the difference between the weights and a network; "" if they fit."""
    pairs = {name: (weights[name].shape, wanted[name].shape) for name in weights.keys() & wanted}
    parts = {
        "missing": sorted(wanted.keys() - weights.keys()),
        "surplus": sorted(weights.keys() - wanted.keys()),
        "of a different shape": [
            f"{name} {tuple(own)}, not {tuple(other)}"
            for name, (own, other) in sorted(pairs.items())
            if not _same_shape(name, own, other)
        ],
    }
    return "; ".join(
        f"{what} {some_of(names, MAX_NAMED)}" for what, names in parts.items() if names
    )


def _same_shape(name: str, own: torch.Size, wanted: torch.Size) -> bool:
    if name != POSITIONS:
        return own == wanted
    # A grid that is not square has a fractional side, which the next line rejects.
    side = max(own[1] - 1, 0) ** 0.5 if len(own) == 3 else 0.5
    return side >= 1 and side.is_integer() and (own[0], own[2]) == (1, wanted[2])


@cache
def _registered(name: str) -> dict[str, Tensor]:
    with torch.device("meta"):  # allocates no memory and draws no random numbers
        return BACKBONES[name]().state_dict()

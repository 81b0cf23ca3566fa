"""Import of a checkpoint of the MUSE authors as one of this package."""

from __future__ import annotations

import re
from pathlib import Path

from torch import Tensor

from muse_pipeline.core.errors import CheckpointError
from muse_pipeline.core.files import sha256_of
from muse_pipeline.models import BACKBONES
from muse_pipeline.models.vit import PATCH_PX
from muse_pipeline.models.weights import (
    POSITIONS,
    backbone_weights,
    describe_misfit,
    load_weights,
    matching_backbones,
    nearest_backbone,
    positions_grid,
    read_pickle,
)
from muse_pipeline.training.checkpoint import Checkpoint, is_ours, save_checkpoint


def import_checkpoint(path: Path, output: Path, name: str | None = None, trust_pickle: bool = False) -> str:
    """Write a released file as a checkpoint of this package that holds a backbone alone.

    The positional table stays as it was released, which the file records: their loader resamples the table of any file,
    and ours that of this one, so both make the same network of it.

    Args:
        path: the released file.
        output: path of the new checkpoint.
        name: name of the backbone; by default recognised by names, shapes, positions and the file's name.
        trust_pickle: also unpickle objects other than tensors and plain values, which can run any code.

    Returns:
        The backbone's name.

    Raises:
        CheckpointError: the file cannot be read, is imported already, or fits no registered backbone, or two.
    """
    state = read_pickle(path, trust_pickle)
    if is_ours(state):
        raise CheckpointError(f"{path}: is a checkpoint of this pipeline already; use it as it is")
    weights = backbone_weights(state, path)
    name = name or recognise_backbone(weights, path)
    backbone = BACKBONES[name]()
    load_weights(backbone, weights, path, always_resample=True)
    meta = {
        "kind": "backbone",
        "backbone": name,
        "resample_positions": True,
        "source": {"file": path.name, "sha256": sha256_of(path)},
    }
    raw = {POSITIONS: weights[POSITIONS].float()} if POSITIONS in weights else {}
    save_checkpoint(output, Checkpoint({**backbone.state_dict(), **raw}, {}, meta))
    return name


def recognise_backbone(weights: dict[str, Tensor], path: Path) -> str:
    """The registered name that the weights belong to.

    Networks of one architecture differ in the window they were trained with (224 or 512 px): the end of the file's name
    distinguishes them (``vit_s_16-224.pth``, ``vit_s_16_512.pth``), else the grid of its positions.

    Raises:
        CheckpointError: no network fits exactly, or several do.
    """
    names = matching_backbones(weights)
    if not names:
        near = nearest_backbone(weights)
        misfit = describe_misfit(weights, BACKBONES[near]().state_dict())
        raise CheckpointError(
            f"{path}: fits no known backbone; against the nearest, {near}, it is {misfit}; known: "
            f"{', '.join(BACKBONES.names())}"
        )
    grid = positions_grid(weights)
    by_name = re.search(r"[-_](\d+)$", path.stem)
    sides = [by_name[1]] if by_name else []
    sides += [str(grid * PATCH_PX)] if grid else []
    for side in sides:
        if chosen := [name for name in names if name.endswith(f"_{side}")]:
            names = chosen
            break
    if len(names) > 1:
        raise CheckpointError(f"{path}: fits {' and '.join(names)}; choose with --backbone")
    return names[0]

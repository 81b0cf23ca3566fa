"""Checkpoints of this package, in the layout of MUSE's authors, whose own loader can read the
backbones.

The entry ``teacher`` is a flat state dict with keys ``module.backbone.*``, ``head`` is the state
dict of the nucleus head, and ``meta`` is JSON. Runs can start from the weights of such a file, or
of a file released by MUSE's authors, which can also be imported.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from muse_pipeline.core.errors import CheckpointError
from muse_pipeline.core.files import complete_file, sha256_of
from muse_pipeline.models import BACKBONES
from muse_pipeline.models.base import Backbone
from muse_pipeline.models.detector import NucleusDetector, NucleusHead
from muse_pipeline.models.efficientnet_lite import PUBLISHED_DATA, is_published
from muse_pipeline.models.muse import PATCH_PX, square_grid
from muse_pipeline.models.weights import (
    POSITIONS,
    PREFIX,
    backbone_weights,
    describe_nearest,
    load_weights,
    matching_backbones,
    read_pickle,
    require_finite,
)

FORMAT = "muse_pipeline 3"


@dataclass(frozen=True)
class Seen:
    """Training data of weights, as listed in their checkpoint."""

    images: frozenset[str] = frozenset()  # names of pictures and slides
    # of these images, and of validation images by which weights were chosen
    patients: frozenset[str] = frozenset()
    learnt_patients: frozenset[str] = frozenset()  # of training images only

    def extend(
        self, images: Iterable[str], learnt: Iterable[str], held: Iterable[str] = ()
    ) -> dict[str, list[str]]:
        """Entries of a checkpoint's meta after training on ``learnt`` and choosing weights on
        ``held`` patients.
        """
        learnt = {*learnt}
        return {
            "images": sorted({*images} | self.images),
            "patients": sorted(learnt | {*held} | self.patients),
            "learnt_patients": sorted(learnt | self.learnt_patients),
        }


@dataclass(frozen=True)
class Checkpoint:
    """Contents of a checkpoint of this package."""

    backbone: dict[str, Tensor]  # state dict of the backbone
    head: dict[str, Tensor]  # state dict of the head; empty if there is only a backbone
    # kind, settings (with names instead of paths), colour reference, images, patients, and the
    # backbone's input; ``resample_positions`` is True if the positional table comes from MUSE's
    # authors and is resampled at every reading, by their loader and by this package
    meta: dict[str, Any]
    # state dicts of the other trained networks by name, such as a generator
    networks: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    @property
    def seen(self) -> Seen:
        """The images and patients on which these weights, including their initial weights, were
        trained.
        """
        return Seen(*(frozenset(map(str, self.meta.get(field.name, ()))) for field in fields(Seen)))

    def weights_sha256(self) -> str:
        """Checksum (hex) of the weights, without ``meta``."""
        digest = hashlib.sha256()
        for part in (
            self.backbone,
            self.head,
            *(self.networks[name] for name in sorted(self.networks)),
        ):
            for name, value in sorted(part.items()):
                digest.update(name.encode())
                digest.update(value.contiguous().cpu().numpy().tobytes())
        return digest.hexdigest()


def is_ours(state: dict[str, Any]) -> bool:
    """True if a file's dictionary is a checkpoint of this package, of any version."""
    return str(state.get("format", "")).startswith("muse_pipeline ")


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint atomically."""
    state = {
        "format": FORMAT,
        "teacher": {PREFIX + name: value.cpu() for name, value in checkpoint.backbone.items()},
        "head": {name: value.cpu() for name, value in checkpoint.head.items()},
        "meta": json.dumps(checkpoint.meta, sort_keys=True),
    }
    if checkpoint.networks:
        state["networks"] = {
            name: {key: value.cpu() for key, value in network.items()}
            for name, network in checkpoint.networks.items()
        }
    _save(state, path)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of this package; only tensors and plain values are unpickled."""
    return parse_checkpoint(read_pickle(path), path)


def read_weights(path: Path, trust_pickle: bool = False) -> Checkpoint:
    """Read a checkpoint of this package, or the backbone of a released MUSE or EfficientNet-Lite
    file, which has no settings or images.

    ``trust_pickle`` unpickles all objects, not only tensors and plain values; this can run any
    code.
    """
    state = read_pickle(path, trust_pickle)
    if is_ours(state):
        return parse_checkpoint(state, path)
    if is_published(state):
        require_finite(state, path)
        encoder = f"The encoder began with {path.name}, trained on {PUBLISHED_DATA}"
        return Checkpoint(state, {}, {"kind": "encoder", "origins": {"encoder": encoder}})
    return Checkpoint(backbone_weights(state, path), {}, {"resample_positions": True})


def parse_checkpoint(state: dict[str, Any], path: Path) -> Checkpoint:
    """Convert a dictionary from ``read_pickle`` to a checkpoint; ``path`` is named in errors."""
    if not is_ours(state):
        raise CheckpointError(
            f"{path}: not a checkpoint of this package; give the checkpoint.pt of a training run,"
            " or write an ONNX file with `torch.onnx.export` for `muse import-model`"
        )
    if state["format"] != FORMAT:
        raise CheckpointError(
            f"{path}: has the layout '{state['format']}', but this version reads '{FORMAT}';"
            " install the version that wrote it"
        )
    backbone = backbone_weights(state, path)
    try:
        head = dict(state["head"])
        meta = dict(json.loads(state["meta"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: its head or its description is missing or broken; copy it again"
        ) from error
    require_finite(head, path)
    networks = dict(state.get("networks", {}))
    for network in networks.values():
        require_finite(network, path)
    return Checkpoint(backbone, head, meta, networks)


def load_detector_weights(network: NucleusDetector, checkpoint: Checkpoint, path: Path) -> None:
    """Load backbone and head; ``path`` is named in errors."""
    load_weights(network.backbone, checkpoint.backbone, path, always_resample=False)
    load_head_weights(network.head, checkpoint, path)


def load_backbone_weights(backbone: Backbone, checkpoint: Checkpoint, path: Path) -> None:
    """Load the backbone; ``path`` is named in errors."""
    load_weights(
        backbone, checkpoint.backbone, path, checkpoint.meta.get("resample_positions", False)
    )


def load_head_weights(head: NucleusHead, checkpoint: Checkpoint, path: Path) -> None:
    """Load the head; ``path`` is named in errors."""
    try:
        head.load_state_dict(checkpoint.head)
    except RuntimeError as error:
        raise CheckpointError(
            f"{path}: does not fit the config's head, classes and rays; change the config, or train"
            " the checkpoint again if an older version wrote it"
        ) from error


def save_resume_point(
    path: Path,
    step: int,
    n_batches: int,
    method: nn.Module,
    optimisers: Mapping[str, torch.optim.Optimizer],
) -> None:
    """Atomically write the state of a run before ``step``; the run has ``n_batches`` batches per
    step.
    """
    state = {
        "step": step,
        "batches": n_batches,
        "method": method.state_dict(),
        "optimisers": {turn: optimiser.state_dict() for turn, optimiser in optimisers.items()},
    }
    _save(state, path)


def _save(state: dict[str, Any], path: Path) -> None:
    """Save through an open file: given a path, torch would store its temporary name, which differs
    by process.
    """
    with complete_file(path) as partial, partial.open("wb") as file:
        torch.save(state, file)


def load_resume_point(
    path: Path, n_batches: int, method: nn.Module, optimisers: Mapping[str, torch.optim.Optimizer]
) -> int:
    """Restore the method and the optimisers, and return the next step; 0 if nothing was saved.

    ``n_batches`` is the number of batches per step, processes times ``accumulate``; the windows of
    a step depend only on this product.
    """
    if not path.is_file():
        return 0
    try:
        state = torch.load(path, map_location=next(method.parameters()).device, weights_only=True)
    except Exception as error:  # torch raises many unrelated classes on damaged bytes
        raise CheckpointError(f"{path}: damaged; delete it to train from the start") from error
    if (
        not isinstance(state, dict)
        or not {"step", "batches", "method", "optimisers"} <= state.keys()
    ):
        raise CheckpointError(
            f"{path}: not a resume point of this version; delete it to train from the start"
        )
    if state["batches"] != n_batches:
        raise CheckpointError(
            f"{path}: the run used {state['batches']} batch(es) per step, not {n_batches}; devices"
            " x `schedule.accumulate` must stay the same"
        )
    try:
        method.load_state_dict(state["method"])
        for turn, optimiser in optimisers.items():
            optimiser.load_state_dict(state["optimisers"][turn])
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path}: belongs to a run with different settings; delete this file, or choose another"
            " run folder"
        ) from error
    return state["step"]


def steps_done(path: Path) -> int:
    """Number of completed steps of a run, read without loading its weights; 0 if there is no resume
    point.
    """
    if not path.is_file():
        return 0
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)["step"]
    except Exception:  # a damaged file is reported when the run resumes
        return 0


def import_checkpoint(path: Path, output: Path, name: str | None, trust_pickle: bool) -> str:
    """Convert a released file to a checkpoint of this package that has only a backbone, and return
    the backbone's name.

    The positional table is not changed, and the file records this, so that both the authors' loader
    and this package's resample it and build the same network. By default, the name is recognised
    from names, shapes, the positional table and the file's name.
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
    """The registered name of the weights' network.

    Networks of one architecture differ in the window that they were trained with (224 or 512 px).
    They are distinguished by the end of the file's name (``vit_s_16-224.pth``), or else by the grid
    of the positional table.
    """
    names = matching_backbones(weights)
    if not names:
        raise CheckpointError(
            f"{path}: fits no known backbone; compared with the nearest,"
            f" {describe_nearest(weights)}; known: {', '.join(BACKBONES.names())}"
        )
    grid = square_grid(weights[POSITIONS]) if POSITIONS in weights else None
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


def load_backbone(backbone: Backbone, path: Path, trust_pickle: bool = False) -> Checkpoint:
    """Load the weights of a file into a backbone, in place, and return its contents
    (``read_weights``).
    """
    checkpoint = read_weights(path, trust_pickle)
    load_backbone_weights(backbone, checkpoint, path)
    return checkpoint


def seen_before(paths: Sequence[Path], trust_pickle: bool = False) -> Seen:
    """Training data that is listed in any of the checkpoints."""
    lists = [vars(read_weights(path, trust_pickle).seen).values() for path in paths]
    return Seen(*(frozenset().union(*names) for names in zip(*lists, strict=True)))

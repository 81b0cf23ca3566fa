"""Checkpoints of this package, in the layout of MUSE's authors, whose own loader accepts our backbones.

``teacher`` is a flat state dict with keys ``module.backbone.*``; ``head`` is the nucleus head's; ``meta`` is JSON.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from muse_pipeline.cohort.patients import patient_in_name
from muse_pipeline.core.errors import CheckpointError
from muse_pipeline.core.files import complete_file
from muse_pipeline.models.base import Backbone
from muse_pipeline.models.detector import NucleusDetector
from muse_pipeline.models.heads import NucleusHead
from muse_pipeline.models.weights import PREFIX, backbone_weights, load_weights, read_pickle, require_finite

FORMAT = "muse_pipeline 3"
OLDER = ("muse_pipeline 1", "muse_pipeline 2")  # another layout; heads of rays, not of their inverse squares


@dataclass(frozen=True)
class Checkpoint:
    """Contents of a checkpoint of this package.

    Attributes:
        backbone: state dict.
        head: state dict; empty for a backbone alone.
        meta: kind, settings (paths are names), colour reference, images, patients, and the input of the backbone;
            ``resample_positions``: whether its positional table is still the authors', which is resampled whenever
            it is read, by their loader as by ours.
        networks: state dicts of the other trained networks by name, such as a generator.
    """

    backbone: dict[str, Tensor]
    head: dict[str, Tensor]
    meta: dict[str, Any]
    networks: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    @property
    def images(self) -> frozenset[str]:
        """Names of the images that these weights, and those that they began with, have been trained on."""
        return frozenset(map(str, self.meta.get("images", ())))

    @property
    def patients(self) -> frozenset[str]:
        """Patients of training and validation images; in older files, which list none, from the images' names."""
        return frozenset(map(str, self.meta.get("patients", map(patient_in_name, self.images))))

    @property
    def learnt_patients(self) -> frozenset[str]:
        """Patients of training images alone; older files do not distinguish them from those of validations."""
        return frozenset(map(str, self.meta.get("learnt_patients", self.patients)))

    def weights_sha256(self) -> str:
        """Checksum (hex) of the weights alone, without the description in ``meta``."""
        digest = hashlib.sha256()
        for part in (self.backbone, self.head, *(self.networks[name] for name in sorted(self.networks))):
            for name, value in sorted(part.items()):
                digest.update(name.encode())
                digest.update(value.contiguous().cpu().numpy().tobytes())
        return digest.hexdigest()


def is_ours(state: dict[str, Any]) -> bool:
    """True if a file's dictionary is a checkpoint of this package, of any version."""
    return str(state.get("format", "")).startswith("muse_pipeline ")


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, complete or not at all."""
    state = {
        "format": FORMAT,
        "teacher": {PREFIX + name: value.cpu() for name, value in checkpoint.backbone.items()},
        "head": {name: value.cpu() for name, value in checkpoint.head.items()},
        "meta": json.dumps(checkpoint.meta, sort_keys=True),
    }
    if checkpoint.networks:
        state["networks"] = {
            name: {key: value.cpu() for key, value in network.items()} for name, network in checkpoint.networks.items()
        }
    _save(state, path)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of this package; nothing but tensors and plain values is unpickled.

    Raises:
        CheckpointError: the file is missing, damaged, foreign or of an older version.
    """
    return parse_checkpoint(read_pickle(path), path)


def read_weights(path: Path, trust_pickle: bool = False) -> Checkpoint:
    """Read a checkpoint of this package, or the backbone of a released MUSE file, which lists no settings or images.

    Args:
        path: the file.
        trust_pickle: also unpickle objects other than tensors and plain values, which can run any code.

    Raises:
        CheckpointError: the file cannot be read, or holds something else.
    """
    state = read_pickle(path, trust_pickle)
    if is_ours(state):
        return parse_checkpoint(state, path)
    return Checkpoint(backbone_weights(state, path), {}, {"resample_positions": True})


def parse_checkpoint(state: dict[str, Any], path: Path) -> Checkpoint:
    """Convert a dictionary from ``read_pickle`` to a checkpoint; ``path`` is for messages.

    Raises:
        CheckpointError: it is foreign, of another version, or incomplete.
    """
    if not is_ours(state):
        raise CheckpointError(f"{path}: not a checkpoint of ours; give one that `muse finetune` wrote")
    if state["format"] in OLDER:
        raise CheckpointError(f"{path}: written by an older version, whose networks are others; train it again")
    if state["format"] != FORMAT:
        raise CheckpointError(
            f"{path}: laid out as '{state['format']}', while this version reads '{FORMAT}'; install the version that "
            "wrote it"
        )
    backbone = backbone_weights(state, path)
    try:
        head, meta = dict(state["head"]), dict(json.loads(state["meta"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: its head or its description is missing or broken; copy it again") from error
    require_finite(head, path)
    if head and not {"config", "colour"} <= meta.keys():
        raise CheckpointError(f"{path}: has a head but not its training settings; copy it again")
    networks = dict(state.get("networks", {}))
    for network in networks.values():
        require_finite(network, path)
    return Checkpoint(backbone, head, meta, networks)


def load_detector_weights(network: NucleusDetector, checkpoint: Checkpoint, path: Path) -> None:
    """Take over backbone and head; ``path`` is for messages.

    Raises:
        CheckpointError: either is of another network or shape.
    """
    load_weights(network.backbone, checkpoint.backbone, path, always_resample=False)
    load_head_weights(network.head, checkpoint, path)


def load_backbone_weights(backbone: Backbone, checkpoint: Checkpoint, path: Path) -> None:
    """Take over the backbone; ``path`` is for messages.

    Raises:
        CheckpointError: names or shapes are not exactly the network's.
    """
    load_weights(backbone, checkpoint.backbone, path, checkpoint.meta.get("resample_positions", False))


def load_head_weights(head: NucleusHead, checkpoint: Checkpoint, path: Path) -> None:
    """Take over the head; ``path`` is for messages.

    Raises:
        CheckpointError: it is of another shape.
    """
    try:
        head.load_state_dict(checkpoint.head)
    except RuntimeError as error:
        raise CheckpointError(
            f"{path}: does not fit the config's head, classes and rays; change either, or train it again if an older "
            "version wrote it"
        ) from error


def save_resume_point(
    path: Path, step: int, n_batches: int, method: nn.Module, optimisers: Mapping[str, torch.optim.Optimizer]
) -> None:
    """Write the state before ``step``, of a run that takes ``n_batches`` per step; complete or not at all."""
    state = {
        "step": step,
        "batches": n_batches,
        "method": method.state_dict(),
        "optimisers": {turn: optimiser.state_dict() for turn, optimiser in optimisers.items()},
    }
    _save(state, path)


def _save(state: dict[str, Any], path: Path) -> None:
    """Through an open file: given a path, torch stores the name of the temporary file, which differs by process."""
    with complete_file(path) as partial, partial.open("wb") as file:
        torch.save(state, file)


def load_resume_point(
    path: Path, n_batches: int, method: nn.Module, optimisers: Mapping[str, torch.optim.Optimizer]
) -> int:
    """Restore method and optimisers; returns the step to go on with, 0 where nothing was saved.

    Args:
        path: the resume point.
        n_batches: batches per step: processes times ``accumulate``. Batches, and so the windows of a step, are the same
            for any division between the two.
        method: the method, on its device.
        optimisers: optimisers by turn.

    Raises:
        CheckpointError: the file is damaged, or of a run with other settings or another number of batches per step.
    """
    if not path.is_file():
        return 0
    state = _read(path, next(method.parameters()).device)
    if state["batches"] != n_batches:
        raise CheckpointError(
            f"{path}: the run took {state['batches']} batch(es) per step, not {n_batches}; devices x "
            "`schedule.accumulate` must stay the same"
        )
    try:
        method.load_state_dict(state["method"])
        for turn, optimiser in optimisers.items():
            optimiser.load_state_dict(state["optimisers"][turn])
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path}: belongs to another configuration; choose another run folder or delete it"
        ) from error
    return state["step"]


def steps_done(path: Path) -> int:
    """The step that a run would go on with, read without its weights; 0 where there is nothing to go on from."""
    if not path.is_file():
        return 0
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)["step"]
    except Exception:  # a damaged file is named when the run goes on from it
        return 0


def _read(path: Path, device: torch.device) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises many unrelated classes on damaged bytes
        raise CheckpointError(f"{path}: damaged; delete it to train from the start") from error
    if not isinstance(state, dict) or not {"step", "batches", "method", "optimisers"} <= state.keys():
        raise CheckpointError(f"{path}: not a resume point of this version; delete it to train from the start")
    return state

"""A backbone under evaluation: its weights, colour map and training patients."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from muse_pipeline.core.config import parse_config
from muse_pipeline.core.errors import LabelError
from muse_pipeline.core.text import some_of
from muse_pipeline.data.nucleus_images import NucleusImage
from muse_pipeline.inference.card import ColourReference
from muse_pipeline.inference.model import find_checkpoint
from muse_pipeline.labels.pictures import LabelledImage
from muse_pipeline.models import BACKBONES
from muse_pipeline.models.base import Backbone
from muse_pipeline.models.weights import backbone_weights, read_pickle
from muse_pipeline.training.checkpoint import is_ours, load_backbone, parse_checkpoint, recognise_backbone

SEED = 2025  # the authors'
NAMES_OF_RUNS = ("checkpoint.pt", "best.pt")  # names in every run folder: the folder's name is used instead


@dataclass(frozen=True, eq=False)
class ProbedNetwork:
    """A backbone under evaluation.

    Attributes:
        name: registered name of the backbone.
        backbone: the network with its weights, on the CPU.
        reference: reference that slides' colours are normalised to, as in its training.
        weights: origin of the weights, in words.
        patients: patients that it was trained on, if its checkpoint lists them.
        images: names of pictures that it was trained on, if its checkpoint lists them.
    """

    name: str
    backbone: Backbone
    reference: ColourReference
    weights: str
    patients: frozenset[str] = frozenset()
    images: frozenset[str] = frozenset()

    def check_unseen(self, images: Iterable[LabelledImage | NucleusImage], shared_patients: bool) -> list[str]:
        """Sentences on the patients of the reported ``images`` that it was trained on, with labels or without.

        Raises:
            LabelError: there are such patients, and they may not be shared.
        """
        seen = sorted({one.patient for one in images if one.patient in self.patients or one.name in self.images})
        if not seen:
            return []
        if shared_patients:
            return [f"patients that {self.weights} was trained on and that are reported: {', '.join(seen)}"]
        raise LabelError(
            f"{self.weights} was trained on patients that are reported: {some_of(seen)}; report on others "
            "(`exclude`, --test), or give --allow-shared-patients, which the output states"
        )


def open_network(name: str, checkpoint: Path | None, trust_pickle: bool = False) -> ProbedNetwork:
    """Open the backbone ``name`` with the weights of a checkpoint (or built-in model); random ones without.

    Raises:
        CheckpointError: the checkpoint does not fit.
        ConfigError: there is no backbone of that name, or its checkpoint's colour cannot be read.
    """
    torch.manual_seed(SEED)
    backbone = BACKBONES[name]()
    if checkpoint is None:
        return ProbedNetwork(name, backbone, ColourReference(), "random, not trained")
    path = find_checkpoint(checkpoint)
    known = load_backbone(backbone, path, trust_pickle)
    colour = known.meta.get("colour", {})  # the authors normalise no stain and name no pictures
    reference = parse_config(colour, ColourReference, f"{path}: colour")
    weights = path.name if path.name not in NAMES_OF_RUNS else f"{path.resolve().parent.name}/{path.name}"
    return ProbedNetwork(name, backbone, reference, weights, known.patients, known.images)


def backbone_name(checkpoint: Path, trust_pickle: bool = False) -> str | None:
    """Name of the backbone in a checkpoint; None if a checkpoint of this package has none.

    Released files are recognised by names, shapes and the file's name.

    Raises:
        CheckpointError: the checkpoint cannot be read, or is of no known network.
    """
    path = find_checkpoint(checkpoint)
    state = read_pickle(path, trust_pickle)
    return (
        parse_checkpoint(state, path).meta.get("backbone")
        if is_ours(state)
        else recognise_backbone(backbone_weights(state, path), path)
    )

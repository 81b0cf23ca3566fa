"""From labelled images to a detector: what ``muse finetune CONFIG`` does."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

from muse_pipeline.config import load_config, parse_config
from muse_pipeline.data.augment import Augmentation
from muse_pipeline.data.labels import LabelSource, read_labelled_images
from muse_pipeline.data.windows import LabelledWindows
from muse_pipeline.errors import CheckpointError
from muse_pipeline.files import read_json, write_json
from muse_pipeline.inference.card import NucleusClass
from muse_pipeline.methods import METHODS
from muse_pipeline.models.detector import NucleusDetector
from muse_pipeline.training.census import REFERENCE_STAINS, class_weights, colour_reference, image_colour
from muse_pipeline.training.checkpoint import load_checkpoint, save_checkpoint
from muse_pipeline.training.loop import Schedule, train


@dataclass(frozen=True)
class ExportSettings:
    """What the card says about running the model (see ``ModelCard``)."""

    input_px: int = 1024
    halo_px: int = 32
    batch: int = 1
    capacity: int = 8192
    threshold: float = 0.4


@dataclass(frozen=True)
class FinetuneConfig:
    """A training run.

    Attributes:
        name: of the model.
        backbone: registered name.
        mpp: um per pixel the network works at.
        classes: what it tells apart, in order.
        sources: labelled images.
        schedule: how long and how fast.
        licence: of the weights.
        training_data: for the card, in words.
        limits: for the card, in words.
        initial: checkpoint to start from; its network and classes must be these. Random weights without one.
        method: registered name of the way of training.
        head: registered name.
        n_rays: rays per outline.
        colour: "macenko" or "identity": how a slide's colour is taken to the reference.
        window_px: side of a training window.
        batch: windows per step.
        seed: of weights and windows.
        precision: as Lightning Fabric names it.
        augmentation: how far windows are varied.
        export: how the model will be run.
        metrics: measured elsewhere, for the card.
    """

    name: str
    backbone: str
    mpp: float
    classes: tuple[NucleusClass, ...]
    sources: tuple[LabelSource, ...]
    schedule: Schedule
    licence: str
    training_data: str
    limits: str = ""
    initial: Path | None = None
    method: str = "detector"
    head: str = "dense"
    n_rays: int = 32
    colour: str = "macenko"
    window_px: int = 256
    batch: int = 16
    seed: int = 0
    precision: str = "32-true"
    augmentation: Augmentation = field(default_factory=Augmentation)
    export: ExportSettings = field(default_factory=ExportSettings)
    metrics: dict[str, float] = field(default_factory=dict)


CARD_ONLY = ("name", "licence", "training_data", "limits", "export", "metrics")  # settings that train nothing


def load_finetune_config(path: Path, data: Path | None = None) -> FinetuneConfig:
    """Read a config; the paths of its sources start at ``data``, else at its own folder, where ``initial`` always does.

    Raises:
        ConfigError: see ``config.load_config``.
    """
    config = load_config(path, FinetuneConfig)
    root = (data or Path(path).parent).resolve()
    if config.initial is not None:
        config = dataclasses.replace(config, initial=(Path(path).parent / config.initial).resolve())
    sources = tuple(
        dataclasses.replace(
            source,
            **{
                name: root / value
                for name in ("images", "labels", "points", "split")
                if (value := getattr(source, name)) is not None
            },
        )
        for source in config.sources
    )
    return dataclasses.replace(config, sources=sources)


def finetune(
    config: FinetuneConfig,
    folder: Path,
    accelerator: str = "auto",
    threads: int = 1,
    progress: Callable[[int, dict[str, float]], None] | None = None,
) -> Path:
    """Train and write ``checkpoint.pt``; the resolved config and the loss log lie beside it.

    Raises:
        CheckpointError: the folder holds a run of another config.
        ConfigError: a name in the config is not registered, or no nucleus has a known class.
        LabelError: a label file is missing or broken.
    """
    _require_same_run(config, folder)
    torch.manual_seed(config.seed)
    torch.set_num_threads(threads)
    fabric = Fabric(accelerator=accelerator, devices=1, precision=config.precision)
    fabric.launch()
    write_json(folder / "config.json", _plain(config))
    names = tuple(one.name for one in config.classes)
    images = read_labelled_images(config.sources, names, config.mpp, config.n_rays)
    reference = colour_reference(images, config.colour)
    windows = LabelledWindows(
        images,
        np.stack([image_colour(image, reference) for image in images]),
        np.array(reference.stains or REFERENCE_STAINS),
        config.mpp,
        config.window_px,
        config.batch,
        config.augmentation,
        config.seed,
        fabric.device,
    )
    network = NucleusDetector(config.backbone, config.head, len(names), config.n_rays)
    if config.initial is not None:
        load_network(network, config.initial)
    method = METHODS[config.method](network, config.mpp, class_weights(images, len(names)))
    train(method, windows, config.schedule, folder, fabric, progress)
    checkpoint = folder / "checkpoint.pt"
    meta = {
        "config": _plain(config),
        "colour": dataclasses.asdict(reference),
        "kind": "detector",
        "images": sorted(i.name for i in images),
    }
    save_checkpoint(checkpoint, {"detector": method.trained().state_dict()}, meta)
    return checkpoint


def _require_same_run(config: FinetuneConfig, folder: Path) -> None:
    """A run goes on under the config that it began with; what the card says may change at any time."""
    if not (folder / "resume.pt").is_file():
        return
    described = {name: getattr(config, name) for name in CARD_ONLY}
    begun = dataclasses.replace(
        parse_config(read_json(folder / "config.json"), FinetuneConfig, str(folder)), **described
    )
    changed = [one.name for one in dataclasses.fields(config) if getattr(begun, one.name) != getattr(config, one.name)]
    if changed:
        raise CheckpointError(
            f"{folder}: holds a run of another configuration ({', '.join(changed)} changed); choose another run folder "
            "or delete it"
        )


def load_network(network: NucleusDetector, path: Path) -> None:
    """Take over the weights of a checkpoint.

    Raises:
        CheckpointError: it holds no detector or one of another shape.
    """
    state, _ = load_checkpoint(path)
    try:
        network.load_state_dict(state["detector"])
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(f"{path}: does not fit the config's backbone, classes and rays; change either") from error


def _plain(config: FinetuneConfig) -> dict[str, Any]:
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))

"""From labelled images to a detector: what ``muse finetune CONFIG`` does."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from muse_pipeline.data.hidden_labels import hide_labels
from muse_pipeline.data.label_summary import check_leaks, summarise_labels
from muse_pipeline.data.labelled_image import LabelledImage
from muse_pipeline.data.labels import read_labelled_images
from muse_pipeline.data.windows import LabelledWindows
from muse_pipeline.errors import CheckpointError, ConfigError
from muse_pipeline.inference.card import ColourReference
from muse_pipeline.methods import METHODS
from muse_pipeline.methods.base import Method
from muse_pipeline.models.detector import NucleusDetector
from muse_pipeline.training.census import (
    REFERENCE_STAINS,
    class_weights,
    colour_reference,
    image_colour,
    require_every_class,
)
from muse_pipeline.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from muse_pipeline.training.devices import open_fabric
from muse_pipeline.training.export_window import export_window
from muse_pipeline.training.finetune_config import CARD_ONLY, FinetuneConfig, require_known_names
from muse_pipeline.training.loop import train
from muse_pipeline.training.pictures import keep_pictures
from muse_pipeline.training.provenance import describe_run
from muse_pipeline.training.run_folder import RunFolder, plain_settings
from muse_pipeline.training.start import find_checkpoint, take_over
from muse_pipeline.training.validation import Validation


def finetune(
    config: FinetuneConfig,
    folder: Path,
    accelerator: str = "auto",
    threads: int = 1,
    devices: int = 1,
    start_over: bool = False,
    say: Callable[[str], None] = lambda sentence: None,
    progress: Callable[[int, dict[str, float]], None] | None = None,
) -> Path:
    """Train and write ``checkpoint.pt``; settings, provenance and metrics lie beside it (``run_folder``).

    Args:
        config: of the run.
        folder: of the run; one that was stopped goes on there.
        accelerator: one of ``devices.ACCELERATORS``.
        threads: of each process on a CPU.
        devices: GPUs, or processes on a CPU; each trains on batches of its own.
        start_over: train from the start where the folder holds a run of other settings, labels or weights, in place of
            refusing.
        say: called with sentences about the run by its first process.
        progress: see ``loop.train``.

    Raises:
        CheckpointError: the folder holds a run of another config, or the checkpoint to start from does not fit.
        ConfigError: a name in the config is not registered, or a class has no nucleus.
        DivergedError: a loss is no longer a number.
        LabelError: a label file is missing or broken, or a patient is in training and in validation.
        ProviderError: the devices are not there.
    """
    require_known_names(config)
    run = RunFolder(Path(folder))
    begins_with = find_checkpoint(config.checkpoint) if config.checkpoint else None
    sources = (*config.sources, *config.validation)
    provenance = describe_run(plain_settings(config, portable=True), sources, begins_with)
    try:
        run.require_same_run(config, provenance, CARD_ONLY)
    except CheckpointError:
        if not start_over:
            raise
        say(f"{folder}: holds a run of other settings, labels or weights, which is given up; training from the start")
        run.forget()
    torch.set_num_threads(threads)
    images = _read_training_images(config)
    held = _read_images(config.validation, config) if config.validation else []
    check_leaks(images, held)
    require_every_class(images, config.class_names, "training")
    if held:
        require_every_class(held, config.class_names, "validation")
    reference = colour_reference(images, config.colour)
    method, origin = _build_method(config, images)
    # All that a user may have got wrong is known by now: from here on there may be several processes.
    fabric = open_fabric(accelerator, devices, config.precision)
    windows = _make_windows(config, images, reference, fabric.device)
    meta = _describe(config, images, reference)
    validate = None
    if held:
        validate = Validation(
            method.trained(),
            held,
            reference,
            config,
            lambda step, scores: save_checkpoint(run.best, _trained(method, {**meta, "step": step, "scores": scores})),
        )
    if fabric.is_global_zero:
        run.describe(config, provenance)
        keep_pictures(images, run.pictures)
        _tell_labels(images, "training", config, run, say)
        if held:
            _tell_labels(held, "validation", config, run, say)
        say(f"{len(images)} images, {len(held)} for validation; {config.backbone}, {config.head} head, from {origin}")
    train(method, windows, config.schedule, run, fabric, config.seed, config.backbone_rate, validate, progress)
    if fabric.is_global_zero:
        end = _trained(method, {**meta, "step": config.schedule.steps})
        save_checkpoint(run.checkpoint, _redescribed(load_checkpoint(run.best), meta) if held else end)
    return run.checkpoint


def _tell_labels(
    images: list[LabelledImage], split: str, config: FinetuneConfig, run: RunFolder, say: Callable[[str], None]
) -> None:
    """Say what the labels hold, patient by patient; ``labels-<split>.tsv`` has a row per picture."""
    summary = summarise_labels(images, config.class_names)
    say(f"{split} labels:\n{summary.text()}")
    summary.write(run.path / f"labels-{split}.tsv")


def _read_images(sources: tuple, config: FinetuneConfig) -> list[LabelledImage]:
    return read_labelled_images(sources, config.class_names, config.mpp, config.n_rays)


def _read_training_images(config: FinetuneConfig) -> list[LabelledImage]:
    images = _read_images(config.sources, config)
    if config.region_px is not None:
        images = hide_labels(images, config.region_px, config.seed)
    if config.consistency is not None and all(image.region is None for image in images):
        raise ConfigError(
            "`consistency` learns outside of annotated regions, and every training picture is annotated everywhere; "
            "give regions of slides as labels, or set `region_px` for a trial"
        )
    return images


def _build_method(config: FinetuneConfig, images: list[LabelledImage]) -> tuple[Method, str]:
    """What is trained, from the weights that the config names, and these in words."""
    torch.manual_seed(config.seed)
    network = NucleusDetector(config.backbone, config.head, len(config.classes), config.n_rays)
    network.to(memory_format=torch.channels_last)  # a third less time per step on a CPU
    export_window(config, network.backbone)  # refused now, not when the training is done
    origin = take_over(network, config) if config.checkpoint else "random weights"
    weights = class_weights(images, len(config.classes))
    return METHODS[config.method](network, config.head, config.mpp, weights, config.consistency), origin


def _make_windows(
    config: FinetuneConfig, images: list[LabelledImage], reference: ColourReference, device: torch.device
) -> LabelledWindows:
    return LabelledWindows(
        images,
        np.stack([image_colour(image, reference) for image in images]),
        np.array(reference.stains or REFERENCE_STAINS),
        config.mpp,
        config.window_px,
        config.batch,
        config.augmentation,
        config.seed,
        device,
        weak_view=config.consistency is not None,
    )


def _describe(config: FinetuneConfig, images: list[LabelledImage], reference: ColourReference) -> dict[str, Any]:
    return {
        "kind": "detector",
        "backbone": config.backbone,
        "window_px": config.window_px,
        "mpp": config.mpp,
        "positions": "as trained",  # a positional table is read as it is, see ``models.official``
        "config": plain_settings(config, portable=True),
        "colour": dataclasses.asdict(reference),
        "images": sorted(image.name for image in images),
    }


def _trained(method: Method, meta: dict[str, Any]) -> Checkpoint:
    network = method.trained()
    return Checkpoint(network.backbone.state_dict(), network.head.state_dict(), meta)


def _redescribed(checkpoint: Checkpoint, meta: dict[str, Any]) -> Checkpoint:
    """The same weights under what the config says now."""
    return dataclasses.replace(checkpoint, meta={**checkpoint.meta, **meta})

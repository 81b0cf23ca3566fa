"""A trained detector as it leaves: the graph, ready to be traced or run, and the card that describes it."""

from __future__ import annotations

import dataclasses
from importlib.metadata import version
from pathlib import Path
from typing import Any

from muse_pipeline.config import parse_config
from muse_pipeline.coords import CELL_PX
from muse_pipeline.export.half import halve
from muse_pipeline.files import sha256_of
from muse_pipeline.inference.card import AppearanceReference, ColourReference, ModelCard
from muse_pipeline.models.detector import DetectionGraph, NucleusDetector
from muse_pipeline.training.export_window import export_window
from muse_pipeline.training.finetune_config import FinetuneConfig
from muse_pipeline.training.trained_detector import load_trained


def load_detector(path: Path, name: str | None = None, **changes: Any) -> tuple[DetectionGraph, ModelCard]:
    """The graph and its card, from a checkpoint of ``muse finetune``.

    Args:
        path: of the checkpoint.
        name: of the model, in place of that in the checkpoint's settings.
        changes: settings of the export (``training.export_settings``) in place of the checkpoint's.

    Raises:
        CheckpointError: the checkpoint holds no detector, or one that does not fit its own description.
        ConfigError: the network cannot be exported for the window that the settings name.
    """
    detector, config, checkpoint = load_trained(path)
    export = dataclasses.replace(config.export, **changes)
    config = dataclasses.replace(config, name=name or config.name, export=export)
    input_px = export_window(config, detector.backbone)
    detector.backbone.fix_size(input_px, input_px)
    reference = parse_config(checkpoint.meta["colour"], ColourReference, str(path))
    card = describe_model(config, detector, input_px, reference, path)
    if seen := checkpoint.meta.get("appearance"):
        card = dataclasses.replace(card, appearance=parse_config(seen, AppearanceReference, str(path)))
    if card.precision == "fp16":
        halve(detector)
    return DetectionGraph(detector, card.threshold, card.capacity, bool(card.embedding_dim)).eval(), card


def describe_model(
    config: FinetuneConfig, detector: NucleusDetector, input_px: int, reference: ColourReference, path: Path
) -> ModelCard:
    """The card of a detector for windows of ``input_px``, from the run's settings and its checkpoint's ``path``."""
    settings, backbone = config.export, detector.backbone
    return ModelCard(
        name=config.name,
        mpp=config.mpp,
        input_px=input_px,
        halo_px=settings.halo_px,
        stride_px=backbone.stride_px,
        batch=settings.batch,
        capacity=min(settings.capacity, (input_px // CELL_PX) ** 2),
        classes=config.classes,
        threshold=settings.threshold,
        n_rays=config.n_rays,
        readout=backbone.lattice.name,
        licence=config.licence,
        training_data=config.training_data,
        colour=dataclasses.replace(reference, share=settings.colour_share),
        precision=settings.precision,
        embedding_dim=backbone.channels if settings.embedding else 0,
        source={
            "backbone": config.backbone,
            "head": config.head,
            "checkpoint_sha256": sha256_of(path),
            "command": f"muse finetune {config.name}; muse export",
            "torch": version("torch"),
            "onnx": version("onnx"),
        },
        metrics=config.metrics,
        limits=config.limits,
    )

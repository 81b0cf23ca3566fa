"""A trained detector as it leaves: the graph, ready to be traced or run, and the card that describes it."""

from __future__ import annotations

import dataclasses
from importlib.metadata import version
from pathlib import Path
from typing import Any

from muse_pipeline.config import parse_config
from muse_pipeline.coords import CELL_PX
from muse_pipeline.errors import ConfigError
from muse_pipeline.export.half import halve
from muse_pipeline.files import sha256_of
from muse_pipeline.inference.card import AppearanceReference, ColourReference, ModelCard
from muse_pipeline.models.detector import DetectionGraph, NucleusDetector
from muse_pipeline.models.ensemble import average_detectors
from muse_pipeline.training.export_window import export_window
from muse_pipeline.training.finetune_config import FinetuneConfig
from muse_pipeline.training.trained_detector import load_trained


def load_detector(*paths: Path, name: str | None = None, **changes: Any) -> tuple[DetectionGraph, ModelCard]:
    """The graph and its card, from a checkpoint of ``muse finetune`` or the mean of several.

    Args:
        paths: of the checkpoints.
        name: of the model, in place of that in the first checkpoint's settings.
        changes: settings of the export (``training.export_settings``) in place of the checkpoint's.

    Raises:
        CheckpointError: a checkpoint holds no detector, or one that does not fit its own description.
        ConfigError: the network cannot be exported for the window that the settings name, or several checkpoints are
            not of one kind.
    """
    members = [_load_member(path, changes) for path in paths]
    detector, card = members[0]
    for path, (_, other) in zip(paths[1:], members[1:], strict=True):
        _require_one_kind(card, paths[0], other, path)
    if len(members) > 1:
        detector = average_detectors([member for member, _ in members])
        card = dataclasses.replace(
            card,
            embedding_dim=detector.backbone.channels if card.embedding_dim else 0,
            source={
                **card.source,
                "backbone": f"the mean of {len(members)} {card.source['backbone']}",
                "checkpoint_sha256": " ".join(one.source["checkpoint_sha256"] for _, one in members),
            },
            metrics={f"of one of the {len(members)} alone: {what}": value for what, value in card.metrics.items()},
        )
    card = dataclasses.replace(card, name=name or card.name)
    return DetectionGraph(detector, card.threshold, card.capacity, bool(card.embedding_dim)).eval(), card


def _load_member(path: Path, changes: dict[str, Any]) -> tuple[NucleusDetector, ModelCard]:
    detector, config, checkpoint = load_trained(path)
    config = dataclasses.replace(config, export=dataclasses.replace(config.export, **changes))
    input_px = export_window(config, detector.backbone)
    detector.backbone.fix_size(input_px, input_px)
    reference = parse_config(checkpoint.meta["colour"], ColourReference, str(path))
    card = describe_model(config, detector, input_px, reference, path)
    if seen := checkpoint.meta.get("appearance"):
        card = dataclasses.replace(card, appearance=parse_config(seen, AppearanceReference, str(path)))
    if card.precision == "fp16":
        halve(detector)
    return detector, card


def _require_one_kind(card: ModelCard, path: Path, other: ModelCard, other_path: Path) -> None:
    """Refuse to average networks that read or say different things."""
    reads, says = ("mpp", "input_px", "halo_px", "readout", "colour"), ("classes", "n_rays", "threshold", "capacity")
    for what in (*reads, *says, "precision", "licence", "training_data"):
        if getattr(card, what) != getattr(other, what):
            raise ConfigError(
                f"{path} and {other_path} are not of one kind: their {what} differ; average networks of one config"
            )
    for what in ("backbone", "head"):
        if card.source[what] != other.source[what]:
            raise ConfigError(
                f"{path} and {other_path} are not of one kind: {what} {card.source[what]} and {other.source[what]}; "
                "average networks of one config"
            )


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

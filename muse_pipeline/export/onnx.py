"""Write a detector as ONNX to the signature of ``models.detector.DetectionGraph``."""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from pathlib import Path

import onnx
import torch

from muse_pipeline.config import parse_config
from muse_pipeline.errors import CheckpointError
from muse_pipeline.files import complete_file
from muse_pipeline.inference.card import METADATA_KEY, ColourReference, ModelCard
from muse_pipeline.models.detector import DetectionGraph, NucleusDetector
from muse_pipeline.training.checkpoint import load_checkpoint, load_detector_weights
from muse_pipeline.training.finetune_config import FinetuneConfig

OPSET = 18


def load_detector(path: Path) -> tuple[DetectionGraph, ModelCard]:
    """The graph, ready to run, and its card, from a checkpoint of ``muse finetune``.

    Raises:
        CheckpointError: the checkpoint holds no detector, or one that does not fit its own description.
    """
    checkpoint = load_checkpoint(path)
    if not checkpoint.head:
        raise CheckpointError(f"{path}: holds no detector (kind: {checkpoint.meta.get('kind')}); finetune one first")
    config = parse_config(checkpoint.meta["config"], FinetuneConfig, str(path))
    reference = parse_config(checkpoint.meta["colour"], ColourReference, str(path))
    detector = NucleusDetector(config.backbone, config.head, len(config.classes), config.n_rays)
    load_detector_weights(detector, checkpoint, path)
    card = ModelCard(
        name=config.name,
        mpp=config.mpp,
        input_px=config.export.input_px,
        halo_px=config.export.halo_px,
        stride_px=detector.backbone.stride_px,
        batch=config.export.batch,
        capacity=config.export.capacity,
        classes=config.classes,
        threshold=config.export.threshold,
        n_rays=config.n_rays,
        readout="x/4-0.5",
        licence=config.licence,
        training_data=config.training_data,
        colour=reference,
        source={
            "checkpoint_sha256": hashlib.sha256(Path(path).read_bytes()).hexdigest(),
            "command": f"muse finetune {config.name}; muse export",
            "torch": version("torch"),
            "onnx": version("onnx"),
        },
        metrics=config.metrics,
        limits=config.limits,
    )
    return DetectionGraph(detector, card.threshold, card.capacity).eval(), card


def export_onnx(checkpoint: Path, output: Path) -> ModelCard:
    """Write ``output`` (one file, card in its metadata) and check it with onnx's own checker."""
    graph, card = load_detector(checkpoint)
    pixels = torch.zeros((card.batch, 3, card.input_px, card.input_px), dtype=torch.uint8)
    program = torch.onnx.export(
        graph,
        (pixels, torch.eye(3, 4)),
        input_names=["pixels", "colour"],
        output_names=["xy", "score", "prob", "rays"],
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    model = program.model_proto
    onnx.helper.set_model_props(model, {METADATA_KEY: card.to_json()})
    for node in model.graph.node:  # traces of the exporting machine's source files
        del node.metadata_props[:]
        node.doc_string = ""
    onnx.checker.check_model(model)
    with complete_file(output) as partial:
        onnx.save_model(model, partial)
    return card

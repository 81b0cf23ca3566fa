"""Export of region models as ONNX (``models.region.RegionGraph``), and a check of the exported
graph.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from muse_pipeline.core.config import parse_config, replace_settings
from muse_pipeline.core.coords import CELL_PX
from muse_pipeline.core.errors import CheckpointError, ConfigError, ModelError
from muse_pipeline.core.files import sha256_of
from muse_pipeline.core.pictures import list_pictures
from muse_pipeline.export.onnx import trace_windows, write_model
from muse_pipeline.export.parity import COLOUR
from muse_pipeline.export.quantise import calibration_windows, halve, quantise_on
from muse_pipeline.inference.card import MAP, REGIONS, ColourReference, RegionCard
from muse_pipeline.inference.predictor import RegionPredictor
from muse_pipeline.models.region import RegionGraph, RegionNetwork
from muse_pipeline.models.weights import load_weights
from muse_pipeline.training.checkpoint import load_checkpoint
from muse_pipeline.training.region_model import RegionExport, RegionModel
from muse_pipeline.training.run import RunFolder

# Limits of the largest and of the mean difference of probabilities between a network and its graph.
TOLERANCES = {"fp32": (1e-3, 1e-4), "fp16": (0.05, 0.005), "int8": (0.5, 0.03)}
MAX_PICTURES = 6


def load_region_model(
    path: Path, name: str | None = None, **changes: Any
) -> tuple[RegionNetwork, RegionCard]:
    """Load a region network, in evaluation mode, and its card.

    The ``name`` and the settings of ``RegionExport`` in ``changes`` replace those in the
    checkpoint.
    """
    checkpoint = load_checkpoint(path)
    if checkpoint.meta.get("kind") != REGIONS:
        raise CheckpointError(
            f"{path}: holds no region network; give the checkpoint of a region model"
        )
    model = parse_config(checkpoint.meta["region"], RegionModel, str(path))
    if unknown := sorted(
        changes.keys() - {field.name for field in dataclasses.fields(RegionExport)}
    ):
        raise ConfigError(f"export: a region model has no '{unknown[0]}'; leave the option out")
    export = replace_settings(model.export, changes, "export")
    model = dataclasses.replace(model, name=name or model.name, export=export)
    network = RegionNetwork(model.backbone, len(model.classes), model.fusion)
    load_weights(network.backbone, checkpoint.backbone, path, always_resample=False)
    network.sides.load_state_dict(checkpoint.head)
    colour = parse_config(checkpoint.meta["colour"], ColourReference, str(path))
    of_model = ("name", "mpp", "classes", "licence", "training_data", "metrics", "limits")
    of_settings = ("input_px", "halo_px", "batch", "precision", "min_area_mm2")
    card = RegionCard(
        **{name: getattr(model, name) for name in of_model},
        **{name: getattr(export, name) for name in of_settings},
        stride_px=network.backbone.stage_sizes[2].stride_px,
        cell_px=CELL_PX,
        colour=dataclasses.replace(colour, share=export.colour_share),
        source={
            "backbone": model.backbone,
            "fusion": ", ".join(f"{weight:g}" for weight in model.fusion),
            "checkpoint_sha256": sha256_of(path),
            "torch": version("torch"),
            "onnx": version("onnx"),
        },
    )
    return network.eval(), card


def export_region_model(
    checkpoint: Path, output: Path, *, calibration: Path | None = None, **changes: Any
) -> RegionCard:
    """Export a region model to ``output``, one ONNX file with its card in the metadata, for batches
    of any size.

    For ``changes``, see ``load_region_model``. The folder ``calibration`` has pictures to calibrate
    int8, by default the run's own.
    """
    network, card = load_region_model(checkpoint, **changes)
    if card.precision == "fp16":
        halve(network)
    network.backbone.fix_size(card.input_px, card.input_px)
    trace = partial(
        trace_windows, RegionGraph(network).eval(), card, [MAP], network.backbone.lattice.any_size
    )
    traced, card = quantise_on(calibration or RunFolder(checkpoint.parent).pictures, trace, card)
    write_model(traced, card, output)
    return card


def check_region_parity(checkpoint: Path, model: Path, images: Path) -> str:
    """Compare the probabilities of a checkpoint, run in float32, with those of the model exported
    from it, on at most ``MAX_PICTURES`` pictures, and return the differences in words.
    """
    predictor = RegionPredictor(model)
    card = predictor.card
    if not list_pictures(images):
        raise ModelError(
            f"{images}: no pictures to check the export on; give a folder that has some"
        )
    network, _ = load_region_model(checkpoint, input_px=card.input_px, halo_px=card.halo_px)
    network.backbone.fix_size(card.input_px, card.input_px)
    graph = RegionGraph(network).eval()
    differences, others = [], []
    windows = calibration_windows(images, card)[:MAX_PICTURES]
    for window in windows:
        with torch.no_grad():
            expected = graph(torch.from_numpy(window.pixels), torch.from_numpy(COLOUR)).numpy()
        exported = predictor(window.pixels.transpose(0, 2, 3, 1), COLOUR)
        differences.append(np.abs(exported - expected))
        others.append(exported.argmax(1) != expected.argmax(1))
    largest, mean = np.max(differences), np.mean(differences)
    at_most, on_average = TOLERANCES[card.precision]
    parity = (
        f"{len(windows)} windows; probabilities differ by {largest:.2g} at most and {mean:.2g} on"
        f" average, {np.mean(others):.2%} of cells have a different class"
    )
    if largest > at_most or mean > on_average:
        raise ModelError(
            f"{checkpoint}: the exported graph differs from its checkpoint ({parity}); do not"
            " use it"
        )
    return parity

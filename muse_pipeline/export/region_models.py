"""Export of region models as ONNX (``models.region.RegionGraph``), and a check of the exported
graph.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
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
from muse_pipeline.export.quantise import calibration_windows, describe_calibration, halve, quantise
from muse_pipeline.inference.card import MAP, REGIONS, ColourReference, RegionCard
from muse_pipeline.inference.predictor import RegionPredictor
from muse_pipeline.models.region import RegionGraph, RegionNetwork
from muse_pipeline.models.weights import load_weights
from muse_pipeline.training.checkpoint import load_checkpoint
from muse_pipeline.training.region_model import RegionExport, RegionModel

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
    try:
        network.sides.load_state_dict(checkpoint.head)
    except RuntimeError as error:
        raise CheckpointError(
            f"{path}: its side maps do not fit its classes; train it again"
        ) from error
    colour = parse_config(checkpoint.meta["colour"], ColourReference, str(path))
    return network.eval(), describe_region_model(model, network, colour, path)


def describe_region_model(
    model: RegionModel, network: RegionNetwork, colour: ColourReference, path: Path
) -> RegionCard:
    """Make the card of a network from its description and the ``path`` of its checkpoint."""
    settings = model.export
    of_model = ("name", "mpp", "classes", "licence", "training_data", "metrics", "limits")
    of_settings = ("input_px", "halo_px", "batch", "precision", "min_area_mm2")
    return RegionCard(
        **{name: getattr(model, name) for name in of_model},
        **{name: getattr(settings, name) for name in of_settings},
        stride_px=network.backbone.stage_sizes[2].stride_px,
        cell_px=CELL_PX,
        colour=dataclasses.replace(colour, share=settings.colour_share),
        source={
            "backbone": model.backbone,
            "fusion": ", ".join(f"{weight:g}" for weight in model.fusion),
            "checkpoint_sha256": sha256_of(path),
            "torch": version("torch"),
            "onnx": version("onnx"),
        },
    )


def export_region_model(
    checkpoint: Path, output: Path, *, calibration: Path | None = None, **changes: Any
) -> RegionCard:
    """Export a region model to ``output``, one ONNX file with its card in the metadata, for batches
    of any size.

    For ``changes``, see ``load_region_model``. The folder ``calibration`` has pictures to calibrate
    int8.
    """
    network, card = load_region_model(checkpoint, **changes)
    windows = []
    if card.precision == "int8":
        if calibration is None:
            raise ConfigError(
                "precision 'int8' is calibrated on pictures; give --calibration FOLDER"
            )
        windows = calibration_windows(calibration, card)
    if card.precision == "fp16":
        halve(network)
    network.backbone.fix_size(card.input_px, card.input_px)
    traced = trace_windows(
        RegionGraph(network).eval(), card, [MAP], network.backbone.lattice.any_size
    )
    if windows:
        traced = quantise(traced, windows, card.source["backbone"])
        card = dataclasses.replace(
            card, source={**card.source, "calibration": describe_calibration(windows)}
        )
    write_model(traced, card, output)
    return card


@dataclass(frozen=True)
class RegionParity:
    """Differences of probabilities, over all cells and classes, between a network in torch and its
    exported graph.
    """

    n_windows: int
    largest: float
    mean: float
    other_class: float  # share of cells whose likeliest class differs

    def __str__(self) -> str:
        return (
            f"{self.n_windows} windows; probabilities differ by {self.largest:.2g} at most and"
            f" {self.mean:.2g} on average, {self.other_class:.2%} of cells have a different class"
        )


def check_region_parity(checkpoint: Path, model: Path, images: Path) -> RegionParity:
    """Compare a checkpoint, run in float32, with the model exported from it, on at most
    ``MAX_PICTURES`` pictures.
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
    largest, means, others = 0.0, [], []
    windows = calibration_windows(images, card)[:MAX_PICTURES]
    for window in windows:
        with torch.no_grad():
            expected = graph(torch.from_numpy(window.pixels), torch.from_numpy(COLOUR)).numpy()
        exported = predictor(window.pixels.transpose(0, 2, 3, 1), COLOUR)
        difference = np.abs(exported - expected)
        largest = max(largest, float(difference.max()))
        means.append(float(difference.mean()))
        others.append(float((exported.argmax(1) != expected.argmax(1)).mean()))
    parity = RegionParity(len(windows), largest, float(np.mean(means)), float(np.mean(others)))
    at_most, on_average = TOLERANCES[card.precision]
    if parity.largest > at_most or parity.mean > on_average:
        raise ModelError(
            f"{checkpoint}: the exported graph differs from its checkpoint ({parity}); do not"
            " use it"
        )
    return parity

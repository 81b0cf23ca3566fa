"""Export of detectors (``models.detector.DetectionGraph``) and embedding networks as ONNX, and
edits of a card.
"""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Iterable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.export import Dim

from muse_pipeline.core.config import parse_config, replace_settings
from muse_pipeline.core.errors import ConfigError, ModelError
from muse_pipeline.core.files import complete_file, sha256_of
from muse_pipeline.core.pictures import list_pictures, read_rgb
from muse_pipeline.core.text import join_sentences
from muse_pipeline.export.cut import cut
from muse_pipeline.export.quantise import errors_only, halve, quantise_on
from muse_pipeline.inference.card import (
    DENSE,
    EMBEDDING,
    METADATA_KEY,
    OUTPUTS,
    AppearanceReference,
    Card,
    ColourReference,
    EmbedderCard,
    ModelCard,
    replace_outlines,
)
from muse_pipeline.inference.doubts import describe_training
from muse_pipeline.inference.embed import embedding_halo
from muse_pipeline.inference.model import find_checkpoint, find_graph, read_card
from muse_pipeline.methods.detector.start import complete_texts, load_trained
from muse_pipeline.methods.detector.validation import SCORE, make_card
from muse_pipeline.models import BACKBONES
from muse_pipeline.models.base import Backbone
from muse_pipeline.models.detector import DetectionGraph
from muse_pipeline.tissue.colour import measure_picture
from muse_pipeline.training.checkpoint import (
    load_backbone_weights,
    read_weights,
    recognise_backbone,
)
from muse_pipeline.training.run import RunFolder

OPSET = 18
TRACED_BATCH = 2  # a batch of 1 would be exported as a constant


def export_onnx(
    checkpoint: Path, output: Path, *, calibration: Path | None = None, **changes: Any
) -> ModelCard:
    """Export a detector to ``output``, one file with its card in the metadata, for batches of any
    size.

    Args:
        checkpoint: a checkpoint of ``muse finetune``.
        output: the file.
        calibration: folder of pictures to calibrate int8; by default that of the run's own
            pictures.
        changes: ``name`` and settings of the export, as in ``load_detector``.
    """
    graph, card = load_detector(checkpoint, **changes)
    pictures = calibration or RunFolder(checkpoint.parent).pictures
    model, card = quantise_on(pictures, lambda: trace(graph, card), card)
    write_model(cut(model), card, output)
    return card


def trace(graph: DetectionGraph, card: ModelCard) -> onnx.ModelProto:
    """Convert the graph of a detector to ONNX, for batches of any size."""
    outputs = [*OUTPUTS, *([EMBEDDING] if card.embedding_dim else [])]
    return trace_windows(graph, card, outputs, graph.detector.backbone.lattice.any_size)


def trace_windows(
    graph: torch.nn.Module, card: Card, outputs: list[str], any_size: bool
) -> onnx.ModelProto:
    """Convert a graph of pixels and colour, in evaluation mode, to ONNX with these outputs, for any
    size of batches.

    With ``any_size``, windows may have any size, and otherwise only the card's.
    """
    pixels = torch.zeros((TRACED_BATCH, 3, card.input_px, card.input_px), dtype=torch.uint8)
    sizes = {0: Dim("batch")}
    if any_size:
        sizes |= {axis: card.stride_px * Dim(name) for axis, name in ((2, "rows"), (3, "columns"))}
    # Hides the exporter's warnings about optional packages and future changes of torch.
    with errors_only("torch.onnx._internal.exporter._registration"), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        program = torch.onnx.export(
            graph,
            (pixels, torch.eye(3, 4)),
            input_names=["pixels", "colour"],
            output_names=outputs,
            dynamic_shapes={"pixels": sizes, "colour": None},
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    return program.model_proto


def write_model(model: onnx.ModelProto, card: Card, output: Path) -> None:
    """Write a model as one file with the card in its metadata and without the exporter's notes.

    The notes contain names of source files and differ between calls.
    """
    onnx.helper.set_model_props(model, {METADATA_KEY: card.to_json()})
    graph = model.graph
    for part in (
        graph,
        *graph.node,
        *graph.input,
        *graph.output,
        *graph.value_info,
        *graph.initializer,
    ):
        del part.metadata_props[:]
        part.doc_string = ""
    onnx.checker.check_model(model)
    with complete_file(output) as partial:
        onnx.save_model(model, partial)


def load_detector(
    path: Path, name: str | None = None, **changes: Any
) -> tuple[DetectionGraph, ModelCard]:
    """Load the graph and its card from a checkpoint of ``muse finetune``.

    The ``name`` and the settings of the export (``methods.detector.config``) replace those in the
    checkpoint.
    """
    detector, config, checkpoint = load_trained(path)
    export = replace_settings(config.export, replace_outlines(changes), "export")
    config = dataclasses.replace(config, name=name or config.name, export=export)
    card = make_card(config, detector.backbone)
    detector.backbone.fix_size(card.input_px, card.input_px)
    reference = parse_config(checkpoint.meta["colour"], ColourReference, str(path))
    scores = checkpoint.meta.get("scores", {})
    measured = {f"{SCORE}, which chose the weights": scores[SCORE]} if SCORE in scores else {}
    texts = complete_texts(config, checkpoint.meta)
    organs = {name: tuple(names) for name, names in checkpoint.meta.get("organs", {}).items()}
    measured |= config.metrics
    unlike = {name: tuple(tissues) for name, tissues in checkpoint.meta.get("unlike", {}).items()}
    seen = checkpoint.meta.get("appearance")
    card = dataclasses.replace(
        card,
        **texts,
        colour=dataclasses.replace(reference, share=export.colour_share),
        metrics=measured,
        organs=organs,
        unlike=unlike,
        appearance=seen and parse_config(seen, AppearanceReference, str(path)),
        source={
            "backbone": config.backbone,
            "head": config.head,
            "checkpoint_sha256": sha256_of(path),
            "command": f"muse finetune {config.name}; muse export",
            "torch": version("torch"),
            "onnx": version("onnx"),
        },
    )
    if card.precision == "fp16":
        halve(detector)
    return (
        DetectionGraph(detector, card.threshold, card.capacity, bool(card.embedding_dim)).eval(),
        card,
    )


def recard(model: Path, output: Path, facts: dict[str, Any]) -> ModelCard:
    """Write ``model`` with ``facts`` in its card to ``output``, which may be the same file; the
    graph is unchanged.
    """
    card = read_card(model)
    if facts.keys() - {field.name for field in dataclasses.fields(card)}:
        raise ConfigError(
            f"{model}: {card.does}, and has no temperature, outlines or organs; give a detector"
        )
    card = dataclasses.replace(card, **replace_outlines(facts))
    write_model(onnx.load(find_graph(model)), card, output)
    return card


def measure_folders(folders: Iterable[tuple[Path, float]]) -> AppearanceReference:
    """Measure the appearance of the pictures in folders, each with its um per pixel."""
    measured = []
    for folder, mpp in folders:
        paths = list_pictures(folder)
        if not paths:
            raise ModelError(
                f"{folder}: contains no pictures; give a folder of those that the model was"
                " trained on"
            )
        measured += [measure_picture(read_rgb(path), mpp) for path in paths]
    reference = describe_training(measured)
    if reference is None:
        raise ModelError(
            "nothing can be measured in the pictures; give those that the model was trained on"
        )
    return reference


WINDOW_PX = 1024  # side of a window for networks that accept any size


class EmbeddingGraph(nn.Module):
    """Computes the dense map (B, D, H / 4, W / 4) of pixels (B, 3, H, W) uint8 with a colour map
    (3, 4).
    """

    def __init__(self, backbone: Backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, pixels: Tensor, colour: Tensor) -> Tensor:
        """The backbone's dense map."""
        return self.backbone(self.backbone.prepare(pixels, colour)).dense


def export_embedder(checkpoint: Path, output: Path, mpp: float) -> EmbedderCard:
    """Export a backbone to ``output``, one file with its card in the metadata.

    The checkpoint is that of any method of this package, a released MUSE file, or the name of a
    built-in model. If it does not state its um per pixel, ``mpp`` is assumed.
    """
    graph, card = load_embedder(checkpoint, mpp)
    write_model(trace_windows(graph, card, [DENSE], graph.backbone.lattice.any_size), card, output)
    return card


def load_embedder(checkpoint: Path, mpp: float) -> tuple[EmbeddingGraph, EmbedderCard]:
    """Load the graph in evaluation mode and its card, for ``export_embedder``."""
    path = find_checkpoint(checkpoint)
    weights = read_weights(path)
    meta, config = weights.meta, weights.meta.get("config", {})
    name = meta.get("backbone") or recognise_backbone(weights.backbone, path)
    backbone = BACKBONES[name]()
    load_backbone_weights(backbone, weights, path)
    input_px, halo_px = _window(backbone, name, meta)
    backbone.fix_size(input_px, input_px)
    colour = parse_config(meta.get("colour", {}), ColourReference, f"{path}: colour")
    # as for the export of a detector
    share = config.get("export", {}).get("colour_share", colour.share)
    card = EmbedderCard(
        name=config.get("name")
        or (path.stem if path.stem != "checkpoint" else path.resolve().parent.name),
        mpp=meta.get("mpp", mpp),
        input_px=input_px,
        halo_px=halo_px,
        stride_px=backbone.stride_px,
        batch=1,
        readout=backbone.lattice.name,
        embedding_dim=backbone.channels,
        licence=config.get("licence", "unknown"),
        training_data=join_sentences(
            config.get("training_data", "unknown"), meta.get("origins", {}).get("training_data", "")
        ),
        colour=replace(colour, share=share),
        source={"backbone": name, "checkpoint_sha256": sha256_of(path), "torch": version("torch")},
    )
    return EmbeddingGraph(backbone).eval(), card


def _window(backbone: Backbone, name: str, meta: dict[str, Any]) -> tuple[int, int]:
    """Side and halo of the window in px; a network with a fixed window keeps its training
    window.
    """
    if backbone.lattice.any_size:
        return WINDOW_PX, embedding_halo(WINDOW_PX, backbone.stride_px, any_size=True)
    # released networks are named after their windows
    side = meta.get("window_px") or int(re.search(r"_(\d+)$", name)[1])
    return side, embedding_halo(side, backbone.stride_px, any_size=False)

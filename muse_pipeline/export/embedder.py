"""Export of any checkpoint's backbone as ONNX: windows in, the dense map out, which is read at given nuclei."""

from __future__ import annotations

import re
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from muse_pipeline.core.config import parse_config
from muse_pipeline.core.errors import CheckpointError
from muse_pipeline.core.files import sha256_of
from muse_pipeline.core.text import join_sentences
from muse_pipeline.export.onnx import trace_windows, write_model
from muse_pipeline.inference.card import ColourReference, EmbedderCard
from muse_pipeline.inference.embed import DENSE, embedding_halo
from muse_pipeline.inference.model import find_checkpoint
from muse_pipeline.models import BACKBONES
from muse_pipeline.models.base import Backbone
from muse_pipeline.training.checkpoint import load_backbone_weights, read_weights, recognise_backbone

WINDOW_PX = 1024  # of networks that take windows of any sides


class EmbeddingGraph(nn.Module):
    """The dense map (B, D, H / 4, W / 4) of pixels (B, 3, H, W) uint8 and a colour map (3, 4)."""

    def __init__(self, backbone: Backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, pixels: Tensor, colour: Tensor) -> Tensor:
        """The backbone's dense map."""
        return self.backbone(self.backbone.prepare(pixels, colour)).dense


def export_embedder(checkpoint: Path, output: Path, mpp: float) -> EmbedderCard:
    """Write ``output``: one file, its card in the metadata.

    Args:
        checkpoint: a checkpoint of any method of this package, a released MUSE file, or the name of a built-in one.
        output: the file.
        mpp: um per pixel for a checkpoint that states none.

    Raises:
        CheckpointError: the checkpoint holds no backbone with a dense map, or cannot be read.
    """
    graph, card = load_embedder(checkpoint, mpp)
    write_model(trace_windows(graph, card, [DENSE], graph.backbone.lattice.any_size), card, output)
    return card


def load_embedder(checkpoint: Path, mpp: float) -> tuple[EmbeddingGraph, EmbedderCard]:
    """Load the graph in evaluation mode and its card, for ``export_embedder``."""
    path = find_checkpoint(checkpoint)
    known = read_weights(path)
    config: dict[str, Any] = known.meta.get("config", {})
    name = known.meta.get("backbone") or config.get("backbone") or recognise_backbone(known.backbone, path)
    backbone = BACKBONES[name]()
    load_backbone_weights(backbone, known, path)
    input_px, halo_px = _window(backbone, name, known.meta, path)
    backbone.fix_size(input_px, input_px)
    colour = parse_config(known.meta.get("colour", {}), ColourReference, f"{path}: colour")
    share = config.get("export", {}).get("colour_share", colour.share)  # of a detector, as it is exported
    card = EmbedderCard(
        name=config.get("name") or (path.stem if path.stem != "checkpoint" else path.resolve().parent.name),
        mpp=known.meta.get("mpp") or config.get("mpp") or mpp,
        input_px=input_px,
        halo_px=halo_px,
        stride_px=backbone.stride_px,
        batch=1,
        readout=backbone.lattice.name,
        embedding_dim=backbone.channels,
        licence=config.get("licence", "unknown"),
        training_data=join_sentences(
            config.get("training_data", "unknown"), known.meta.get("origins", {}).get("training_data", "")
        ),
        colour=replace(colour, share=share),
        source={"backbone": name, "checkpoint_sha256": sha256_of(path), "torch": version("torch")},
    )
    return EmbeddingGraph(backbone).eval(), card


def _window(backbone: Backbone, name: str, meta: dict[str, Any], path: Path) -> tuple[int, int]:
    """Side and halo of the window in px; a network that ties positions to its window keeps that of its training."""
    if backbone.lattice.any_size:
        return WINDOW_PX, embedding_halo(WINDOW_PX, backbone.stride_px, any_size=True)
    by_name = re.search(r"_(\d+)$", name)
    side = meta.get("window_px") or meta.get("config", {}).get("window_px") or (by_name and int(by_name[1]))
    if not side:
        raise CheckpointError(f"{path}: does not state the window of its training; import it by its name first")
    return side, embedding_halo(side, backbone.stride_px, any_size=False)

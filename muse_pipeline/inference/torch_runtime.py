"""PyTorch as a runtime: it runs the network of the checkpoint that a model was exported from, on a
GPU or the CPU.

``TorchSession`` stands in for ``onnxruntime.InferenceSession``.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy import ndarray
from torch import nn

from muse_pipeline.inference.card import DENSE, Card, ModelCard, RegionCard
from muse_pipeline.models import BACKBONES
from muse_pipeline.models.base import Backbone
from muse_pipeline.models.detector import DetectionGraph, NucleusDetector
from muse_pipeline.models.region import RegionGraph, RegionNetwork
from muse_pipeline.models.weights import backbone_weights, load_weights, read_pickle

if TYPE_CHECKING:
    import onnxruntime

ACCELERATORS = ("cuda", "xpu", "mps")  # PyTorch calls ROCm "cuda" too


def find_device(provider: str) -> torch.device | None:
    """The device of provider "torch" (the first accelerator) or "torch-cpu"; None if there is no
    accelerator.
    """
    if provider == "torch-cpu":
        return torch.device("cpu")
    usable = {"cuda": torch.cuda, "xpu": getattr(torch, "xpu", None), "mps": torch.backends.mps}
    return next(
        (
            torch.device(name)
            for name in ACCELERATORS
            if usable[name] and usable[name].is_available()
        ),
        None,
    )


@dataclass(frozen=True)
class Port:
    """An output of a network, with its name and its sizes; open sizes are strings."""

    name: str
    shape: list[int | str]


class TorchSession:
    """Runs the network of the checkpoint that a model was exported from; several threads take turns
    on an accelerator.

    Algorithms are deterministic, so results on the same device are always the same. The inputs,
    outputs and metadata are those of ``file``, the session of ONNX Runtime for the model's file.
    """

    def __init__(
        self, device: torch.device, file: onnxruntime.InferenceSession, card: Card, checkpoint: Path
    ):
        self.device = device
        self.device_name = (
            torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        )
        self.get_inputs = file.get_inputs
        self.get_modelmeta = file.get_modelmeta
        self._outputs = file.get_outputs()
        network, backbone = build_network(card, checkpoint)
        self._network = network.eval().to(device)
        self._backbone = backbone
        if backbone and DENSE not in [port.name for port in self._outputs]:
            self._outputs.append(Port(DENSE, ["batch", backbone.channels, "rows", "columns"]))
        self._lock = threading.Lock()
        if device.type == "cpu":
            torch.set_num_threads(1)  # several threads may call ``run``

    def get_outputs(self) -> list[Port]:
        """Ports of the network's outputs."""
        return self._outputs

    def run(self, outputs: list[str] | None, inputs: dict[str, ndarray]) -> list[ndarray]:
        """The named outputs, or all of them except the dense map of a detector, for ``inputs`` by
        name.
        """
        with (
            torch.inference_mode(),
            torch.backends.cudnn.flags(benchmark=False, deterministic=True, allow_tf32=False),
        ):
            if self.device.type == "cpu":
                return self._run(outputs, inputs)
            with self._lock:
                return self._run(outputs, inputs)

    def _run(self, outputs: list[str] | None, inputs: dict[str, ndarray]) -> list[ndarray]:
        pixels, colour = (
            torch.from_numpy(np.require(inputs[name], requirements="CW")).to(self.device)
            for name in ("pixels", "colour")
        )
        if outputs == [DENSE]:
            chosen = [self._backbone(self._backbone.prepare(pixels, colour)).dense]
        else:
            tensors = self._network(pixels, colour)
            tensors = [tensors] if isinstance(tensors, torch.Tensor) else tensors
            by_name = dict(zip([port.name for port in self._outputs], tensors, strict=False))
            chosen = [by_name[name] for name in outputs or by_name]
        return [values.float().cpu().numpy() for values in chosen]


def build_network(card: Card, checkpoint: Path) -> tuple[nn.Module, Backbone | None]:
    """The network that a card describes, with the weights of a checkpoint; and its backbone, None
    for region models.
    """
    state = read_pickle(checkpoint)
    if isinstance(card, RegionCard):
        fusion = [float(weight) for weight in card.source["fusion"].split(",")]
        network = RegionNetwork(card.source["backbone"], len(card.classes), fusion)
        backbone = network.backbone
        head = network.sides
        graph = RegionGraph(network)
    elif isinstance(card, ModelCard):
        network = NucleusDetector(
            card.source["backbone"], card.source["head"], len(card.classes), card.n_rays
        )
        backbone, head = network.backbone, network.head
        graph = DetectionGraph(network, card.threshold, card.capacity, bool(card.embedding_dim))
    else:
        backbone = graph = BACKBONES[card.source["backbone"]]()
        head = None
    # Files of MUSE's authors have no description; their table of positions is resampled.
    resample = json.loads(state.get("meta", '{"resample_positions": true}')).get(
        "resample_positions", False
    )
    load_weights(backbone, backbone_weights(state, checkpoint), checkpoint, resample)
    if head is not None:
        head.load_state_dict(state["head"])
    backbone.fix_size(card.input_px, card.input_px)
    return graph, None if isinstance(card, RegionCard) else backbone

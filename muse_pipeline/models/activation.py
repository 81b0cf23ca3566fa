"""PSM's activation network (arXiv 2210.07862): a backbone, a linear output, and the activations of its stages."""

from __future__ import annotations

import json
from contextvars import ContextVar
from pathlib import Path

import torch
from torch import Tensor, nn

from muse_pipeline.core.errors import CheckpointError, ConfigError
from muse_pipeline.models import BACKBONES
from muse_pipeline.models.base import Backbone
from muse_pipeline.models.muse import MuseBackbone
from muse_pipeline.models.muse_resnet import ResNet50
from muse_pipeline.models.weights import backbone_weights, load_weights, read_pickle

KIND = "activation"

# Where a thread collects the maps of the first stage: windows of a slide are run side by side on one network.
_RECORDED: ContextVar[list[Tensor] | None] = ContextVar("recorded", default=None)


class ActivationNetwork(nn.Module):
    """Self-supervision trains it; gradients of its mean output with respect to a stage make PSM's map.

    Args:
        backbone: registered name; one with a stage at stride 4.
        n_outputs: outputs of the linear layer on the image vector; the task sets their number.
        mpp: um per pixel of the training; None for an untrained network.

    Raises:
        ConfigError: the backbone is unknown or has no stage at stride 4.
    """

    def __init__(self, backbone: str, n_outputs: int, mpp: float | None = None):
        super().__init__()
        self.mpp = mpp
        self.backbone: Backbone = BACKBONES[backbone]()
        self.head = nn.Linear(self.backbone.image_channels, n_outputs)
        for block in find_stages(self.backbone, backbone)[0]:
            block.register_forward_hook(_note)
        self.register_buffer("colour", torch.eye(3, 4), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W), 0 to 255 -> (B, n_outputs); sides are multiples of the backbone's ``stride_px``."""
        return self.head(self.backbone(self.backbone.prepare(pixels, self.colour)).image)

    def read_activations(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The mean output (B,) and the maps (B, C, h, w) after each block of the stage at stride 4.

        They are ready for ``autograd.grad``; ``pixels`` as in ``forward``.
        """
        seen: list[Tensor] = []
        token = _RECORDED.set(seen)
        try:
            output = self(pixels)
        finally:
            _RECORDED.reset(token)
        return output.mean(1), seen


def _note(block: nn.Module, inputs: tuple, output: Tensor) -> None:
    if (seen := _RECORDED.get()) is not None:
        seen.append(output)


def find_stages(backbone: Backbone, name: str) -> list[nn.Sequential]:
    """The stages of a backbone, the one at stride 4 first; each is a run of blocks.

    Raises:
        ConfigError: the backbone (a ViT) has no such stages.
    """
    if isinstance(backbone, MuseBackbone) and isinstance(encoder := backbone.encoder["encoder"], ResNet50):
        return [encoder.layer1, encoder.layer2, encoder.layer3, encoder.layer4]
    if stages := getattr(backbone, "stages", None):
        return list(stages)
    raise ConfigError(f"backbone '{name}' has no stage at stride 4; choose shallow_cnn, a compact one or a ResNet")


def load_activation(path: Path) -> ActivationNetwork:
    """Load a trained network, in evaluation mode, from the checkpoint that training wrote.

    Raises:
        CheckpointError: the file is missing, damaged or holds something else.
    """
    state = read_pickle(path)
    try:
        meta = json.loads(state["meta"])
        if meta["kind"] != KIND:
            raise CheckpointError(f"{path}: holds a {meta['kind']}; give the checkpoint of an activation network")
        network = ActivationNetwork(meta["backbone"], len(state["head"]["bias"]), float(meta["mpp"]))
        network.head.load_state_dict(state["head"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path}: is no activation network of this version; train it again") from error
    load_weights(network.backbone, backbone_weights(state, path), path, always_resample=False)
    return network.eval()

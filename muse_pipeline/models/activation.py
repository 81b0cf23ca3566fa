"""PSM's activation network (arXiv 2210.07862): a backbone, a linear output, and the activations of its stages."""

from __future__ import annotations

from contextvars import ContextVar

import torch
from torch import Tensor, nn

from muse_pipeline.core.errors import ConfigError
from muse_pipeline.models import BACKBONES
from muse_pipeline.models.base import Backbone
from muse_pipeline.models.muse import MuseBackbone
from muse_pipeline.models.muse_resnet import ResNet50

# Where a thread collects the maps of the first stage: windows of a slide are run side by side on one network.
_RECORDED: ContextVar[list[Tensor] | None] = ContextVar("recorded", default=None)


class ActivationNetwork(nn.Module):
    """Self-supervision trains it; gradients of its output with respect to a stage make PSM's map.

    Args:
        backbone: registered name; one with a stage at stride 4.

    Raises:
        ConfigError: the backbone is unknown or has no stage at stride 4.
    """

    def __init__(self, backbone: str):
        super().__init__()
        self.backbone: Backbone = BACKBONES[backbone]()
        self.head = nn.Linear(self.backbone.image_channels, 1)
        for block in _first_stage(self.backbone, backbone):
            block.register_forward_hook(_note)
        self.register_buffer("colour", torch.eye(3, 4), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W), 0 to 255 -> (B, 1); sides are multiples of the backbone's ``stride_px``."""
        return self.head(self.backbone(self.backbone.prepare(pixels, self.colour)).image)

    def read_activations(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The output (B,) and the maps (B, C, h, w) after each block of the stage at stride 4.

        They are ready for ``autograd.grad``; ``pixels`` as in ``forward``.
        """
        seen: list[Tensor] = []
        token = _RECORDED.set(seen)
        try:
            output = self(pixels)
        finally:
            _RECORDED.reset(token)
        return output[:, 0], seen


def _note(block: nn.Module, inputs: tuple, output: Tensor) -> None:
    if (seen := _RECORDED.get()) is not None:
        seen.append(output)


def _first_stage(backbone: Backbone, name: str) -> nn.Sequential:
    """The blocks of the stage at stride 4.

    Raises:
        ConfigError: the backbone (a ViT) has no such stage.
    """
    if isinstance(backbone, MuseBackbone) and isinstance(encoder := backbone.encoder["encoder"], ResNet50):
        return encoder.layer1
    if stages := getattr(backbone, "stages", None):
        return stages[0]
    raise ConfigError(f"backbone '{name}' has no stage at stride 4; choose shallow_cnn, a compact one or a ResNet")

"""Which window a trained network will be run on."""

from __future__ import annotations

import torch

from muse_pipeline.core.errors import ConfigError
from muse_pipeline.models import BACKBONES
from muse_pipeline.models.base import Backbone
from muse_pipeline.training.finetune_config import FinetuneConfig, require_window

WINDOW_PX = 1024  # of networks that see the same in any window: large, so that little is read twice


def require_windows(config: FinetuneConfig) -> None:
    """Refuse windows that the network can not be trained or run on, before any data is read.

    Raises:
        ConfigError: see ``finetune_config.require_window`` and ``export_window``.
    """
    with torch.device("meta"):  # no memory and no random numbers
        backbone = BACKBONES[config.backbone]()
    require_window(config.window_px, backbone, config.backbone)
    export_window(config, backbone)


def export_window(config: FinetuneConfig, backbone: Backbone) -> int:
    """Side of the window in px.

    A network that ties positions to its window (``models.readout``) keeps the one that it was trained with, unless
    another is asked for with ``any_window``.

    Args:
        config: of the run.
        backbone: the network's.

    Raises:
        ConfigError: the window or its halo does not suit the network.
    """
    settings, stride_px = config.export, backbone.stride_px
    tied = not backbone.lattice.any_size
    input_px = settings.input_px or (config.window_px if tied else WINDOW_PX)
    if tied and input_px != config.window_px and not settings.any_window:
        raise ConfigError(
            f"export: {config.backbone} ties positions to its window and is trained with {config.window_px} px, not "
            f"{input_px}; leave `input_px` out, or set `any_window: true` to run it on other windows all the same"
        )
    if input_px % stride_px or settings.halo_px % stride_px or input_px <= 2 * settings.halo_px:
        raise ConfigError(
            f"export: a window of {input_px} px with a halo of {settings.halo_px} px does not suit {config.backbone}; "
            f"give multiples of its stride, {stride_px} px, and a halo of less than half the window"
        )
    return input_px

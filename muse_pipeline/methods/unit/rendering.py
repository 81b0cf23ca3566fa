"""Tissue with exact labels, rendered from synthesised masks by a trained generator."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from muse_pipeline.core.config import parse_config
from muse_pipeline.core.errors import ArgumentError, CheckpointError
from muse_pipeline.methods.unit.config import GeneratorSettings
from muse_pipeline.methods.unit.synthesis_masks import InstanceMask, TissueSettings, stylise
from muse_pipeline.methods.unit.translation import CoModulatedGenerator
from muse_pipeline.training.checkpoint import load_checkpoint


@dataclass(frozen=True)
class RendererSettings:
    """Settings that a checkpoint contains in addition to the generator's weights."""

    generator: GeneratorSettings  # settings of the network
    tissue: TissueSettings  # settings of the synthesised masks that it was trained on


class Renderer:
    """Renders masks with the generator in a checkpoint of a run with ``method: unit``."""

    def __init__(self, path: Path):
        checkpoint = load_checkpoint(path)
        if "renderer" not in checkpoint.meta or "generator" not in checkpoint.networks:
            raise CheckpointError(
                f"{path}: contains no generator; give the checkpoint of a run with `method: unit`"
            )
        settings = parse_config(checkpoint.meta["renderer"], RendererSettings, f"{path}: renderer")
        self.mpp = float(checkpoint.meta["mpp"])
        self.tissue = settings.tissue
        self.network = CoModulatedGenerator(settings.generator).eval()
        self.network.load_state_dict(checkpoint.networks["generator"])

    @torch.no_grad()
    def __call__(self, mask: InstanceMask, seed: int) -> np.ndarray:
        """Render a mask as tissue (h, w, 3) uint8; the same mask and seed always give the same
        picture.
        """
        height, width = mask.instances.shape
        if height % self.network.stride_px or width % self.network.stride_px:
            raise ArgumentError(
                f"masks of {width} x {height} px do not suit the generator; give multiples of "
                f"{self.network.stride_px} px"
            )
        painted = stylise(mask, self.mpp, np.random.default_rng(seed))
        pixels = torch.from_numpy(painted).permute(2, 0, 1)[None].float()
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(1, self.network.noise_dim, generator=generator)
        grain = torch.randn(1, 1, *pixels.shape[-2:], generator=generator)
        rendered = self.network((pixels - 127.5) / 127.5, noise, grain)[0]
        return rendered.round().byte().permute(1, 2, 0).numpy()

"""A sum of two methods that share a network: the first trains on pairs of a picture and a partner,
which shows where nuclei are and exists only in training, the second on pictures and half turns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from muse_pipeline.core.pictures import list_pictures, read_rgb
from muse_pipeline.inference.card import ColourReference, NucleusClass
from muse_pipeline.methods.detector.config import DetectorConfig, ExportSettings
from muse_pipeline.methods.detector.stage import describe_detector
from muse_pipeline.models.detector import NucleusDetector
from muse_pipeline.training.checkpoint import Checkpoint
from muse_pipeline.training.method import Method, Schedule, WeightedSum
from muse_pipeline.training.recipe import RECIPES, Recipe, Stage, TrainingStage
from muse_pipeline.training.run import Inputs, Log

SIDE_PX, N_RAYS = 64, 8


@dataclass(frozen=True)
class ToySumConfig:
    """Settings."""

    name: str
    images: Path
    schedule: Schedule
    seed: int = 0
    precision: str = "32-true"
    method: str = "toy_sum"


class Pairs(Method):
    """Train the centre map of ``network`` to follow the partner."""

    def __init__(self, network: NucleusDetector):
        super().__init__()
        self.network = network

    def losses(self, batch: tuple[Tensor, Tensor], turn: str, progress: float) -> dict[str, Tensor]:
        """The loss of a batch of pictures (B, 3, S, S), 0 to 255, and partners (B, 1, S, S), 0 to
        1.
        """
        pictures, partners = batch
        logit = self.network(pictures, torch.eye(3, 4, device=pictures.device)).centre
        target = functional.avg_pool2d(partners, 4)
        return {"loss": functional.binary_cross_entropy_with_logits(logit, target)}

    def trained(self) -> NucleusDetector:
        """The network."""
        return self.network


class HalfTurn(Pairs):
    """Train the centre map of ``network`` to turn with the picture."""

    def losses(self, batch: Tensor, turn: str, progress: float) -> dict[str, Tensor]:
        """The loss of a batch of pictures (B, 3, S, S), 0 to 255."""
        colour = torch.eye(3, 4, device=batch.device)
        one, other = (self.network(pixels, colour).centre for pixels in (batch, batch.flip(2, 3)))
        return {"loss": (one - other.flip(2, 3)).square().mean()}


class ToySumStage(TrainingStage[ToySumConfig, Tensor]):
    """The only stage."""

    def inputs(self) -> Inputs:
        """The config, which names the pictures."""
        return Inputs((self.config,))

    def read(self, log: Log) -> Tensor:
        """The upper left corner (N, 3, S, S) of each picture."""
        paths = list_pictures(self.config.images)
        pixels = [read_rgb(path, "")[:SIDE_PX, :SIDE_PX].copy() for path in paths]
        return torch.stack([torch.from_numpy(one).permute(2, 0, 1).float() for one in pixels])

    def build(self, data: Tensor) -> WeightedSum:
        """Both methods on one network."""
        network = NucleusDetector("muse_compact_16", "dense", 1, N_RAYS)
        methods = {"pairs": Pairs(network), "half turn": HalfTurn(network)}
        return WeightedSum(methods, {"pairs": 1.0, "half turn": 0.1})

    def batches(self, data: Tensor, device: torch.device) -> Callable[[int], dict[str, Any]]:
        """A batch for each method: two pictures in turn, whose partners mark their dark pixels."""

        def draw(number: int) -> dict[str, Any]:
            pictures = data[torch.tensor([number, number + 1]) % len(data)].to(device)
            partners = (pictures.mean(1, keepdim=True) < 180).float()
            return {"pairs": (pictures, partners), "half turn": pictures}

        return draw

    def checkpoint(self, data: Tensor, method: WeightedSum) -> Checkpoint:
        """A checkpoint with the network as a detector."""
        network = method.trained()
        settings = DetectorConfig(
            name=self.config.name,
            backbone="muse_compact_16",
            mpp=0.5,
            classes=(NucleusClass("Nucleus", (128, 64, 192)),),
            sources=(),
            schedule=self.config.schedule,
            licence="CC0-1.0",
            training_data="drawn discs",
            n_rays=N_RAYS,
            colour="identity",
            export=ExportSettings(input_px=192, capacity=200),
        )
        return Checkpoint(
            network.backbone.state_dict(),
            network.head.state_dict(),
            describe_detector(settings, ColourReference(method="identity")),
        )


@RECIPES.register("toy_sum")
class ToySumRecipe(Recipe):
    """A recipe of one stage."""

    Config = ToySumConfig

    def stages(self, config: ToySumConfig, folder: Path) -> Sequence[Stage]:
        """The only stage."""
        return (ToySumStage(config, folder),)

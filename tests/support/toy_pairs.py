"""A method for pairs of a picture and a partner, which shows where nuclei are and exists only in
training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from toy_gan import N_RAYS, SIDE_PX, detector_config

from muse_pipeline.core.pictures import list_pictures, read_rgb
from muse_pipeline.inference.card import ColourReference
from muse_pipeline.methods.detector.stage import describe_detector
from muse_pipeline.models.detector import NucleusDetector
from muse_pipeline.training.checkpoint import Checkpoint
from muse_pipeline.training.method import Method, Schedule
from muse_pipeline.training.recipe import RECIPES, Recipe, Stage, TrainingStage
from muse_pipeline.training.run import Inputs, Log


@dataclass(frozen=True)
class ToyPairsConfig:
    """Settings."""

    name: str
    images: Path
    schedule: Schedule
    seed: int = 0
    precision: str = "32-true"
    method: str = "toy_pairs"


class ToyPairs(Method):
    """Train the centre map to follow the partner.

    Args:
        network: the detector to train.
    """

    def __init__(self, network: NucleusDetector):
        super().__init__()
        self.network = network

    def losses(self, batch: tuple[Tensor, Tensor], turn: str, progress: float) -> dict[str, Tensor]:
        """The loss of a batch of pictures (B, 3, S, S), 0 to 255, and partners (B, 1, S, S), 0 to
        1.
        """
        pictures, partners = batch
        logit = self.network(pictures, torch.eye(3, 4, device=pictures.device)).centre
        return {
            "loss": functional.binary_cross_entropy_with_logits(
                logit, functional.avg_pool2d(partners, 4)
            )
        }

    def trained(self) -> NucleusDetector:
        """The network."""
        return self.network


def read_pairs(folder: Path) -> list[tuple[Tensor, Tensor]]:
    """For each file of the folder, its picture, and a mask of the picture's dark pixels as its
    partner.
    """
    corners = (read_rgb(path, "")[:SIDE_PX, :SIDE_PX].copy() for path in list_pictures(folder))
    pictures = [torch.from_numpy(corner).permute(2, 0, 1).float() for corner in corners]
    return [(picture, (picture.mean(0, keepdim=True) < 180).float()) for picture in pictures]


def draw_pairs(
    pairs: list[tuple[Tensor, Tensor]], device: torch.device
) -> Callable[[int], tuple[Tensor, Tensor]]:
    """Batches of two pairs, taken in turn."""

    def draw(number: int) -> tuple[Tensor, Tensor]:
        chosen = [pairs[(number + index) % len(pairs)] for index in range(2)]
        return tuple(torch.stack(side).to(device) for side in zip(*chosen, strict=True))

    return draw


class ToyPairsStage(TrainingStage[ToyPairsConfig, list]):
    """The only stage."""

    def inputs(self) -> Inputs:
        """The config, which names the pictures."""
        return Inputs((self.config,))

    def read(self, log: Log) -> list[tuple[Tensor, Tensor]]:
        """The pairs from ``read_pairs``."""
        return read_pairs(self.config.images)

    def build(self, data: list) -> ToyPairs:
        """A method with a new detector."""
        return ToyPairs(NucleusDetector("muse_compact_16", "dense", 1, N_RAYS))

    def batches(self, data: list, device: torch.device) -> Callable[[int], tuple[Tensor, Tensor]]:
        """The batches from ``draw_pairs``."""
        return draw_pairs(data, device)

    def checkpoint(self, data: list, method: ToyPairs) -> Checkpoint:
        """A checkpoint with the network as a detector."""
        meta = describe_detector(
            detector_config(self.config.name, self.config.schedule),
            ColourReference(method="identity"),
        )
        network = method.trained()
        return Checkpoint(network.backbone.state_dict(), network.head.state_dict(), meta)


@RECIPES.register("toy_pairs")
class ToyPairsRecipe(Recipe):
    """A recipe of one stage."""

    Config = ToyPairsConfig

    def stages(self, config: ToyPairsConfig, folder: Path) -> Sequence[Stage]:
        """The only stage."""
        return (ToyPairsStage(config, folder),)

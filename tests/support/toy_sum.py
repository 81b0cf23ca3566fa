"""A sum of two methods that share a network; the first trains on pairs, the second on pictures and
their half turns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from toy_pairs import ToyPairsConfig, ToyPairsStage, draw_pairs

from muse_pipeline.models.detector import NucleusDetector
from muse_pipeline.training.method import Method, WeightedSum
from muse_pipeline.training.recipe import RECIPES, Recipe, Stage


@dataclass(frozen=True)
class ToySumConfig(ToyPairsConfig):
    """Settings."""

    method: str = "toy_sum"


class HalfTurn(Method):
    """Train the centre map to turn with the picture.

    Args:
        network: the network, shared with the other method.
    """

    def __init__(self, network: NucleusDetector):
        super().__init__()
        self.network = network

    def losses(self, batch: Tensor, turn: str, progress: float) -> dict[str, Tensor]:
        """The loss of a batch of pictures (B, 3, S, S), 0 to 255."""
        colour = torch.eye(3, 4, device=batch.device)
        one, other = (self.network(pixels, colour).centre for pixels in (batch, batch.flip(2, 3)))
        return {"loss": (one - other.flip(2, 3)).square().mean()}

    def trained(self) -> NucleusDetector:
        """The network."""
        return self.network


class ToySumStage(ToyPairsStage):
    """The only stage."""

    def build(self, data: list) -> WeightedSum:
        """Both methods on one network."""
        pairs = super().build(data)
        return WeightedSum(
            {"pairs": pairs, "half turn": HalfTurn(pairs.network)}, {"pairs": 1.0, "half turn": 0.1}
        )

    def batches(self, data: list, device: torch.device) -> Callable[[int], dict[str, Any]]:
        """A batch for each method: the pairs, and their pictures alone for the half turn."""
        draw = draw_pairs(data, device)
        return lambda number: {"pairs": (batch := draw(number)), "half turn": batch[0]}


@RECIPES.register("toy_sum")
class ToySumRecipe(Recipe):
    """A recipe of one stage."""

    Config = ToySumConfig

    def stages(self, config: ToySumConfig, folder: Path) -> Sequence[Stage]:
        """The only stage."""
        return (ToySumStage(config, folder),)

"""PSM's first stage: a network learns to give a window and its half turn the same output (arXiv 2210.07862)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from muse_pipeline.data.unlabelled import Image, UnlabelledSource, UnlabelledWindows, open_unlabelled
from muse_pipeline.methods.detector.config import require_window
from muse_pipeline.methods.psm.config import ActivationSettings
from muse_pipeline.proposals.activation_map import ActivationNetwork
from muse_pipeline.training.checkpoint import Checkpoint, load_checkpoint
from muse_pipeline.training.method import Method
from muse_pipeline.training.run import Inputs, Log, plain_settings
from muse_pipeline.training.stages import TrainingStage


class PriorSelfActivation(Method):
    """Trains a network to give the same output for a window and for the window turned by 180 degrees.

    The loss is the mean of ``|f(x) - f(rot180 x)|``; nothing prevents the trivial solution of a constant f.

    Args:
        network: network with a single output.
    """

    def __init__(self, network: ActivationNetwork):
        super().__init__()
        self.network = network

    def losses(self, batch: Tensor, turn: str, progress: float) -> dict[str, Tensor]:
        """Compute the loss on windows (B, 3, S, S); both orientations share one pass and its batch statistics."""
        output, turned = self.network(torch.cat((batch, batch.flip(2, 3)))).chunk(2)
        return {"loss": (output - turned).abs().mean()}

    def trained(self) -> nn.Module:
        """The network."""
        return self.network


@dataclass(frozen=True, kw_only=True)
class ActivationConfig(ActivationSettings):
    """Settings of the activation stage, in addition to those of ``ActivationSettings``.

    Attributes:
        sources: unlabelled tissue.
        mpp: um per pixel of the network's input.
        seed: seed of weights and windows.
        precision: "32-true" or "bf16-mixed".
    """

    sources: tuple[UnlabelledSource, ...]
    mpp: float = 0.5
    seed: int = 0
    precision: str = "32-true"


class ActivationStage(TrainingStage[ActivationConfig, list[Image]]):
    """Trains the activation network; ``load_activation`` reads its checkpoint."""

    def check(self) -> None:
        """Reject windows that the network does not accept."""
        with torch.device("meta"):
            network = ActivationNetwork(self.config.backbone)
        require_window(self.config.window_px, network.backbone, self.config.backbone)

    def inputs(self) -> Inputs:
        """The sources of tissue."""
        return Inputs(self.config.sources)

    def free_settings(self) -> tuple[str, ...]:
        """Return no settings: none may change."""
        return ()

    def read(self, log: Log) -> list[Image]:
        """Open the tissue."""
        return open_unlabelled(self.config.sources, self.config.mpp)

    def build(self, data: list[Image]) -> PriorSelfActivation:
        """Build a network with random weights."""
        return PriorSelfActivation(ActivationNetwork(self.config.backbone))

    def batches(self, data: list[Image], device: torch.device) -> UnlabelledWindows:
        """Batches of windows without augmentation."""
        return UnlabelledWindows(data, self.config.window_px, self.config.batch, self.config.seed, device)

    def describe(self, data: list[Image], log: Log) -> None:
        """Print a summary of the training data."""
        log(f"{self.config.backbone} on {len(data)} images without labels")

    def checkpoint(self, data: list[Image], method: PriorSelfActivation) -> Checkpoint:
        """Checkpoint of the network."""
        config, network = self.config, method.trained()
        meta = {
            "kind": "activation",
            "backbone": config.backbone,
            "mpp": config.mpp,
            "window_px": config.window_px,
            "config": plain_settings(config, portable=True),
            "colour": None,
        }
        return Checkpoint(network.backbone.state_dict(), network.head.state_dict(), meta)


def load_activation(path: Path) -> ActivationNetwork:
    """Read the network that an ``ActivationStage`` trained, in evaluation mode."""
    checkpoint = load_checkpoint(path)
    network = ActivationNetwork(checkpoint.meta["backbone"])
    network.backbone.load_state_dict(checkpoint.backbone)
    network.head.load_state_dict(checkpoint.head)
    return network.eval()

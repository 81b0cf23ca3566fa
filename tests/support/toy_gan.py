"""A method with two stages and two turns: a generator renders masks, and a reader finds their
nuclei again.

The second stage keeps the generator and the discriminator, but starts a new reader.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from muse_pipeline.core.pictures import list_pictures, read_rgb
from muse_pipeline.inference.card import ColourReference, NucleusClass
from muse_pipeline.methods.detector.config import DetectorConfig, ExportSettings
from muse_pipeline.methods.detector.stage import describe_detector
from muse_pipeline.models.detector import NucleusDetector
from muse_pipeline.training.checkpoint import Checkpoint, load_checkpoint
from muse_pipeline.training.method import Method, Schedule
from muse_pipeline.training.recipe import RECIPES, Recipe, Stage, TrainingStage, stage_folder
from muse_pipeline.training.run import Inputs, Log

SIDE_PX, N_RAYS = 64, 8


@dataclass(frozen=True)
class ToyGanConfig:
    """Settings."""

    name: str
    images: Path
    schedule: Schedule
    seed: int = 0
    precision: str = "32-true"
    method: str = "toy_gan"


@dataclass(frozen=True)
class StageConfig(ToyGanConfig):
    """Settings of a stage; ``start`` is the checkpoint of the previous stage."""

    start: Path | None = None


class ToyGan(Method):
    """Least-squares GAN with a few small convolutions; the reader is a detector."""

    turns = ("generator", "discriminator")

    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1)
        )
        self.discriminator = nn.Sequential(
            nn.Conv2d(3, 8, 4, 2), nn.LeakyReLU(0.2), nn.Conv2d(8, 1, 4, 2)
        )
        self.reader = NucleusDetector("muse_compact_16", "dense", 1, N_RAYS)

    def turn_parameters(self, turn: str) -> Iterator[tuple[str, nn.Parameter]]:
        """The reader is trained in the turn of the generator."""
        for name, parameter in self.named_parameters():
            if name.startswith("discriminator") == (turn == "discriminator"):
                yield name, parameter

    def losses(self, batch: tuple[Tensor, Tensor], turn: str, progress: float) -> dict[str, Tensor]:
        """Losses of a batch of masks (B, 1, S, S), 0 to 1, and pictures (B, 3, S, S), 0 to 255."""
        masks, pictures = batch
        rendered = 255 * self.generator(masks).sigmoid()
        if turn == "discriminator":
            real = self.discriminator(pictures / 255)
            false = self.discriminator(rendered.detach() / 255)
            return {"loss": (real - 1).square().mean() + false.square().mean()}
        deceived = (self.discriminator(rendered / 255) - 1).square().mean()
        logit = self.reader(rendered, torch.eye(3, 4, device=rendered.device)).centre
        read = functional.binary_cross_entropy_with_logits(logit, functional.avg_pool2d(masks, 4))
        return {"loss": deceived + read, "deceived": deceived, "read": read}

    def trained(self) -> NucleusDetector:
        """The reader."""
        return self.reader


class ToyGanStage(TrainingStage[StageConfig, Tensor]):
    """One of the two stages."""

    def inputs(self) -> Inputs:
        """The config, which names the pictures, and the previous stage."""
        return Inputs((self.config,), self.config.start)

    def read(self, log: Log) -> Tensor:
        """The pictures."""
        return read_corners(self.config.images)

    def build(self, data: Tensor) -> ToyGan:
        """A method with a new reader; the other networks come from ``start`` if there is one."""
        method = ToyGan()
        if self.config.start:
            begun = load_checkpoint(self.config.start).networks
            method.generator.load_state_dict(begun["generator"])
            method.discriminator.load_state_dict(begun["discriminator"])
        return method

    def batches(self, data: Tensor, device: torch.device) -> Callable[[int], tuple[Tensor, Tensor]]:
        """Masks of random discs, and the pictures in turn."""
        y, x = torch.meshgrid(torch.arange(SIDE_PX), torch.arange(SIDE_PX), indexing="ij")

        def draw(number: int) -> tuple[Tensor, Tensor]:
            centres = torch.randint(
                8, SIDE_PX - 8, (2, 6, 2), generator=torch.Generator().manual_seed(number)
            )
            distance = torch.hypot(
                (x - centres[..., :1, None]).float(), (y - centres[..., 1:, None]).float()
            )
            masks = (distance < 5).any(1, keepdim=True).float()
            return masks.to(device), data[torch.tensor([number, number + 1]) % len(data)].to(device)

        return draw

    def checkpoint(self, data: Tensor, method: ToyGan) -> Checkpoint:
        """A checkpoint of the reader as a detector, with the other networks as extra weights."""
        others = {"generator": method.generator, "discriminator": method.discriminator}
        return toy_checkpoint(self.config, method.trained(), **others)


def read_corners(folder: Path) -> Tensor:
    """The upper left corner (N, 3, S, S) of each picture of a folder."""
    pixels = [read_rgb(path, "")[:SIDE_PX, :SIDE_PX].copy() for path in list_pictures(folder)]
    return torch.stack([torch.from_numpy(one).permute(2, 0, 1).float() for one in pixels])


def toy_checkpoint(
    config: ToyGanConfig, detector: NucleusDetector, **others: nn.Module
) -> Checkpoint:
    """A checkpoint of the detector of a toy method, with ``others`` as extra weights."""
    settings = DetectorConfig(
        name=config.name,
        backbone="muse_compact_16",
        mpp=0.5,
        classes=(NucleusClass("Nucleus", (128, 64, 192)),),
        sources=(),
        schedule=config.schedule,
        licence="CC0-1.0",
        training_data="drawn discs",
        n_rays=N_RAYS,
        colour="identity",
        export=ExportSettings(input_px=192, capacity=200),
    )
    return Checkpoint(
        detector.backbone.state_dict(),
        detector.head.state_dict(),
        describe_detector(settings, ColourReference(method="identity")),
        {name: network.state_dict() for name, network in others.items()},
    )


@RECIPES.register("toy_gan")
class ToyGanRecipe(Recipe):
    """A recipe of two stages."""

    Config = ToyGanConfig

    def stages(self, config: ToyGanConfig, folder: Path) -> Sequence[Stage]:
        """Two stages, the second of which starts from the first."""
        first = ToyGanStage(
            StageConfig(**vars(config)), stage_folder(folder, 1, "warm-up"), "warm-up"
        )
        again = StageConfig(**vars(config), start=first.result)
        return first, ToyGanStage(again, stage_folder(folder, 2, "reader"), "reader")

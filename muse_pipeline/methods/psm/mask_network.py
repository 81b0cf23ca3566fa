"""PSM's second and last network: masks without labels teach a network that sees many pictures, and so less noise."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from muse_pipeline.core.config import parse_config, require_one_of
from muse_pipeline.core.errors import CheckpointError
from muse_pipeline.core.files import sha256_of
from muse_pipeline.data.mask_windows import MaskBatch, MaskedPicture, MaskWindows
from muse_pipeline.inference.card import ColourReference
from muse_pipeline.inference.colour_input import colour_of_fit
from muse_pipeline.labels.statistics import mean_stains
from muse_pipeline.losses.psm import partial_nll
from muse_pipeline.methods.psm.config import MASK_FOREGROUNDS, VORONOI_WEIGHT, MaskNetworkSettings
from muse_pipeline.methods.psm.masks import read_pictures_and_masks
from muse_pipeline.models.mask_network import MaskNetwork
from muse_pipeline.models.weights import load_weights
from muse_pipeline.proposals.points import PeakRules, find_points, voronoi_label
from muse_pipeline.tissue.stain import ROUNDED_TEXTBOOK, fit_macenko
from muse_pipeline.training.checkpoint import Checkpoint, load_checkpoint
from muse_pipeline.training.ema import AveragedNetwork
from muse_pipeline.training.method import Method
from muse_pipeline.training.provenance import Inputs
from muse_pipeline.training.run import Say, plain_settings
from muse_pipeline.training.stages import MADE_FROM, TrainingStage


class MaskTraining(Method):
    """NLL of the mask plus 1.5 times NLL of the Voronoi label (arXiv 2210.07862); averaged weights leave the run.

    Args:
        network: what is trained.
        mask_fg: "positive", or "ignore": nuclei of the mask are not judged, and only dots of the Voronoi label are
            positive, as in every release of PSM's code.
        voronoi_weight: see above; the term is left out of batches without points.

    Raises:
        ConfigError: ``mask_fg`` is something else.
    """

    def __init__(self, network: MaskNetwork, mask_fg: str = "positive", voronoi_weight: float = VORONOI_WEIGHT):
        super().__init__()
        self.network, self.average = network, AveragedNetwork(network)
        self.mask_fg, self.voronoi_weight = mask_fg, voronoi_weight
        require_one_of(self, "", mask_fg=MASK_FOREGROUNDS)

    def losses(self, batch: MaskBatch, turn: str, progress: float) -> dict[str, Tensor]:
        """Two terms; without points the mask's alone, whose foreground is positive then."""
        logit = self.network(batch.pixels, batch.colour)
        mask = batch.mask
        if self.mask_fg == "ignore" and batch.voronoi is not None:
            mask = torch.where(mask == 1, -torch.ones_like(mask), mask)
        terms = {"mask": partial_nll(logit, mask)}
        if batch.voronoi is not None:
            terms["voronoi"] = partial_nll(logit, batch.voronoi)
        return {"loss": terms["mask"] + self.voronoi_weight * terms.get("voronoi", 0.0), **terms}

    def after_step(self, progress: float) -> None:
        """The average follows."""
        self.average.follow(self.network)

    def trained(self) -> MaskNetwork:
        """The averaged network."""
        return self.average.network


KIND = "mask network"


@dataclass(frozen=True, eq=False)
class TrainedMask:
    """A mask network and the colour that it expects.

    Attributes:
        network: in evaluation mode.
        reference: that pictures are taken to.
    """

    network: MaskNetwork
    reference: ColourReference

    @classmethod
    def load(cls, path: Path) -> TrainedMask:
        """The network in a checkpoint of a ``MaskRound``.

        Raises:
            CheckpointError: the file is missing, damaged or holds something else.
        """
        checkpoint = load_checkpoint(path)
        if checkpoint.meta.get("kind") != KIND:
            raise CheckpointError(f"{path}: holds no mask network; give one of PSM's stage mask-network")
        network = MaskNetwork(checkpoint.meta["backbone"])
        load_weights(network.backbone, checkpoint.backbone, path, always_resample=False)
        network.head.load_state_dict(checkpoint.head)
        return cls(network.eval(), parse_config(checkpoint.meta["colour"], ColourReference, str(path)))

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """(h, w) float32 probability of nucleus in (h, w, 3) uint8, at the mpp of the run."""
        planes = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        colour = colour_of_fit(self.reference, fit_macenko(pixels.reshape(-1, 3)))
        return self.network.probability(planes, torch.from_numpy(colour)).numpy()


@dataclass(frozen=True, kw_only=True)
class MaskRoundConfig(MaskNetworkSettings):
    """The settings of one round.

    Attributes:
        masks: folder of the masks stage.
        previous: checkpoint of the round before, which finds points too; None in the first round.
        mpp: um per pixel of the masks.
        points: what makes a point; None in the first round.
        colour: see ``DetectorSettings``.
        seed: of weights and windows.
    """

    masks: Path
    previous: Path | None = None
    mpp: float = 0.5
    points: PeakRules | None = None
    colour: str = "macenko"
    seed: int = 0


@dataclass(frozen=True, eq=False)
class MaskData:
    """Pictures with their masks, and the colour that they are taken to."""

    pictures: list[MaskedPicture]
    reference: ColourReference


class MaskRound(TrainingStage[MaskRoundConfig, MaskData]):
    """Learns the masks; after a first round also Voronoi labels of the points that the round before finds."""

    def inputs(self) -> Inputs:
        """The masks and the round before."""
        return Inputs(previous=self.config.previous, checksums={"masks": sha256_of(self.config.masks / MADE_FROM)})

    def free_settings(self) -> tuple[str, ...]:
        """None."""
        return ()

    def read(self, say: Say) -> MaskData:
        """Pieces with their colour maps and, after a first round, the Voronoi labels of its points."""
        config = self.config
        pieces = [(pixels, mask) for _, pixels, mask in read_pictures_and_masks(config.masks)]
        fits = [fit_macenko(pixels.reshape(-1, 3)) for pixels, _ in pieces]
        reference = mean_stains(fits, config.colour)
        teacher = TrainedMask.load(config.previous) if config.previous else None
        pictures = []
        for (pixels, mask), fit in zip(pieces, fits, strict=True):
            voronoi = None
            if teacher is not None:
                points = find_points(teacher(pixels), config.mpp, config.points)
                voronoi = voronoi_label(points, mask.shape, config.mpp)
            pictures.append(MaskedPicture(pixels, mask.astype(np.uint8), voronoi, colour_of_fit(reference, fit)))
        return MaskData(pictures, reference)

    def build(self, data: MaskData) -> MaskTraining:
        """A network with random weights, or those of the round before."""
        config = self.config
        network = TrainedMask.load(config.previous).network.train() if config.previous else MaskNetwork(config.backbone)
        return MaskTraining(network.to(memory_format=torch.channels_last), config.mask_fg, config.voronoi_weight)

    def batches(self, data: MaskData, device: torch.device) -> MaskWindows:
        """Augmented windows."""
        config = self.config
        return MaskWindows(
            data.pictures,
            np.array(data.reference.stains or ROUNDED_TEXTBOOK),
            mpp=config.mpp,
            window_px=config.window_px,
            batch=config.batch,
            augmentation=config.augmentation,
            seed=config.seed,
            device=device,
        )

    def describe(self, data: MaskData, say: Say) -> None:
        """Print what is trained on what."""
        points = " and points" if self.config.previous else ""
        say(f"{self.name}: {self.config.backbone} on {len(data.pictures)} masks{points}")

    def checkpoint(self, data: MaskData, method: MaskTraining) -> Checkpoint:
        """The averaged network."""
        config, network = self.config, method.trained()
        meta = {
            "kind": KIND,
            "backbone": config.backbone,
            "mpp": config.mpp,
            "window_px": config.window_px,
            "config": plain_settings(config, portable=True),
            "colour": asdict(data.reference),
        }
        return Checkpoint(network.backbone.state_dict(), network.head.state_dict(), meta)

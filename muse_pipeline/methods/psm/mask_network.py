"""PSM's second and last network: trained on masks without labels, it sees many pictures, and so less noise."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from muse_pipeline.core.config import parse_config, require_one_of
from muse_pipeline.core.coords import CELL_PX
from muse_pipeline.core.errors import CheckpointError
from muse_pipeline.core.files import sha256_of
from muse_pipeline.data.augment import Augmentation, random_linear, vary_appearance
from muse_pipeline.data.stream import seed_of_step
from muse_pipeline.data.windows import cut_windows, draw_centres, read_cells
from muse_pipeline.inference.card import ColourReference
from muse_pipeline.inference.colour_input import colour_of_fit
from muse_pipeline.labels.statistics import mean_stains
from muse_pipeline.losses.psm import partial_nll
from muse_pipeline.methods.psm.config import MASK_FOREGROUNDS, VORONOI_WEIGHT, MaskNetworkSettings
from muse_pipeline.methods.psm.masks import read_pictures_and_masks
from muse_pipeline.models import BACKBONES
from muse_pipeline.models.base import conv_norm
from muse_pipeline.models.weights import load_weights
from muse_pipeline.proposals.points import PeakRules, find_points, voronoi_label
from muse_pipeline.tissue.stain import ROUNDED_TEXTBOOK, fit_macenko
from muse_pipeline.training.checkpoint import Checkpoint, load_checkpoint
from muse_pipeline.training.ema import AveragedNetwork
from muse_pipeline.training.method import Method
from muse_pipeline.training.provenance import Inputs
from muse_pipeline.training.run import Say, plain_settings
from muse_pipeline.training.stages import MADE_FROM, TrainingStage


@dataclass(frozen=True, eq=False)
class MaskedPicture:
    """A picture and the labels of its pixels.

    Attributes:
        pixels: (h, w, 3) uint8.
        mask: (h, w) uint8: 1 nucleus, 0 background, 255 unknown.
        voronoi: (h, w) uint8 likewise (``proposals.points``); None if no points are known yet.
        colour: (3, 4) map in optical density, to the run's reference.
    """

    pixels: np.ndarray
    mask: np.ndarray
    voronoi: np.ndarray | None
    colour: np.ndarray


class MaskBatch(NamedTuple):
    """Batch of B windows.

    Attributes:
        pixels: (B, 3, S, S) float, 0 to 255.
        colour: (B, 3, 4).
        mask: (B, S, S): 1 nucleus, 0 background, -1 unknown or beyond the picture.
        voronoi: (B, S, S) likewise, or None.
    """

    pixels: Tensor
    colour: Tensor
    mask: Tensor
    voronoi: Tensor | None


class MaskWindows:
    """Draws batches; one ``step`` always gives one batch on a CPU.

    Pictures are drawn in proportion to their area.

    Args:
        pictures: pictures at one mpp; all of them with Voronoi labels, or none.
        stains: (2, 3) reference stains, along which colour is varied.
        mpp: um per pixel.
        window_px: side of a window.
        batch: windows per batch.
        augmentation: strength of the variation of windows.
        seed: seed of the run.
        device: device that holds the pictures and makes the windows.
    """

    def __init__(
        self,
        pictures: list[MaskedPicture],
        stains: np.ndarray,
        *,
        mpp: float,
        window_px: int,
        batch: int,
        augmentation: Augmentation,
        seed: int,
        device: torch.device,
    ):
        self.mpp, self.window_px, self.batch = mpp, window_px, batch
        self.augmentation, self.seed = augmentation, seed
        self.sizes = torch.tensor([one.pixels.shape[1::-1] for one in pictures], dtype=torch.float32)
        self.pixels = [torch.from_numpy(one.pixels).permute(2, 0, 1).contiguous().to(device) for one in pictures]
        self.masks = [_shifted(one.mask, device) for one in pictures]
        has_points = all(one.voronoi is not None for one in pictures)
        self.voronoi = [_shifted(one.voronoi, device) for one in pictures] if has_points else None
        self.colours = torch.tensor(np.stack([one.colour for one in pictures]), dtype=torch.float32, device=device)
        self.stains = torch.as_tensor(stains, dtype=torch.float32, device=device)

    def __call__(self, step: int) -> MaskBatch:
        """The batch of ``step``."""
        generator = torch.Generator().manual_seed(seed_of_step(self.seed, step))
        chosen = torch.multinomial(self.sizes.prod(1), self.batch, replacement=True, generator=generator)
        linear = random_linear(self.batch, self.augmentation, generator)
        reach = self.window_px / 2 / torch.linalg.det(linear).abs().sqrt()[:, None]
        whole = torch.cat([torch.zeros_like(self.sizes), self.sizes], 1)[chosen]
        centre = draw_centres(self.sizes[chosen], whole, reach, generator)
        sharp = cut_windows([self.pixels[i] for i in chosen], centre, linear, self.window_px)
        own_colour = self.colours[chosen.to(self.colours.device)]
        pixels, colour = vary_appearance(sharp, own_colour, self.stains, self.mpp, self.augmentation, generator)

        def read(labels: list[Tensor]) -> Tensor:
            return read_cells([labels[i] for i in chosen], centre, linear, self.window_px, 1) - 1

        return MaskBatch(pixels, colour, read(self.masks), self.voronoi and read(self.voronoi))


def _shifted(label: np.ndarray, device: torch.device) -> Tensor:
    """The label plus one, so that unknown (255) is 0, as ``read_cells`` gives beyond a picture."""
    return torch.from_numpy(label.astype(np.uint8) + np.uint8(1)).to(device)


PRIOR = 0.2  # share of nuclei in tissue: where probabilities start


class MaskNetwork(nn.Module):
    """Network in which every cell of the dense map predicts its own 4 x 4 pixels: a light head, no other decoder.

    Args:
        backbone: registered name.
        hidden: channels of the head.
    """

    def __init__(self, backbone: str, hidden: int = 48):
        super().__init__()
        self.backbone = BACKBONES[backbone]()
        self.head = nn.Sequential(
            conv_norm(self.backbone.channels, hidden),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, CELL_PX**2, 1),
            nn.PixelShuffle(CELL_PX),
        )
        nn.init.normal_(self.head[2].weight, std=0.01)
        nn.init.constant_(self.head[2].bias, -math.log(1 / PRIOR - 1))

    def forward(self, pixels: Tensor, colour: Tensor) -> Tensor:
        """(B, 3, H, W) in 0..255 and (3, 4) or (B, 3, 4) -> (B, H, W) float32 logit of nucleus."""
        dense = self.backbone(self.backbone.prepare(pixels, colour)).dense
        return self.head(self.backbone.lattice.at_cells(dense))[:, 0].float()

    @torch.no_grad()
    def probability(self, pixels: Tensor, colour: Tensor) -> Tensor:
        """(H, W), 0 to 1, of one picture (3, H, W) of any size; beyond its border it is continued by its edge."""
        height, width = pixels.shape[1:]
        stride = self.backbone.stride_px
        framed = pad(pixels[None].float(), (0, -width % stride, 0, -height % stride), mode="replicate")
        return self(framed, colour)[0, :height, :width].sigmoid()


class MaskTraining(Method):
    """NLL of the mask plus 1.5 times NLL of the Voronoi label (arXiv 2210.07862), with averaged weights.

    Args:
        network: the network to train.
        mask_fg: "positive", or "ignore": nuclei of the mask are not judged, and only dots of the Voronoi label are
            positive, as in every release of PSM's code.
        voronoi_weight: factor of the second term, which is left out of batches without points.

    Raises:
        ConfigError: ``mask_fg`` has another value.
    """

    def __init__(self, network: MaskNetwork, mask_fg: str = "positive", voronoi_weight: float = VORONOI_WEIGHT):
        super().__init__()
        self.network, self.average = network, AveragedNetwork(network)
        self.mask_fg, self.voronoi_weight = mask_fg, voronoi_weight
        require_one_of(self, "", mask_fg=MASK_FOREGROUNDS)

    def losses(self, batch: MaskBatch, turn: str, progress: float) -> dict[str, Tensor]:
        """Two terms; without points only the mask's, whose foreground is then positive."""
        logit = self.network(batch.pixels, batch.colour)
        mask = batch.mask
        if self.mask_fg == "ignore" and batch.voronoi is not None:
            mask = torch.where(mask == 1, -torch.ones_like(mask), mask)
        terms = {"mask": partial_nll(logit, mask)}
        if batch.voronoi is not None:
            terms["voronoi"] = partial_nll(logit, batch.voronoi)
        return {"loss": terms["mask"] + self.voronoi_weight * terms.get("voronoi", 0.0), **terms}

    def after_step(self, progress: float) -> None:
        """Update the average."""
        self.average.update(self.network)

    def trained(self) -> MaskNetwork:
        """The averaged network."""
        return self.average.network


KIND = "mask network"


@dataclass(frozen=True, eq=False)
class TrainedMask:
    """A mask network and the colour that it expects.

    Attributes:
        network: the network, in evaluation mode.
        reference: reference that pictures are normalised to.
    """

    network: MaskNetwork
    reference: ColourReference

    @classmethod
    def load(cls, path: Path) -> TrainedMask:
        """Load the network in a checkpoint of a ``MaskRound``.

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
        points: rules for points; None in the first round.
        colour: "macenko" or "identity", as in ``DetectorSettings``.
        seed: seed of weights and windows.
    """

    masks: Path
    previous: Path | None = None
    mpp: float = 0.5
    points: PeakRules | None = None
    colour: str = "macenko"
    seed: int = 0


@dataclass(frozen=True, eq=False)
class MaskData:
    """Pictures with their masks, and the colour that they are normalised to."""

    pictures: list[MaskedPicture]
    reference: ColourReference


class MaskRound(TrainingStage[MaskRoundConfig, MaskData]):
    """Learns the masks; after a first round also Voronoi labels of the points that the round before finds."""

    def inputs(self) -> Inputs:
        """The masks and the round before."""
        return Inputs(previous=self.config.previous, checksums={"masks": sha256_of(self.config.masks / MADE_FROM)})

    def free_settings(self) -> tuple[str, ...]:
        """No settings."""
        return ()

    def read(self, say: Say) -> MaskData:
        """Windows with their colour maps and, after a first round, the Voronoi labels of its points."""
        config = self.config
        drawn = [(pixels, mask) for _, pixels, mask in read_pictures_and_masks(config.masks)]
        fits = [fit_macenko(pixels.reshape(-1, 3)) for pixels, _ in drawn]
        reference = mean_stains(fits, config.colour)
        teacher = TrainedMask.load(config.previous) if config.previous else None
        pictures = []
        for (pixels, mask), fit in zip(drawn, fits, strict=True):
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
        """Print a summary of the training data."""
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

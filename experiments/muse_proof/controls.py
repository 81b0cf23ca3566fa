"""Variants of MUSE pretraining: points anywhere, identities shuffled, scales at the ends of their range, no decoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from muse_pipeline.data.augment import seed_of_step
from muse_pipeline.data.nucleus_images import NucleusImage, NucleusIndex
from muse_pipeline.data.views import ViewBatch, ViewBatches, ViewSampler
from muse_pipeline.methods.muse.data import PretrainData
from muse_pipeline.methods.muse.run import MuseStage
from muse_pipeline.models import BACKBONES
from muse_pipeline.models.base import Features
from muse_pipeline.models.compact import CompactNetwork
from muse_pipeline.training.run import Log

ENCODER = "muse_compact_32_encoder"


class RandomPoints(NucleusIndex):
    """Draws nuclei as they are, but has random points in place of those in a box."""

    def inside(self, left: float, top: float, right: float, bottom: float) -> tuple[np.ndarray, np.ndarray]:
        """As many points as there are nuclei; a box always has the same ones."""
        box = np.array([left, top, right, bottom], float)
        numbers, xy = super().inside(*box.tolist())
        generator = np.random.default_rng(box.view(np.uint32))
        return numbers, generator.uniform(box[:2], box[2:], xy.shape)


@dataclass(frozen=True, eq=False)
class RandomPointsImage(NucleusImage):
    """An image with random points.

    Attributes:
        image: the image with its nuclei.
    """

    image: NucleusImage

    @classmethod
    def of(cls, image: NucleusImage) -> RandomPointsImage:
        """Take over what is known of ``image``."""
        return cls(image.name, image.patient, image.mpp, image.size_px, image.stain, image.weight, image)

    @property
    def nuclei(self) -> RandomPoints:
        """The points."""
        return RandomPoints(**vars(self.image.nuclei))

    def read(self, xy: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
        """See ``NucleusImage``."""
        return self.image.read(xy, size)


class RandomPointsStage(MuseStage):
    """Pretrains on points anywhere."""

    def read(self, log: Log) -> PretrainData:
        """The images with random points."""
        data = super().read(log)
        return replace(data, images=[RandomPointsImage.of(image) for image in data.images])


class ShuffledStage(MuseStage):
    """Pretrains on pairs of views in which a nucleus is compared with any other that both show."""

    def batches(self, data: PretrainData, device: torch.device) -> Callable[[int], ViewBatch]:
        """Sets of views whose identities are shuffled in the student's."""
        batches = super().batches(data, device)
        return lambda number: shuffle_identities(batches(number), seed_of_step(self.config.seed, number))


class EndsSampler(ViewSampler):
    """Draws one global view at the finest scale and one at the coarsest, and local views at either."""

    def draw_mpps(self, generator: np.random.Generator) -> np.ndarray:
        """(2 + n_local,) um per pixel of the views of a set."""
        ends = generator.integers(2, size=2 + self.settings.n_local)
        ends[1] = 1 - ends[0]
        return np.array(self.settings.mpp)[ends]


class EndsStage(MuseStage):
    """Pretrains on global views whose scales are as far apart as they can be."""

    def batches(self, data: PretrainData, device: torch.device) -> ViewBatches:
        """Sets of views at the ends of the scales."""
        batches = super().batches(data, device)
        batches.sample = EndsSampler(data.images, self.config.views, self.config.balance)
        return batches


class EndsShuffledStage(ShuffledStage, EndsStage):
    """Likewise, with shuffled identities."""


def shuffle_identities(batch: ViewBatch, seed: int) -> ViewBatch:
    """A batch in which the shared nuclei of every pair of views have changed places in the student's view."""
    generator = torch.Generator().manual_seed(seed)
    student_xy = batch.student_xy.clone()
    for pair, number in np.ndindex(*batch.shared.shape[:2]):
        shared = batch.shared[pair, number].nonzero()[:, 0]
        order = torch.randperm(len(shared), generator=generator).to(shared.device)
        student_xy[pair, number, shared] = batch.student_xy[pair, number, shared[order]]
    return batch._replace(student_xy=student_xy)


class EncoderAlone(CompactNetwork):
    """A compact network whose dense map is that of its deepest stage, enlarged to stride 4."""

    def __init__(self, widths: tuple[int, ...], depths: tuple[int, ...]):
        super().__init__(widths, depths)
        self.decoder = torch.nn.ModuleList()
        self.channels = widths[-1]

    def forward(self, image: Tensor) -> Features:
        """(B, 3, H, W) -> features."""
        *_, deepest = self.stage_maps(image)
        dense = functional.interpolate(deepest, scale_factor=self.stride_px // 4, mode="bilinear")
        return Features(dense, deepest.mean((2, 3)))


def register_encoder() -> None:
    """Make the encoder of ``muse_compact_32`` a backbone that a config may name."""
    BACKBONES.register(ENCODER)(lambda: EncoderAlone((32, 64, 160, 160), (1, 2, 2, 2)))

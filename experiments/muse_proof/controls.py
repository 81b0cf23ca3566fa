"""Variants of MUSE pretraining: random points, shuffled identities, scales at the ends of their
range, no decoder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from experiments.common.training import shuffle_identities
from muse_pipeline.data.augment import seed_of_step
from muse_pipeline.data.nucleus_images import NucleusImage, NucleusIndex
from muse_pipeline.data.views import ViewBatch, ViewBatches, ViewSampler
from muse_pipeline.methods.muse.data import PretrainData
from muse_pipeline.methods.muse.run import MuseStage
from muse_pipeline.models import BACKBONES
from muse_pipeline.models.base import Features
from muse_pipeline.models.encoders import CompactNetwork
from muse_pipeline.training.run import Log

ENCODER = "muse_compact_32_encoder"


class RandomPoints(NucleusIndex):
    """An index that samples nuclei as usual, but replaces the nuclei inside a box by random
    points.
    """

    def inside(
        self, left: float, top: float, right: float, bottom: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Indices of the nuclei in a box, and as many random points, which are always the same for
        a box.
        """
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
        """The image ``image`` with random points."""
        return cls(
            image.name, image.patient, image.mpp, image.size_px, image.stain, image.weight, image
        )

    @property
    def nuclei(self) -> RandomPoints:
        """The index with random points."""
        return RandomPoints(**vars(self.image.nuclei))

    def read(self, xy: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
        """Pixels of the image, as in ``NucleusImage``."""
        return self.image.read(xy, size)


class RandomPointsStage(MuseStage):
    """Pretraining on random points."""

    def read(self, log: Log) -> PretrainData:
        """The data, with random points in the images."""
        data = super().read(log)
        return replace(data, images=[RandomPointsImage.of(image) for image in data.images])


class ShuffledStage(MuseStage):
    """Pretraining on pairs of views in which a nucleus is compared with a random one that both
    views show.
    """

    def batches(self, data: PretrainData, device: torch.device) -> Callable[[int], ViewBatch]:
        """Batches of views; the identities of nuclei are shuffled in the student's views."""
        return partial(_shuffled, super().batches(data, device), self.config.seed)


def _shuffled(batches: ViewBatches, seed: int, number: int) -> ViewBatch:
    return shuffle_identities(batches(number), seed_of_step(seed, number))


class EndsSampler(ViewSampler):
    """A sampler of one global view at the finest and one at the coarsest scale, and of local views
    at either scale.
    """

    def draw_mpps(self, generator: np.random.Generator) -> np.ndarray:
        """Um per pixel (2 + n_local,) of the views of a set."""
        ends = generator.integers(2, size=2 + self.settings.n_local)
        ends[1] = 1 - ends[0]
        return np.array(self.settings.mpp)[ends]


class EndsStage(MuseStage):
    """Pretraining on global views whose scales are as far apart as possible."""

    def batches(self, data: PretrainData, device: torch.device) -> ViewBatches:
        """Batches of views at the ends of the range of scales."""
        batches = super().batches(data, device)
        batches.sample = EndsSampler(data.images, self.config.views, self.config.balance)
        return batches


class EndsShuffledStage(ShuffledStage, EndsStage):
    """Pretraining on views at the ends of the range of scales, with shuffled identities of
    nuclei.
    """


class EncoderAlone(CompactNetwork):
    """A compact network without decoder: its dense map is the map of the deepest stage, enlarged to
    stride 4.
    """

    def __init__(self, widths: tuple[int, ...], depths: tuple[int, ...]):
        super().__init__(widths, depths)
        self.decoder = torch.nn.ModuleList()
        self.channels = widths[-1]

    def forward(self, image: Tensor) -> Features:
        """Features of images (B, 3, H, W)."""
        *_, deepest = self.stage_maps(image)
        dense = functional.interpolate(deepest, scale_factor=self.stride_px // 4, mode="bilinear")
        return Features(dense, deepest.mean((2, 3)))


def register_encoder() -> None:
    """Register the encoder of ``muse_compact_32`` as a backbone that a config may name."""
    BACKBONES.register(ENCODER)(lambda: EncoderAlone((32, 64, 160, 160), (1, 2, 2, 2)))

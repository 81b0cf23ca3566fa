"""Pretraining runs that lack what MUSE is about: points anywhere in place of nuclei, or identities shuffled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from muse_pipeline.data.nucleus_images import NucleusImage, NucleusIndex
from muse_pipeline.data.stream import seed_of_step
from muse_pipeline.data.views import ViewBatch
from muse_pipeline.methods.muse.data import PretrainData
from muse_pipeline.methods.muse.run import MuseStage
from muse_pipeline.training.run import Say


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

    def read(self, say: Say) -> PretrainData:
        """The images with random points."""
        data = super().read(say)
        return replace(data, images=[RandomPointsImage.of(image) for image in data.images])


class ShuffledStage(MuseStage):
    """Pretrains on pairs of views in which a nucleus is compared with any other that both show."""

    def batches(self, data: PretrainData, device: torch.device) -> Callable[[int], ViewBatch]:
        """Sets of views whose identities are shuffled in the student's."""
        batches = super().batches(data, device)
        return lambda number: shuffle_identities(batches(number), seed_of_step(self.config.seed, number))


def shuffle_identities(batch: ViewBatch, seed: int) -> ViewBatch:
    """A batch in which the shared nuclei of every pair of views have changed places in the student's view."""
    generator = torch.Generator().manual_seed(seed)
    student_xy = batch.student_xy.clone()
    for pair, number in np.ndindex(*batch.shared.shape[:2]):
        shared = batch.shared[pair, number].nonzero()[:, 0]
        order = torch.randperm(len(shared), generator=generator).to(shared.device)
        student_xy[pair, number, shared] = batch.student_xy[pair, number, shared[order]]
    return batch._replace(student_xy=student_xy)

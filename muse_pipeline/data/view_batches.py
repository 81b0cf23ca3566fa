"""An endless, seeded stream of batches of views with the nuclei that their pairs share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from muse_pipeline.data.augment import Augmentation, part_way, vary_colour, vary_sharpness
from muse_pipeline.data.nucleus_images import NucleusImage
from muse_pipeline.data.seeds import seed_of_step
from muse_pipeline.data.views import ViewSampler, ViewSet, ViewSettings

LUMINANCE = (0.299, 0.587, 0.114)


class Views(NamedTuple):
    """Views of one size, view by view: those of the first place in each of B sets, then of the second, and so on.

    Attributes:
        pixels: (n * B, 3, R, R) float, 0 to 255.
        colour: (n * B, 3, 4) map in optical density.
    """

    pixels: Tensor
    colour: Tensor


class ViewBatch(NamedTuple):
    """B sets of two global and L local views, and P ordered pairs (teacher's view, student's view) of each set.

    Teachers see the global views, students all: pairs are (0, 1), (0, 2), ..., (1, 0), (1, 2), ..., P = 2 (1 + L).

    Attributes:
        wide: 2 B global views.
        near: L * B local views, None without any.
        teacher_xy: (P, B, M, 2) view px of shared nuclei in the teacher's view.
        student_xy: (P, B, M, 2) in the student's.
        shared: (P, B, M) bool, which entries hold a nucleus.
        octaves: (P, B) |log2| of the ratio of the two views' mpps.
    """

    wide: Views
    near: Views | None
    teacher_xy: Tensor
    student_xy: Tensor
    shared: Tensor
    octaves: Tensor


def ordered_pairs(n_local: int) -> list[tuple[int, int]]:
    """(teacher's view, student's view) of a set, by their numbers."""
    return [(one, other) for one in (0, 1) for other in range(2 + n_local) if other != one]


class ViewBatches:
    """Draws batches; one number always gives one batch, so that a resumed run sees what it would have seen.

    Args:
        images: with at least one nucleus each.
        colours: (N, 3, 4) map in optical density of each image.
        stains: (2, 3) that colours are varied along.
        settings: of views.
        batch: B.
        augmentation: of colour and sharpness; geometry is the views' own.
        seed: of the run.
        device: where batches go.
        balance: see ``ViewSampler``.
        grey: share of views without hue.
    """

    def __init__(
        self,
        images: Sequence[NucleusImage],
        colours: np.ndarray,
        stains: np.ndarray,
        *,
        settings: ViewSettings,
        batch: int,
        augmentation: Augmentation,
        seed: int,
        device: torch.device,
        balance: float = 0.5,
        grey: float = 0.1,
    ):
        self.sample = ViewSampler(images, settings, balance)
        self._colour = {id(image): colour for image, colour in zip(images, colours, strict=True)}
        self._stains = torch.from_numpy(np.asarray(stains, np.float32))
        self.settings, self.batch, self.augmentation, self.seed = settings, batch, augmentation, seed
        self.device, self.grey = device, grey

    def __call__(self, number: int) -> ViewBatch:
        """The batch of ``number``."""
        generator = np.random.default_rng(seed_of_step(self.seed, number))
        sets = [self.sample(generator) for _ in range(self.batch)]
        varied = torch.Generator().manual_seed(seed_of_step(self.seed, number))
        n_local = self.settings.n_local
        near = self._photograph(sets, range(2, 2 + n_local), varied) if n_local else None
        return ViewBatch(self._photograph(sets, range(2), varied), near, *self._match(sets, generator))

    def _photograph(self, sets: Sequence[ViewSet], numbers: Sequence[int], generator: torch.Generator) -> Views:
        """The views ``numbers`` of all sets, each in colours of its own."""
        views = [(one, one.views[number]) for number in numbers for one in sets]
        pixels = torch.from_numpy(np.stack([view.cut(one.image) for one, view in views])).to(self.device)
        colour = torch.from_numpy(np.stack([self._colour[id(one.image)] for one, _ in views]).astype(np.float32))
        least = self.augmentation.partial_colour
        colour = part_way(colour, least + (1 - least) * torch.rand(len(views), generator=generator))
        colour = vary_colour(colour, self._stains, self.augmentation, generator)
        colour = _without_hue(colour, torch.rand(len(views), generator=generator) < self.grey)
        mpp = torch.tensor([view.mpp for _, view in views])
        pixels = vary_sharpness(pixels.permute(0, 3, 1, 2).float(), mpp, self.augmentation, generator)
        return Views(pixels, colour.to(self.device))

    def _match(self, sets: Sequence[ViewSet], generator: np.random.Generator) -> tuple[Tensor, ...]:
        """``teacher_xy``, ``student_xy``, ``shared`` and ``octaves``."""
        pairs, most = ordered_pairs(self.settings.n_local), self.settings.max_matches
        chosen = [[_draw(one.shared(*pair), most, generator) for one in sets] for pair in pairs]
        width = max(1, *(len(numbers) for row in chosen for numbers in row))
        xy = np.zeros((2, len(pairs), len(sets), width, 2), np.float32)
        shared, octaves = np.zeros(xy.shape[1:4], bool), np.zeros(xy.shape[1:3], np.float32)
        for p, (teacher, student) in enumerate(pairs):
            for b, (one, numbers) in enumerate(zip(sets, chosen[p], strict=True)):
                n = len(numbers)
                theirs = generator.permutation(numbers) if self.settings.control == "shuffled identities" else numbers
                xy[0, p, b, :n], xy[1, p, b, :n] = one.placed[teacher, numbers], one.placed[student, theirs]
                shared[p, b, :n] = True
                octaves[p, b] = abs(math.log2(one.views[teacher].mpp / one.views[student].mpp))
        return tuple(torch.from_numpy(part).to(self.device) for part in (*xy, shared, octaves))


def _draw(numbers: np.ndarray, most: int, generator: np.random.Generator) -> np.ndarray:
    return numbers if len(numbers) <= most else np.sort(generator.choice(numbers, most, replace=False))


def _without_hue(colour: Tensor, chosen: Tensor) -> Tensor:
    """Follow the ``chosen`` (B,) maps by the mean of the three densities."""
    mean = colour.new_tensor(LUMINANCE).expand(3, 3) @ colour
    return torch.where(chosen[:, None, None], mean, colour)

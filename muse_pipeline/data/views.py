"""Views: squares of tissue at random mpps, and the nuclei that two of them share (arXiv
2511.05170).

A view is cut from its image in whole pixels, resized to the view's side, mirrored and rotated by
quarter turns. Positions are measured from pixel edges, x in [0, R], so that mirroring turns x into
R - x. Two views share a nucleus if both contain it; nuclei are identified by their index in the
image, and positions are not matched by distance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, NamedTuple, Protocol

import cv2
import numpy as np
import torch
from numpy import ndarray
from numpy.random import Generator
from torch import Tensor

from muse_pipeline.core.config import Between, Count
from muse_pipeline.core.errors import ConfigError
from muse_pipeline.data.augment import (
    Augmentation,
    part_way,
    seed_of_step,
    vary_colour,
    vary_sharpness,
    vary_view_sharpness,
)
from muse_pipeline.data.nucleus_images import NucleusImage

# in units of a view's side: distance of a pivot from the border of a global view, and of a nucleus
# from the centre of a local view
PIVOT_MARGIN, LOCAL_JITTER = 0.1, 0.25
MAX_SIDE_PX = 4096
# by 1, 2 and 3 turns
QUARTER_TURNS = (cv2.ROTATE_90_COUNTERCLOCKWISE, cv2.ROTATE_180, cv2.ROTATE_90_CLOCKWISE)
BORDER_PX = 2  # nuclei closer than this to the border of a view count as outside it


@dataclass(frozen=True)
class ViewSettings:
    """Settings of views and their nuclei.

    Attributes:
        global_px: side of a global view, px.
        local_px: side of a local view, px.
        n_local: number of local views per set, besides the two global ones.
        mpp: (finest, coarsest) um per pixel of views, sampled uniformly for each view.
        min_matches: minimum number of nuclei in both global views; otherwise both are sampled
            again.
        max_matches: maximum number of nuclei compared in a pair of views, sampled from those in
            both.
        draws: maximum number of tries for the two global views.
    """

    global_px: Annotated[int, Between(1, MAX_SIDE_PX)] = 224
    local_px: Annotated[int, Between(1, MAX_SIDE_PX)] = 96
    n_local: Annotated[int, Between(0, 64)] = 4
    mpp: tuple[float, float] = (0.25, 0.5)
    min_matches: Annotated[int, Between(0)] = 4
    max_matches: Count = 64
    draws: Count = 10

    def __post_init__(self) -> None:
        if not 0.01 <= self.mpp[0] <= self.mpp[1] <= 10:
            raise ConfigError(
                f"views: mpp is {list(self.mpp)}; give the finest and the coarsest um/px, as in"
                " [0.25, 0.5]"
            )


@dataclass(frozen=True)
class View:
    """Position, size and orientation of a view in its image."""

    corner: tuple[int, int]  # (x, y) of the top left corner, in whole image px
    side_px: int  # side of the square, in image px
    size_px: int  # R, side of the view
    mirror: bool  # True if left and right are swapped
    turns: int  # quarter turns, counter-clockwise, after mirroring
    image_mpp: float  # um per image px

    @property
    def mpp(self) -> float:
        """Um per pixel of the view."""
        return self.side_px * self.image_mpp / self.size_px

    def view_xy(self, xy: ndarray) -> ndarray:
        """Map image positions (..., 2) to view px."""
        xy = (np.asarray(xy, float) - self.corner) * (self.size_px / self.side_px)
        x, y = xy[..., 0], xy[..., 1]
        if self.mirror:
            x = self.size_px - x
        for _ in range(self.turns):
            x, y = y, self.size_px - x
        return np.stack([x, y], -1)

    def source_xy(self, placed: ndarray) -> ndarray:
        """Map positions (..., 2) in view px to image px; the inverse of ``view_xy``."""
        x, y = np.moveaxis(np.asarray(placed, float), -1, 0)
        for _ in range(self.turns):
            x, y = self.size_px - y, x
        if self.mirror:
            x = self.size_px - x
        return np.stack([x, y], -1) * (self.side_px / self.size_px) + self.corner

    def sees(self, placed: ndarray) -> ndarray:
        """(...) bool: True for positions (..., 2) inside the view, excluding its border."""
        return ((placed >= BORDER_PX) & (placed < self.size_px - BORDER_PX)).all(-1)

    def cut(self, image: NucleusImage) -> ndarray:
        """Cut the pixels (R, R, 3) uint8 of the view."""
        pixels = image.read(self.corner, (self.side_px, self.side_px))
        if self.side_px != self.size_px:
            how = cv2.INTER_AREA if self.side_px > self.size_px else cv2.INTER_CUBIC
            pixels = cv2.resize(pixels, (self.size_px, self.size_px), interpolation=how)
        if self.mirror:
            pixels = cv2.flip(pixels, 1)
        if self.turns:
            return cv2.rotate(pixels, QUARTER_TURNS[self.turns - 1])
        return np.ascontiguousarray(pixels)


@dataclass(frozen=True, eq=False)
class ViewSet:
    """Views of the same tissue: first two global views, then the local ones."""

    image: NucleusImage  # image of the views
    views: tuple[View, ...]  # the V views
    # (V, N, 2) positions, in px of each view, of all nuclei in the box around the global views
    placed: ndarray
    seen: ndarray  # (V, N) bool, True for nuclei inside a view

    @classmethod
    def index(cls, image: NucleusImage, views: Sequence[View], xy: ndarray) -> ViewSet:
        """Build a set from ``views`` and the positions ``xy`` (N, 2) of nuclei, in image px."""
        placed = np.stack([view.view_xy(xy) for view in views])
        seen = np.stack([view.sees(at) for view, at in zip(views, placed, strict=True)])
        return cls(image, tuple(views), placed, seen)

    def read(self) -> tuple[ndarray, ndarray]:
        """Corner (x, y), in image px, and pixels (h, w, 3) uint8 of the smallest box around all
        views.
        """
        corners = np.array([view.corner for view in self.views])
        end = (corners + [[view.side_px] for view in self.views]).max(0)
        corner = corners.min(0)
        return corner, self.image.read(tuple(corner.tolist()), tuple((end - corner).tolist()))

    def shared(self, one: int, other: int) -> ndarray:
        """Indices of the nuclei that both views contain."""
        return np.flatnonzero(self.seen[one] & self.seen[other])


class ViewSampler:
    """Samples sets of views from images with at least one nucleus each.

    An image's weight is multiplied by its area with nuclei to the power ``balance``; 0 ignores the
    area.
    """

    def __init__(
        self, images: Sequence[NucleusImage], settings: ViewSettings, balance: float = 0.5
    ):
        self.images, self.settings = images, settings
        share = np.array(
            [image.weight * len(image.nuclei.occupied) ** balance for image in images], float
        )
        self._share = share / share.sum()

    def __call__(self, generator: Generator) -> ViewSet:
        """Sample a set of views around a random nucleus; the set has no nuclei if its global views
        share too few.
        """
        settings = self.settings
        image = self.images[generator.choice(len(self.images), p=self._share)]
        nuclei = image.nuclei
        for _ in range(settings.draws):
            mpps = generator.uniform(*settings.mpp, 2 + settings.n_local)
            # Both global views contain the pivot, because independent views would hardly ever share
            # a nucleus.
            pivot = nuclei.draw(generator)
            pair = []
            for mpp in mpps[:2]:
                at = PIVOT_MARGIN + (1 - 2 * PIVOT_MARGIN) * generator.random(2)
                pair.append(self._view(image, pivot, at, mpp, settings.global_px, generator))
            corner = np.array([view.corner for view in pair])
            side = np.array([[view.side_px] for view in pair])
            _, xy = nuclei.inside(*corner.min(0).tolist(), *(corner + side).max(0).tolist())
            views = ViewSet.index(image, pair, xy)
            is_enough = len(views.shared(0, 1)) >= settings.min_matches
            if is_enough:
                break
        # Local views lie near nuclei in global views, because only shared nuclei are compared.
        near = xy[views.seen.any(0)] if views.seen.any() else pivot[None]
        local = []
        for mpp in mpps[2:]:
            nucleus = near[generator.integers(len(near))]
            at = 0.5 + LOCAL_JITTER * generator.uniform(-1, 1, 2)
            local.append(self._view(image, nucleus, at, mpp, settings.local_px, generator))
        return ViewSet.index(image, [*pair, *local], xy if is_enough else xy[:0])

    @staticmethod
    def _view(
        image: NucleusImage,
        point: ndarray,
        at: ndarray,
        mpp: float,
        size_px: int,
        generator: Generator,
    ) -> View:
        """A view with ``point`` at the fractions ``at`` of its sides, then moved into the image as
        far as possible.
        """
        side = max(1, round(size_px * mpp / image.mpp))
        last = np.maximum(np.array(image.size_px) - side, 0)
        x, y = np.floor(point - at * side).clip(0, last).astype(int).tolist()
        return View(
            (x, y),
            side,
            size_px,
            bool(generator.integers(2)),
            int(generator.integers(4)),
            image.mpp,
        )


N_AT_ONCE = 64  # views that are cut at once on a device, to limit memory
LUMINANCE = (0.299, 0.587, 0.114)


class Cuts(NamedTuple):
    """Places of V views of one size in the windows of a batch, and the seed of their sharpness."""

    size_px: int  # R, side of the views
    most_px: int  # largest side of a view in its image, in image px
    seed: int  # seed of blur and noise
    # um per pixel of each view; not a tensor, because random numbers are drawn on the CPU
    mpp: tuple[float, ...]
    # (V, 7) int64: index of the window's first pixel, width of the window, x and y of the view's
    # corner in the window, side in image px, mirror, and quarter turns
    places: Tensor

    def cut(self, windows: Tensor, augmentation: Augmentation) -> Tensor:
        """Cut the pixels (V, 3, R, R) uint8 from ``windows`` (N, 3), and vary their sharpness.

        Averages (as of ``cv2.INTER_AREA``) and mirroring are linear along each axis, so all views
        are cut by products of matrices. On a CPU, which uses ``View.cut``, this takes more than
        fifteen times as long.
        """
        pixels = torch.cat([self._cut(windows, part) for part in self.places.split(N_AT_ONCE)])
        generator = torch.Generator().manual_seed(self.seed)
        return (
            vary_sharpness(pixels, torch.tensor(self.mpp), augmentation, generator).round_().byte()
        )

    def _cut(self, windows: Tensor, places: Tensor) -> Tensor:
        """(v, 3, R, R) pixels, 0 to 255, of the views at ``places`` (v, 7)."""
        first, width, x, y, side, mirror, turns = places.T
        pixel = torch.arange(self.most_px, device=windows.device)
        within = pixel.minimum(side[:, None] - 1)  # (v, S)
        rows = first[:, None] + (y[:, None] + within) * width[:, None]
        index = rows[:, :, None] + (x[:, None] + within)[:, None]
        source = windows[index].permute(0, 3, 1, 2).float()  # (v, 3, S, S)
        # (v, R, S) weights along an axis: pixels of views are means over their own width, but at
        # least an image pixel.
        ratio = (side / self.size_px)[:, None, None]
        centre = (torch.arange(self.size_px, device=windows.device)[:, None] + 0.5) * ratio
        half = ratio.clamp(min=1) / 2
        weights = torch.minimum(centre + half, pixel + 1) - torch.maximum(centre - half, pixel)
        weights = weights.clamp(min=0) * (pixel < side[:, None, None])
        weights = weights / weights.sum(2, keepdim=True)
        # Turning is a transposition and up to two reversals.
        is_reversed = (turns == 2) | (turns == 3), (mirror > 0) ^ ((turns == 1) | (turns == 2))
        down, across = (
            torch.where(each[:, None, None], weights.flip(1), weights)[:, None]
            for each in is_reversed
        )
        pixels = down @ source @ across.mT
        return torch.where((turns % 2 > 0)[:, None, None, None], pixels.mT, pixels)


class Views(NamedTuple):
    """Views of one size from B sets: the first view of each set, then the second of each, and so
    on.
    """

    pixels: Tensor | Cuts  # (n * B, 3, R, R) uint8, or their places in ``ViewBatch.windows``
    colour: Tensor  # (n * B, 3, 4) map in optical density


class ViewBatch(NamedTuple):
    """B sets of two global and L local views, with P ordered pairs (teacher's view, student's view)
    per set.

    Teachers get the global views and students all views, so the P = 2 (1 + L) pairs are (0, 1), (0,
    2), ..., (1, 0), (1, 2), ...
    """

    global_views: Views  # 2 B global views
    local_views: Views | None  # L * B local views; None for L = 0
    teacher_xy: Tensor  # (P, B, M, 2) positions of shared nuclei in the teacher's view, in its px
    student_xy: Tensor  # (P, B, M, 2) positions of the same nuclei in the student's view
    shared: Tensor  # (P, B, M) bool, True for entries that contain a nucleus, False for padding
    # (N, 3) uint8 pixels of the sets' windows, one after the other, until views are cut
    windows: Tensor | None = None

    def cut(self, augmentation: Augmentation) -> ViewBatch:
        """The batch with the pixels of all views, cut on the device of the windows; itself if it
        contains them.
        """
        if self.windows is None:
            return self
        wide, near = (
            views and views._replace(pixels=views.pixels.cut(self.windows, augmentation))
            for views in self[:2]
        )
        return self._replace(global_views=wide, local_views=near, windows=None)


def ordered_pairs(n_local: int) -> list[tuple[int, int]]:
    """Pairs (teacher's view, student's view) of a set, as indices of views."""
    return [
        (teacher, other) for teacher in (0, 1) for other in range(2 + n_local) if other != teacher
    ]


class BatchSettings(Protocol):
    """The settings of a run that determine its batches of views."""

    views: ViewSettings  # geometry of views
    batch: int  # sets of views per batch
    augmentation: Augmentation  # strength of the variation of colour and sharpness
    seed: int  # seed of the run
    balance: float  # that of ``ViewSampler``
    grey: float  # share of grey views


class ViewBatches:
    """Samples batches on the CPU that depend only on their index, so that a resumed run gets the
    same ones.

    ``colours`` (N, 3, 4) are the images' maps in optical density, and ``stains`` (2, 3) the
    reference stains along which colour is varied.
    """

    # True to read windows, from which ``ViewBatch.cut`` cuts views with the same distributions
    on_device = False

    def __init__(
        self,
        images: Sequence[NucleusImage],
        colours: ndarray,
        stains: ndarray,
        config: BatchSettings,
    ):
        self.sample = ViewSampler(images, config.views, config.balance)
        self._colour = {image: colour for image, colour in zip(images, colours, strict=True)}
        self._stains = torch.from_numpy(np.asarray(stains, np.float32))
        self.config = config

    def __call__(self, number: int) -> ViewBatch:
        """The batch whose index is ``number``."""
        return self.draw(number)[0]

    def draw(self, number: int) -> tuple[ViewBatch, list[ViewSet]]:
        """Return the batch whose index is ``number``, and its sets of views."""
        config = self.config
        seed = seed_of_step(self.config.seed, number)
        generator = np.random.default_rng(seed)
        varied = torch.Generator().manual_seed(seed)
        sets = [self.sample(generator) for _ in range(config.batch)]
        n_local = config.views.n_local
        colours = [self._draw_colours(sets, n, varied) for n in (2, n_local)]
        pixels, windows = (
            self._plan(sets, varied) if self.on_device else (self._cut(sets, generator), None)
        )
        global_views, local_views = map(Views, pixels, colours)
        tables = self._match(sets, generator)
        return ViewBatch(global_views, local_views if n_local else None, *tables, windows), sets

    def _cut(self, sets: Sequence[ViewSet], generator: Generator) -> tuple[Tensor, Tensor]:
        """Cut the pixels of global and local views, with varied sharpness.

        The views of a set are cut in succession, because they read the same few chunks of a store.
        """
        settings = self.config.views
        sizes = (2, settings.global_px), (settings.n_local, settings.local_px)
        parts = [np.empty((n, len(sets), side, side, 3), np.uint8) for n, side in sizes]
        for number, view_set in enumerate(sets):
            for view, pixels in zip(
                view_set.views, chain(*(part[:, number] for part in parts)), strict=True
            ):
                pixels[:] = vary_view_sharpness(
                    view.cut(view_set.image), view.mpp, self.config.augmentation, generator
                )
        return tuple(torch.from_numpy(part).flatten(0, 1).permute(0, 3, 1, 2) for part in parts)

    def _plan(
        self, sets: Sequence[ViewSet], generator: torch.Generator
    ) -> tuple[list[Cuts], Tensor]:
        """Places of the global and the local views in windows, one for each set, and the pixels of
        the windows.
        """
        corners, windows = zip(*(view_set.read() for view_set in sets), strict=True)
        first = np.cumsum([0, *(pixels.size // 3 for pixels in windows)]).tolist()
        cuts, settings = [], self.config.views
        for numbers, size_px in (
            (range(2), settings.global_px),
            (range(2, 2 + settings.n_local), settings.local_px),
        ):
            views = [
                (b, view_set.views[number]) for number in numbers for b, view_set in enumerate(sets)
            ]
            places = [
                (
                    first[b],
                    windows[b].shape[1],
                    *(view.corner - corners[b]),
                    view.side_px,
                    view.mirror,
                    view.turns,
                )
                for b, view in views
            ]
            most_px = max((view.side_px for _, view in views), default=0)
            mpp = tuple(view.mpp for _, view in views)
            seed = int(torch.randint(2**62, (), generator=generator))
            cuts.append(Cuts(size_px, most_px, seed, mpp, torch.tensor(places)))
        return cuts, torch.from_numpy(np.concatenate([pixels.reshape(-1, 3) for pixels in windows]))

    def _draw_colours(
        self, sets: Sequence[ViewSet], n_views: int, generator: torch.Generator
    ) -> Tensor:
        """(n_views * B, 3, 4) random colour maps, a different one for each of ``n_views`` views of
        every set.
        """
        colour = torch.from_numpy(
            np.stack([self._colour[view_set.image] for view_set in sets]).astype(np.float32)
        )
        colour, n = colour.repeat(n_views, 1, 1), n_views * len(sets)
        least = self.config.augmentation.partial_colour
        colour = part_way(colour, least + (1 - least) * torch.rand(n, generator=generator))
        colour = vary_colour(colour, self._stains, self.config.augmentation, generator)
        # A weighted mean of the three densities is grey.
        grey = colour.new_tensor(LUMINANCE).expand(3, 3) @ colour
        return torch.where(
            (torch.rand(n, generator=generator) < self.config.grey)[:, None, None], grey, colour
        )

    def _match(self, sets: Sequence[ViewSet], generator: Generator) -> tuple[Tensor, ...]:
        """``teacher_xy``, ``student_xy`` and ``shared`` of a ``ViewBatch``."""
        pairs = ordered_pairs(self.config.views.n_local)
        most = self.config.views.max_matches
        chosen = [
            [_draw(view_set.shared(*pair), most, generator) for view_set in sets] for pair in pairs
        ]
        width = max(1, *(len(numbers) for row in chosen for numbers in row))
        xy = np.zeros((2, len(pairs), len(sets), width, 2), np.float32)
        shared = np.zeros(xy.shape[1:4], bool)
        for p, (teacher, student) in enumerate(pairs):
            for b, (view_set, numbers) in enumerate(zip(sets, chosen[p], strict=True)):
                n = len(numbers)
                xy[:, p, b, :n] = view_set.placed[[teacher, student]][:, numbers]
                shared[p, b, :n] = True
        return tuple(torch.from_numpy(part) for part in (*xy, shared))


def _draw(numbers: ndarray, most: int, generator: Generator) -> ndarray:
    if len(numbers) <= most:
        return numbers
    return np.sort(generator.choice(numbers, most, replace=False))

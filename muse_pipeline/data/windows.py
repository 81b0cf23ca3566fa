"""Endless, seeded streams of augmented training windows, of nuclei or regions, from labelled images
in memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

import cv2
import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from muse_pipeline.core.coords import CELL_PX
from muse_pipeline.data.augment import (
    CLASSES_ONLY,
    OTHERS,
    WHITE,
    Augmentation,
    LabelledBatch,
    WeakView,
    move_nuclei,
    part_way,
    random_linear,
    sample_windows,
    seed_of_step,
    vary_appearance,
)
from muse_pipeline.labels.labelled_image import LabelledImage
from muse_pipeline.nuclei.table import Nuclei

DEEP = 255  # maximum distance from the border of a region, px; greater ones are clipped


class WindowSettings(Protocol):
    """The settings of a run that determine its windows."""

    mpp: float  # um per pixel
    window_px: int  # side of a window
    batch: int  # windows per batch
    augmentation: Augmentation  # strength of the variation of windows
    seed: int  # seed of the run


class DrawnWindows(NamedTuple):
    """B random windows of pictures."""

    chosen: Tensor  # (B,) index of each picture
    centre: Tensor  # (B, 2) picture px
    linear: Tensor  # (B, 2, 2) map from picture to window
    sharp: Tensor  # (B, 3, S, S) float, 0 to 255, without variation
    pixels: Tensor  # the same with varied sharpness
    own_colour: Tensor  # (B, 3, 4) colour maps of the pictures
    colour: Tensor  # the same, varied


class PictureWindows:
    """Samples windows that, on a CPU, depend only on their ``step``, so that a resumed run gets the
    same ones.

    Pictures (N, all at the same mpp) have annotated ``boxes`` (N, 4), sampling ``weights`` (N,) and
    colour maps ``colours`` (N, 3, 4); colour is varied along ``stains`` (2, 3).
    """

    def __init__(
        self,
        pictures: Sequence[ndarray],
        boxes: Sequence[tuple[int, ...]],
        weights: Tensor,
        colours: ndarray,
        stains: ndarray,
        settings: WindowSettings,
        device: torch.device,
    ):
        self.settings = settings
        self.weights = weights
        self.device = device
        self.sizes = torch.tensor([one.shape[1::-1] for one in pictures], dtype=torch.float32)
        self.boxes = torch.tensor(boxes, dtype=torch.float32)
        self.pictures = [
            torch.from_numpy(one).permute(2, 0, 1).contiguous().to(device) for one in pictures
        ]
        self.colours = torch.as_tensor(colours, dtype=torch.float32, device=device)
        self.stains = torch.as_tensor(stains, dtype=torch.float32, device=device)

    def draw(self, step: int, around: bool = False, most_reach: float = math.inf) -> DrawnWindows:
        """Draw the windows of ``step``, with centres as ``draw_centres`` places ``around`` them and
        with a reach of ``most_reach`` at most.
        """
        settings = self.settings
        generator = torch.Generator().manual_seed(seed_of_step(settings.seed, step))
        chosen = torch.multinomial(
            self.weights, settings.batch, replacement=True, generator=generator
        )
        linear = random_linear(settings.batch, settings.augmentation, generator)
        reach = settings.window_px / 2 / torch.linalg.det(linear).abs().sqrt()[:, None]
        centre = draw_centres(
            self.sizes[chosen], self.boxes[chosen], reach.clamp(max=most_reach), generator, around
        )
        sharp = cut_windows([self.pictures[i] for i in chosen], centre, linear, settings.window_px)
        own_colour = self.colours[chosen.to(self.device)]
        pixels, colour = vary_appearance(
            sharp, own_colour, self.stains, settings.mpp, settings.augmentation, generator
        )
        return DrawnWindows(chosen, centre, linear, sharp, pixels, own_colour, colour)


class LabelledWindows(PictureWindows):
    """Batches of windows of labelled images.

    With ``weak_view``, batches contain windows for a teacher too; ``around`` is that of
    ``draw_centres``.
    """

    def __init__(
        self,
        images: list[LabelledImage],
        colours: ndarray,
        stains: ndarray,
        settings: WindowSettings,
        device: torch.device,
        weak_view: bool = False,
        around: bool = False,
    ):
        super().__init__(
            [image.pixels for image in images],
            [image.annotated_box for image in images],
            torch.tensor([image.weight for image in images]),
            colours,
            stains,
            settings,
            device,
        )
        self.weak_view, self.around = weak_view, around
        has_regions = any(image.region is not None for image in images)
        self.depths = (
            [torch.from_numpy(_depth(image)).to(device) for image in images]
            if has_regions
            else None
        )
        self.nuclei = NucleiStack([image.nuclei for image in images], device)

    def __call__(self, step: int) -> LabelledBatch:
        """The batch of ``step``."""
        drawn, settings = self.draw(step, self.around), self.settings
        view = (part.to(self.device) for part in drawn[:3])
        xy, label, rays, shares = self.nuclei.move(*view, settings.window_px)
        batch = LabelledBatch(
            drawn.pixels, drawn.colour, xy, label, rays, shares=shares if shares.shape[2] else None
        )
        if self.depths is not None:
            depths = [self.depths[i] for i in drawn.chosen]
            n_cells = settings.window_px // CELL_PX
            depth = read_window_cells(depths, drawn.centre, drawn.linear, n_cells)
            # Values below 0 are codes, not depths, and are kept.
            batch = batch._replace(region=torch.where(depth > 0, depth * settings.mpp, depth))
        if self.weak_view:
            middle = torch.full((settings.batch,), (1 + settings.augmentation.partial_colour) / 2)
            batch = batch._replace(weak=WeakView(drawn.sharp, part_way(drawn.own_colour, middle)))
        return batch


def _depth(image: LabelledImage) -> ndarray:
    """(h, w) int16: in the region, the distance to its border in px, at least 1; the picture's
    border does not count.

    The value is 0 outside annotations and ``OTHERS`` in regions whose nuclei are in other images;
    in class areas, it is ``CLASSES_ONLY`` instead of a distance.
    """
    if image.areas:
        others = np.where(image.unannotated, 0, OTHERS)
        return np.where(image.region, CLASSES_ONLY, others).astype(np.int16)
    if image.region is None or image.region.all():
        return np.full(image.pixels.shape[:2], DEEP, np.int16)
    distance = cv2.distanceTransform(
        image.region.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE
    )
    depth = distance.clip(0, DEEP).astype(np.int16)
    depth[~image.region & ~image.unannotated] = OTHERS
    return depth


def draw_centres(
    size: Tensor, region: Tensor, reach: Tensor, generator: torch.Generator, around: bool = False
) -> Tensor:
    """Sample the centres (B, 2) of windows uniformly, in picture px, on pictures of ``size`` (B,
    2), width and height.

    The whole annotated region may lie anywhere in a window (MUSE's large field of view) or, if the
    region is larger than a window, the window anywhere in the region; with ``around``, windows may
    also reach over its border. Windows stay within the picture as far as possible. ``region`` (B,
    4) is left, top, right, bottom of the region's bounding box, and ``reach`` (B, 1) half the side
    of a window, both in picture px.
    """
    middle = (region[:, :2] + region[:, 2:]) / 2
    half = (region[:, 2:] - region[:, :2]) / 2
    # The centre may move by |reach - half|, so that either the region or the window contains the
    # other.
    freedom = (reach - half).abs()
    if around:
        freedom = torch.maximum(freedom, half)
    nearest = torch.minimum(reach, size / 2)
    low, high = (
        torch.maximum(torch.minimum(at, size - nearest), nearest)
        for at in (middle - freedom, middle + freedom)
    )
    return low + torch.rand(low.shape, generator=generator) * (high - low)


def cut_windows(pictures: list[Tensor], centre: Tensor, linear: Tensor, size_px: int) -> Tensor:
    """Like ``sample_windows``, for uint8 pictures of different sizes; only the part in a window is
    made float.

    ``linear`` (B, 2, 2), which maps pictures to windows, and ``centre`` (B, 2) are on the CPU.
    """
    back = torch.linalg.inv(linear)
    # Half the sides of the bounding box of a rotated window.
    half = size_px / 2 * back.abs().sum(2) + 2  # (B, 2), with a margin for interpolation
    low = (centre - half).floor().clamp(min=0)
    high = (centre + half).ceil()
    device = pictures[0].device
    # copied once for all windows
    middles = (centre - low)[:, None].to(device)
    maps = back[:, None].to(device)
    windows = []
    for picture, middle, matrix, first, last in zip(
        pictures, middles, maps, low.int().tolist(), high.int().tolist(), strict=True
    ):
        (left, top), (right, bottom) = first, last
        crop = picture[:, top : max(bottom, 0), left : max(right, 0)]
        if not crop.numel():
            crop = picture.new_full((3, 1, 1), int(WHITE))
        windows.append(sample_windows(crop[None].float(), middle, matrix, size_px))
    return torch.cat(windows)


def read_window_cells(maps: list[Tensor], centre: Tensor, linear: Tensor, cells: int) -> Tensor:
    """Read maps (h, w) of B pictures at the centres of N = ``cells`` cells per side: (B, N, N)
    float, 0 outside.

    ``centre`` (B, 2) and ``linear`` (B, 2, 2) are those of ``cut_windows``.
    """
    axis = (torch.arange(cells) + 0.5 - cells / 2) * CELL_PX
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)  # (N, N, 2)
    source = torch.einsum("bij,hwj->bhwi", torch.linalg.inv(linear), grid) + centre[:, None, None]
    column, row = source.floor().long().unbind(-1)
    read = []
    for values, x, y in zip(maps, column.to(maps[0].device), row.to(maps[0].device), strict=True):
        height, width = values.shape
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        read.append(values[y.clamp(0, height - 1), x.clamp(0, width - 1)].float() * inside)
    return torch.stack(read)


FAR = -1e6
NEAR_PX = 8  # nuclei up to this far beyond a window's border affect its cells


class NucleiStack:
    """The T nuclei of N pictures, concatenated without padding."""

    def __init__(self, pictures: list[Nuclei], device: torch.device):
        xy, label, rays = (
            torch.from_numpy(np.concatenate([getattr(nuclei, name) for nuclei in pictures])).to(
                device
            )
            for name in ("xy", "label", "rays")
        )
        self.n = torch.tensor([len(nuclei) for nuclei in pictures], device=device)  # (N,)
        self.first = self.n.cumsum(0) - self.n  # (N,) index of the first nucleus of each picture
        # (T, 2) picture px; (T,) class index, -1 if unknown; (T, R) um, NaN if unknown
        self.xy = xy.float()
        self.label = label.long()
        self.rays = rays
        n_classes = max(nuclei.prob.shape[1] for nuclei in pictures)
        rows = [
            nuclei.prob if nuclei.prob.size else np.zeros((len(nuclei), n_classes))
            for nuclei in pictures
        ]
        # (T, C) expected class shares, 0 for nuclei outside class areas; (T, 0) if no picture has
        # areas
        self.shares = torch.from_numpy(np.concatenate(rows)).float().to(device)

    def move(
        self, chosen: Tensor, centre: Tensor, linear: Tensor, size_px: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the nuclei in and close to each window, padded to the number in the fullest
        window, M'.

        The B windows lie on the pictures ``chosen``; ``centre`` and ``linear`` are those of
        ``cut_windows``. The result is xy (B, M', 2) in window px, -1e6 for padding; label (B, M');
        rays (B, M', R); shares (B, M', C).
        """
        window, rank = _number(self.n[chosen])
        row = self.first[chosen][window] + rank
        moved = (
            torch.einsum("tij,tj->ti", linear[window], self.xy[row] - centre[window]) + size_px / 2
        )
        inside = ((moved > -NEAR_PX) & (moved < size_px + NEAR_PX)).all(1)
        row = row[inside]
        n_inside = torch.bincount(window[inside], minlength=len(chosen))
        at = _number(n_inside)
        shape = len(chosen), max(int(n_inside.max()), 1)
        xy = torch.full((*shape, 2), FAR, device=row.device)
        label = torch.full(shape, -1, device=row.device)
        rays = torch.full((*shape, self.rays.shape[1]), torch.nan, device=row.device)
        xy[at], label[at], rays[at] = moved[inside], self.label[row], self.rays[row]
        shares = torch.zeros((*shape, self.shares.shape[1]), device=row.device)
        shares[at] = self.shares[row]
        rays = move_nuclei(xy, rays, centre, linear, size_px)[1]  # only for nuclei that are kept
        return xy, label, rays, shares


def _number(n: Tensor) -> tuple[Tensor, Tensor]:
    """For groups of ``n`` (B,) members, the group (n.sum(),) of each member, and the member's index
    in its group.
    """
    group = torch.arange(len(n), device=n.device).repeat_interleave(n)
    return group, torch.arange(len(group), device=n.device) - (n.cumsum(0) - n)[group]


# labels this close to a seam are ignored, because nuclei cut by it continue as mirror images
SEAM_UM = 3.0


def continue_mirrored(image: LabelledImage, window_px: int, mpp: float) -> LabelledImage:
    """Extend a picture that is smaller than a window by mirror images to its right and below it.

    Pixels within 3 um of a seam or of the original border do not count as annotated. Larger
    pictures are unchanged.
    """
    height, width = image.pixels.shape[:2]
    if min(width, height) >= window_px:
        return image
    repeats_x, repeats_y = (-(-window_px // side) for side in (width, height))
    to_right, below = width * (repeats_x - 1), height * (repeats_y - 1)
    region = np.ones((height, width), bool) if image.region is None else image.region.copy()
    seam = int(np.ceil(SEAM_UM / mpp))
    region[:seam] = region[-seam:] = region[:, :seam] = region[:, -seam:] = False
    pixels, region = (
        cv2.copyMakeBorder(array, 0, below, 0, to_right, cv2.BORDER_REFLECT)
        for array in (image.pixels, region.astype(np.uint8))
    )
    mosaic = (width, height), (repeats_x, repeats_y)
    return replace(
        image,
        pixels=pixels,
        region=region > 0,
        annotated=None,
        nuclei=_repeat(image.nuclei, *mosaic),
    )


def _repeat(nuclei: Nuclei, size_px: tuple[int, int], repeats: tuple[int, int]) -> Nuclei:
    """The nuclei of a picture and its mirror images, which are reversed in every second column and
    row.
    """
    size, parts = np.array(size_px), []
    xy = torch.from_numpy(nuclei.xy).float()[None]
    rays = torch.from_numpy(nuclei.rays)[None]
    for row, column in np.ndindex(repeats[1], repeats[0]):
        flip = torch.diag(torch.tensor([1.0 - 2 * (column % 2), 1.0 - 2 * (row % 2)]))[None]
        moved, turned = move_nuclei(xy, rays, torch.from_numpy(size / 2).float()[None], flip, 0)
        middle = (np.array([column, row]) + 0.5) * size
        parts.append(replace(nuclei, xy=moved[0].numpy() + middle, rays=turned[0].numpy()))
    return Nuclei.concatenate(parts)

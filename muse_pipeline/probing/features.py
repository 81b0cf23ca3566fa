"""Features of nuclei whose positions alone are given, in plain, mirrored, turned or restained views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from muse_pipeline.data.labelled_points import BATCH, PointBatch
from muse_pipeline.data.nucleus_images import NucleusImage, NucleusIndex
from muse_pipeline.data.views import View
from muse_pipeline.models.base import Backbone
from muse_pipeline.tissue.stain import ROUNDED_TEXTBOOK


@dataclass(frozen=True)
class Variation:
    """Scale, orientation and stain in which nuclei are read.

    Attributes:
        mpp: um per pixel.
        mirror: whether left and right are swapped.
        turns: quarter turns.
        stain: factors of haematoxylin and eosin, as if another laboratory had stained.
    """

    mpp: float
    mirror: bool = False
    turns: int = 0
    stain: tuple[float, float] = (1.0, 1.0)


def choose_nuclei(index: NucleusIndex, field_px: float, most: int, generator: np.random.Generator) -> np.ndarray:
    """(n, 2) px of up to ``most`` nuclei, field by field: fields with nuclei are drawn until they hold enough.

    Args:
        index: index of an image.
        field_px: side of a field.
        most: largest number of nuclei.
        generator: generator of the random draw.
    """
    if len(index.xy) <= most:
        return np.asarray(index.xy, float)
    fields: dict[tuple[float, ...], np.ndarray] = {}
    for _ in range(most):
        corner = tuple(np.floor(index.draw(generator) / field_px) * field_px)
        if corner not in fields:
            fields[corner] = index.inside(*corner, corner[0] + field_px, corner[1] + field_px)[1]
        if sum(map(len, fields.values())) >= most:
            break
    return np.concatenate(list(fields.values()))[:most]


@torch.no_grad()
def nucleus_features(
    backbone: Backbone,
    image: NucleusImage,
    xy: np.ndarray,
    variation: Variation,
    colour: np.ndarray,
    window_px: int,
    device: torch.device,
) -> Tensor:
    """Features of nuclei, (n, D) float32 on the CPU.

    Every nucleus is read from a window whose central half it lies in, as far as the image reaches.

    Args:
        backbone: the network, on ``device``.
        image: image of the nuclei.
        xy: (n, 2) image px.
        variation: scale, orientation and stain of the views.
        colour: (3, 4) map in optical density of the image.
        window_px: side of a window.
        device: device of the backbone.
    """
    backbone.eval()
    mapped = torch.from_numpy((colour @ _homogeneous(stain_change(variation.stain))).astype(np.float32))
    views, member = _views(image, xy, variation, window_px)
    features = None
    for first in range(0, len(views), BATCH):
        numbers = [np.flatnonzero(member == index) for index in range(first, min(first + BATCH, len(views)))]
        some = views[first : first + BATCH]
        batch = _batch(image, some, [xy[of] for of in numbers], mapped, device)
        read = batch.features(backbone).float().cpu()
        features = read.new_zeros((len(xy), read.shape[1])) if features is None else features
        features[np.concatenate(numbers)] = read
    return features


def stain_change(factors: Sequence[float]) -> np.ndarray:
    """(3, 3) map in optical density that makes haematoxylin and eosin stronger by these factors."""
    stains = np.array(ROUNDED_TEXTBOOK)
    basis = np.stack([*stains, np.cross(*stains)], 1)
    return basis @ np.diag([*factors, 1.0]) @ np.linalg.inv(basis)


def _homogeneous(linear: np.ndarray) -> np.ndarray:
    """(4, 4) form of a linear map, which can stand before a (3, 4) map."""
    return np.block([[linear, np.zeros((3, 1))], [np.zeros((1, 3)), np.ones((1, 1))]])


def _views(image: NucleusImage, xy: np.ndarray, variation: Variation, window_px: int) -> tuple[list[View], np.ndarray]:
    """The windows, and (n,) index of the window that shows each nucleus."""
    side = max(2, round(window_px * variation.mpp / image.mpp))
    corners = np.floor(xy / (side / 2)) * (side / 2) - side / 4
    corners = np.floor(corners.clip(0, np.maximum(np.array(image.size_px) - side, 0))).astype(int)
    unique, member = np.unique(corners, axis=0, return_inverse=True)
    views = [View((x, y), side, window_px, variation.mirror, variation.turns, image.mpp) for x, y in unique.tolist()]
    return views, member.ravel()


def _batch(
    image: NucleusImage, views: Sequence[View], xy: Sequence[np.ndarray], colour: Tensor, device: torch.device
) -> PointBatch:
    most = max(map(len, xy))
    placed, there = np.zeros((len(views), most, 2), np.float32), np.full((len(views), most), -1)
    for row, (view, of) in enumerate(zip(views, xy, strict=True)):
        placed[row, : len(of)], there[row, : len(of)] = view.view_xy(of), 0
    pixels = torch.from_numpy(np.stack([view.cut(image) for view in views])).to(device)
    return PointBatch(
        pixels.permute(0, 3, 1, 2).float(),
        colour.to(device).expand(len(views), 3, 4),
        torch.from_numpy(placed).to(device),
        torch.from_numpy(there).to(device),
    )

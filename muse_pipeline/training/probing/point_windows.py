"""Windows around labelled points, as MUSE's authors cut their evaluation sets.

The annotated area is tiled with cells of 224 px that do not overlap; a window of 224, 512 or 1,024 px lies centred on
each cell that holds a nucleus, and its labels are those of the cell; smaller windows have cells of their own size. At
the edge of a picture, where the authors read on in the slide, a window is moved inside; where the picture is smaller
than the window, it is continued by reflection. The authors' truncation of positions to whole pixels is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from muse_pipeline.data.labelled_image import LabelledImage

AUTHORS_CELL_PX = 224


@dataclass(frozen=True, eq=False)
class PointWindow:
    """One window.

    Attributes:
        image: index of its picture.
        origin: (x, y) of its corner in the picture; negative where the picture is too small.
        xy: (M, 2) float32 nuclei in window px.
        label: (M,) class index, never -1.
    """

    image: int
    origin: tuple[int, int]
    xy: np.ndarray
    label: np.ndarray


def cut_point_windows(images: Sequence[LabelledImage], window_px: int) -> list[PointWindow]:
    """Windows of ``window_px`` over every nucleus of known class, each in exactly one of them."""
    return [window for index, image in enumerate(images) for window in _cut(index, image, window_px)]


def _cut(index: int, image: LabelledImage, window_px: int) -> list[PointWindow]:
    nuclei = image.nuclei[image.nuclei.label >= 0]
    if not len(nuclei):
        return []
    start, size_px = np.array(image.annotated_box[:2]), np.array(image.pixels.shape[1::-1])
    cell_px = min(AUTHORS_CELL_PX, window_px)  # a smaller window would not hold the nuclei of its cell
    cells = np.floor((nuclei.xy - start) / cell_px).astype(int)
    origins = start + cells * cell_px + (cell_px - window_px) // 2
    origins = np.clip(origins, 0, np.maximum(size_px - window_px, 0))
    origins = np.where(size_px < window_px, (size_px - window_px) // 2, origins)
    unique, member = np.unique(origins, axis=0, return_inverse=True)  # cells whose windows coincide share one
    member = member.ravel()
    return [
        PointWindow(
            index, (int(x), int(y)), (nuclei.xy[member == n] - (x, y)).astype(np.float32), nuclei.label[member == n]
        )
        for n, (x, y) in enumerate(unique)
    ]


def read_window(image: LabelledImage, window: PointWindow, window_px: int) -> np.ndarray:
    """(window_px, window_px, 3) uint8 of its picture."""
    x, y = window.origin
    left, top = max(-x, 0), max(-y, 0)
    pixels = image.pixels[max(y, 0) : y + window_px, max(x, 0) : x + window_px]
    below, right = window_px - top - pixels.shape[0], window_px - left - pixels.shape[1]
    if not (top or left or below or right):
        return pixels
    return np.pad(pixels, ((top, below), (left, right), (0, 0)), mode="reflect")


def largest_reflection(windows: Sequence[PointWindow]) -> int:
    """The widest strip, in px, that any window adds to its picture by reflection."""
    return max((max(0, -window.origin[0], -window.origin[1]) for window in windows), default=0)

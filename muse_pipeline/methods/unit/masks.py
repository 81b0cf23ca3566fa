"""The mask domain: windows of synthesised masks as network inputs, with their nuclei."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from muse_pipeline.data.windows import FAR, NEAR_PX
from muse_pipeline.methods.unit.synthesis.masks import InstanceMask, fills, stylise
from muse_pipeline.nuclei.masks import label_image_to_nuclei
from muse_pipeline.nuclei.table import Nuclei


class MaskWindows(NamedTuple):
    """B windows and their nuclei, those just beyond the border included, padded to the fullest window.

    Attributes:
        pictures: (B, 3, S, S) float32, -1 to 1, in the colours of ``synthesis.masks``.
        xy: (B, M, 2) float32 window px; padding lies at -1e6.
        rays: (B, M, R) float32 um, to the inner edge of the contour, NaN for padding.
        label: (B, M) int64, 0, and -1 for padding.
    """

    pictures: np.ndarray
    xy: np.ndarray
    rays: np.ndarray
    label: np.ndarray


class MaskDomain:
    """Draws windows of masks, turned and mirrored; one ``step`` always gives the same windows.

    Args:
        masks: masks at least as large as windows.
        mpp: um per pixel.
        window_px: side of a window.
        n_rays: rays per nucleus, a multiple of 4, so that turns move rays to rays.
        seed: seed of the run.
    """

    def __init__(self, masks: Sequence[InstanceMask], *, mpp: float, window_px: int, n_rays: int, seed: int):
        self.masks, self.mpp, self.window_px, self.n_rays, self.seed = masks, mpp, window_px, n_rays, seed
        self.turned = _ray_permutations(n_rays)
        self._nuclei: dict[int, Nuclei] = {}

    def __call__(self, step: int, batch: int) -> MaskWindows:
        """The ``batch`` windows of a step, drawn independently of the other domain."""
        rng = np.random.default_rng((self.seed, step))
        pictures, xy, rays = zip(*(self._draw(rng) for _ in range(batch)), strict=True)
        most = max(1, *map(len, xy))
        padded_xy = np.full((batch, most, 2), FAR, np.float32)
        padded_rays = np.full((batch, most, self.turned.shape[1]), np.nan, np.float32)
        label = np.full((batch, most), -1, np.int64)
        for index, (centres, radii) in enumerate(zip(xy, rays, strict=True)):
            padded_xy[index, : len(centres)], padded_rays[index, : len(centres)] = centres, radii
            label[index, : len(centres)] = 0
        return MaskWindows(np.stack(pictures), padded_xy, padded_rays, label)

    def nuclei(self, index: int) -> Nuclei:
        """The fills of a mask, measured at their first use: 10 ms for a mask of 320 px."""
        if index not in self._nuclei:
            instances = fills(self.masks[index].instances)
            self._nuclei[index] = label_image_to_nuclei(instances, (self.mpp, self.mpp), self.n_rays)
        return self._nuclei[index]

    def _draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        index = int(rng.integers(len(self.masks)))
        mask, nuclei = self.masks[index], self.nuclei(index)
        height, width = mask.instances.shape
        top, left = (rng.integers(side - self.window_px + 1) for side in (height, width))
        window = mask.instances[top : top + self.window_px, left : left + self.window_px]
        xy = nuclei.xy - (left, top)
        inside = ((xy >= -NEAR_PX) & (xy < self.window_px + NEAR_PX)).all(1)
        turn = rng.integers(8)
        picture = stylise(InstanceMask(turn_picture(window, turn), mask.kinds), self.mpp, rng)
        picture = (picture.transpose(2, 0, 1).astype(np.float32) - 127.5) / 127.5
        return picture, turn_xy(xy[inside], turn, self.window_px), nuclei.rays[inside][:, self.turned[turn]]


def turn_picture(picture: np.ndarray, turn: int) -> np.ndarray:
    """Apply one of the 8 turns to (h, w): bit 0 mirrors x, bit 1 mirrors y, bit 2 then swaps both."""
    picture = picture[:: -1 if turn & 2 else 1, :: -1 if turn & 1 else 1]
    return np.ascontiguousarray(picture.T if turn & 4 else picture)


def turn_xy(xy: np.ndarray, turn: int, size_px: int) -> np.ndarray:
    """Move positions (N, 2) as ``turn_picture`` does in a square window."""
    xy = np.where([bool(turn & 1), bool(turn & 2)], size_px - xy, xy)
    return xy[:, ::-1] if turn & 4 else xy


def _ray_permutations(n_rays: int) -> np.ndarray:
    """(8, R): for every turn, the ray that becomes the k-th."""
    rays = []
    for turn in range(8):
        k = np.arange(n_rays)
        k = n_rays // 4 - k if turn & 4 else k
        k = -k if turn & 2 else k
        k = n_rays // 2 - k if turn & 1 else k
        rays.append(k % n_rays)
    return np.array(rays)

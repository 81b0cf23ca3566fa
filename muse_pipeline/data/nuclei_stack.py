"""The nuclei of many pictures as tensors on the training device, and those that a batch of windows shows."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from muse_pipeline.data.augment import move_nuclei
from muse_pipeline.nuclei.table import Nuclei

FAR = -1e6
NEAR_PX = 8  # beyond a window's border, where a nucleus still darkens its cells


class NucleiStack:
    """The nuclei of N pictures, one picture after the other: T of them, however many the fullest picture holds.

    Attributes:
        n: (N,) nuclei of each picture.
        first: (N,) where they begin.
        xy: (T, 2) picture px.
        label: (T,), -1 unknown.
        rays: (T, R) um, NaN unknown.
    """

    def __init__(self, pictures: list[Nuclei], device: torch.device):
        xy, label, rays = (
            torch.from_numpy(np.concatenate([getattr(nuclei, name) for nuclei in pictures])).to(device)
            for name in ("xy", "label", "rays")
        )
        self.n = torch.tensor([len(nuclei) for nuclei in pictures], device=device)
        self.first = self.n.cumsum(0) - self.n
        self.xy, self.label, self.rays = xy.float(), label.long(), rays

    def move(self, chosen: Tensor, centre: Tensor, linear: Tensor, size_px: int) -> tuple[Tensor, Tensor, Tensor]:
        """The nuclei in windows or within a few px of them, padded to the fullest window.

        Args:
            chosen: (B,) picture of each window.
            centre: (B, 2) picture px.
            linear: (B, 2, 2) picture -> window.
            size_px: side of a window.

        Returns:
            xy (B, M', 2) window px, -1e6 where nothing is; label (B, M'); rays (B, M', R).
        """
        window, place = _number(self.n[chosen])
        row = self.first[chosen][window] + place
        moved = torch.einsum("tij,tj->ti", linear[window], self.xy[row] - centre[window]) + size_px / 2
        inside = ((moved > -NEAR_PX) & (moved < size_px + NEAR_PX)).all(1)
        row, n_inside = row[inside], torch.bincount(window[inside], minlength=len(chosen))
        at = _number(n_inside)
        shape = len(chosen), max(int(n_inside.max()), 1)
        xy = torch.full((*shape, 2), FAR, device=row.device)
        label = torch.full(shape, -1, device=row.device)
        rays = torch.full((*shape, self.rays.shape[1]), torch.nan, device=row.device)
        xy[at], label[at], rays[at] = moved[inside], self.label[row], self.rays[row]
        return xy, label, move_nuclei(xy, rays, centre, linear, size_px)[1]  # rays of those alone that are seen


def _number(n: Tensor) -> tuple[Tensor, Tensor]:
    """Of ``n`` (B,) members each: the group (n.sum(),) of every member, and its number in the group."""
    group = torch.arange(len(n), device=n.device).repeat_interleave(n)
    return group, torch.arange(len(group), device=n.device) - (n.cumsum(0) - n)[group]

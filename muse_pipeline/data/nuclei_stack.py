"""The nuclei of many pictures as tensors on the training device, and those that a batch of windows shows."""

from __future__ import annotations

import torch
from torch import Tensor

from muse_pipeline.data.augment import move_nuclei
from muse_pipeline.nuclei.table import Nuclei

FAR = -1e6
NEAR_PX = 8  # beyond a window's border, where a nucleus still darkens its cells


class NucleiStack:
    """N pictures' nuclei, padded to the fullest.

    Attributes:
        xy: (N, M, 2) picture px; padding lies at -1e6.
        label: (N, M), -1 unknown.
        rays: (N, M, R) um, NaN unknown.
    """

    def __init__(self, pictures: list[Nuclei], device: torch.device):
        n, most = len(pictures), max(1, *(len(nuclei) for nuclei in pictures))
        self.xy = torch.full((n, most, 2), FAR, device=device)
        self.label = torch.full((n, most), -1, device=device)
        self.rays = torch.full((n, most, pictures[0].rays.shape[1]), float("nan"), device=device)
        for i, nuclei in enumerate(pictures):
            m = len(nuclei)
            self.xy[i, :m] = torch.from_numpy(nuclei.xy).float()
            self.label[i, :m] = torch.from_numpy(nuclei.label).long()
            self.rays[i, :m] = torch.from_numpy(nuclei.rays)

    def move(self, chosen: Tensor, centre: Tensor, linear: Tensor, size_px: int) -> tuple[Tensor, Tensor, Tensor]:
        """The nuclei in windows or within a few px of them, padded to the fullest window.

        Args:
            chosen: (B,) picture of each window.
            centre: (B, 2) picture px.
            linear: (B, 2, 2) picture -> window.
            size_px: side of a window.

        Returns:
            xy (B, M', 2) window px, label (B, M'), rays (B, M', R).
        """
        xy, rays = move_nuclei(self.xy[chosen], self.rays[chosen], centre, linear, size_px)
        inside = ((xy > -NEAR_PX) & (xy < size_px + NEAR_PX)).all(2)
        order = (~inside).int().argsort(dim=1, stable=True)[:, : max(int(inside.sum(1).max()), 1)]
        xy = torch.where(inside[..., None], xy, torch.full_like(xy, FAR))
        return (
            xy.gather(1, order[..., None].expand(-1, -1, 2)),
            self.label[chosen].gather(1, order),
            rays.gather(1, order[..., None].expand(-1, -1, rays.shape[2])),
        )

"""The point head of MUSE (arXiv 2511.05170): every cell is a proposal with independent heads for position and type."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from muse_pipeline.models import HEADS
from muse_pipeline.models.heads import MEAN_RAY, PRIOR, NucleusHead, NucleusMaps, to_rays

RIVAL_CELLS = 2  # how far apart, in rows or columns, two cells may be that point to the same nucleus
SAME_NUCLEUS_CELLS = 1.0  # two points nearer than this are one nucleus: 2 um at 0.5 um/px


@HEADS.register("point")
class PointHead(NucleusHead):
    """Perceptrons on the features at each proposal, one for offsets, one for types and background, one for rays.

    Type and background share one softmax. The maps hold its two factors: ``centre`` is the logit of "not
    background", ``label`` the logits of the types given that, so that minus the log of any of its probabilities is the
    binary cross-entropy of ``centre`` plus the cross-entropy of ``label``.

    Args:
        in_channels: D of the dense map.
        n_classes: C.
        n_rays: R.
        hidden: width of each perceptron.
        dropout: share of its hidden values that are dropped in training.
    """

    def __init__(self, in_channels: int, n_classes: int, n_rays: int, hidden: int = 256, dropout: float = 0.1):
        super().__init__()
        self.sizes = (n_classes, n_rays)

        def perceptron(out_channels: int) -> nn.Sequential:
            last = nn.Conv2d(hidden, out_channels, 1)
            nn.init.normal_(last.weight, std=0.01)
            nn.init.zeros_(last.bias)
            return nn.Sequential(nn.Conv2d(in_channels, hidden, 1), nn.ReLU(inplace=True), nn.Dropout(dropout), last)

        self.offset, self.types, self.rays = perceptron(2), perceptron(n_classes + 1), perceptron(n_rays)
        with torch.no_grad():
            self.types[-1].bias[-1] = math.log(n_classes) + math.log(1 / PRIOR - 1)
            self.rays[-1].bias.fill_(MEAN_RAY)

    def forward(self, features: Tensor) -> NucleusMaps:
        """(B, D, h, w) -> four maps."""
        types = self.types(features).float()  # losses and read-out stay exact in mixed precision
        label, background = types[:, :-1], types[:, -1:]
        centre = label.logsumexp(1, keepdim=True) - background
        rays = to_rays(self.rays(features).float())
        return NucleusMaps(centre, self.offset(features).float(), label, rays)

    def scores(self, maps: NucleusMaps) -> Tensor:
        """The probability of "not background", at the best of the cells that point to the same nucleus.

        One-to-one matching trains one cell per nucleus, and a long training may need no suppression. A short one
        does: if a nucleus lies between cells, several of them remain peaks. Of neighbours whose points are less than a
        cell (2 um at 0.5 um/px) apart the better one stays, the first where they are equal. Cells that point to
        different nuclei never compete.
        """
        rows, columns = maps.centre.shape[-2:]
        known = torch.cat((maps.centre, maps.offset), 1)
        around = nn.functional.pad(known, (RIVAL_CELLS,) * 4, value=-1e4)  # no competitors beyond the border
        beaten = torch.zeros_like(maps.centre, dtype=torch.bool)
        offsets = range(-RIVAL_CELLS, RIVAL_CELLS + 1)
        for down, right in ((down, right) for down in offsets for right in offsets if (down, right) != (0, 0)):
            top, left = RIVAL_CELLS + down, RIVAL_CELLS + right
            rival = around[:, :, top : top + rows, left : left + columns]
            x, y = (rival[:, 1:] - maps.offset).split(1, 1)
            is_same = (x + right).square() + (y + down).square() < SAME_NUCLEUS_CELLS**2
            earlier = (down, right) < (0, 0)
            better = rival[:, :1] >= maps.centre if earlier else rival[:, :1] > maps.centre
            beaten = beaten | (is_same & better)
        return torch.where(beaten, torch.zeros_like(maps.centre), maps.centre.sigmoid())

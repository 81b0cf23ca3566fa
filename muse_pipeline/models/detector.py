"""Heads that find nuclei, the detector made of a backbone and a head, and the graph that turns
pixels into nuclei.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from muse_pipeline.core.coords import CELL_PX
from muse_pipeline.models import BACKBONES, HEADS
from muse_pipeline.models.base import Backbone, conv_norm, interpolate_at

PRIOR = 0.05  # initial score: the share of cells in dense tissue that contain a centre
MEAN_RADIUS_UM = 4.0  # initial length of rays
STEEPNESS = 3.0  # scale of the raw output; a larger value lets an optimiser step change rays more
# raw output that ``to_rays`` maps to ``MEAN_RADIUS_UM``
MEAN_RAY = math.log(math.e - 1) / STEEPNESS
# in units of 1 / ``MEAN_RADIUS_UM`` squared, so that no ray is longer than 40 um
LEAST_INVERSE_SQUARE = 0.01


def to_rays(raw: Tensor) -> Tensor:
    """Rays in um from the raw output of a head, which determines their inverse squares.

    The inverse square of an ellipse's rays is a single cosine of the angle, ``p + q cos(2 (angle -
    axis))``, which is easy to learn. Heads that predict the rays themselves outline slender nuclei
    as dumb-bells.
    """
    inverse_square = softplus(STEEPNESS * raw)
    return MEAN_RADIUS_UM * inverse_square.clamp(min=LEAST_INVERSE_SQUARE).rsqrt()


def softplus(x: Tensor) -> Tensor:
    """ln(1 + e^x) from operations that ONNX Runtime vectorises; its own Softplus takes four times
    as long.
    """
    size = x.abs()
    return 0.5 * (x + size) + torch.log(1 + torch.exp(-size))


class NucleusMaps(NamedTuple):
    """Output of a head at every cell of an (h, w) map; the centre of a cell is at ``4 * column + 2,
    4 * row + 2`` px.

    Attributes:
        centre: (B, 1, h, w) logit that the cell is a nucleus.
        offset: (B, 2, h, w) vector (x, y) from the centre of the cell to the centre of the nucleus,
            in cells.
        label: (B, C, h, w) class logits, given that the cell is a nucleus.
        rays: (B, R, h, w) um.
    """

    centre: Tensor
    offset: Tensor
    label: Tensor
    rays: Tensor


class NucleusHead(nn.Module):
    """Base class of heads, which are constructed with (in_channels, n_classes, n_rays)."""

    sizes: tuple[int, int]  # numbers of channels of ``label`` and ``rays``

    def forward(self, features: Tensor) -> NucleusMaps:
        """Features (B, D, h, w), sampled at the centres of cells -> four maps, float32."""
        raise NotImplementedError

    def scores(self, maps: NucleusMaps) -> Tensor:
        """(B, 1, h, w): the score of each nucleus at its peak, 0 elsewhere."""
        raise NotImplementedError

    def propose(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, D, h, w) -> scores; (B, 3, h, w) centre and offset for ``locate``; (B * h * w, M) for
        ``describe``.
        """
        maps = self(features)
        located = torch.cat((maps.centre, maps.offset), 1)
        return self.scores(maps), located, as_rows(torch.cat((maps.label, maps.rays), 1))

    def locate(self, located: Tensor, cell: Tensor) -> Tensor:
        """Positions (B, K, 2), (x, y) in cells, of the nuclei with peaks at the cell indices
        ``cell`` (B, K).
        """
        offset = located[:, 1:]
        rows, columns = offset.shape[-2:]
        x = torch.arange(columns, device=offset.device) + 0.5
        y = torch.arange(rows, device=offset.device)[:, None] + 0.5
        positions = torch.stack((offset[:, 0] + x, offset[:, 1] + y), 1)
        return pick(as_rows(positions), cell, positions.shape[-2] * positions.shape[-1])

    def describe(self, cells: Tensor) -> tuple[Tensor, ...]:
        """Rows (B, K, M), picked from the last output of ``propose`` -> class logits (B, K, C) and
        rays (B, K, R).
        """
        return cells.split(self.sizes, 2)


def as_rows(maps: Tensor) -> Tensor:
    """(B, M, h, w) -> (B * h * w, M): the values of a cell become adjacent, which makes selecting a
    few cells fast.
    """
    return maps.permute(0, 2, 3, 1).flatten(0, 2)


def pick(rows: Tensor, cell: Tensor, n_cells: int) -> Tensor:
    """Rows (B, ..., M) out of (B * n_cells, M), selected by the indices ``cell`` (B, ...) within
    each window.
    """
    # row of each window's first cell
    first = n_cells * torch.arange(cell.shape[0], device=cell.device)
    return rows[cell + first.view(-1, *(1,) * (cell.dim() - 1))]


# largest distance, in rows or columns, between two cells that may point to the same nucleus
RIVAL_CELLS = 2
SAME_NUCLEUS_CELLS = 1.0  # points closer than this belong to one nucleus: 2 um at 0.5 um/px


@HEADS.register("point")
class PointHead(NucleusHead):
    """Three perceptrons on the features of each cell: for the offset, for types and background, and
    for the rays.

    Types and background share one softmax, which is returned as two factors: ``centre`` is the
    logit of "not background", ``label`` the logits of the types of a nucleus. The cross-entropy of
    the softmax is the binary cross-entropy of ``centre`` plus the cross-entropy of ``label``.
    """

    def __init__(self, in_channels: int, n_classes: int, n_rays: int):
        super().__init__()
        self.sizes = (n_classes, n_rays)

        def perceptron(out_channels: int) -> nn.Sequential:
            hidden, dropout = 256, 0.1
            last = nn.Conv2d(hidden, out_channels, 1)
            nn.init.normal_(last.weight, std=0.01)
            nn.init.zeros_(last.bias)
            return nn.Sequential(
                nn.Conv2d(in_channels, hidden, 1), nn.ReLU(inplace=True), nn.Dropout(dropout), last
            )

        self.offset = perceptron(2)
        self.types = perceptron(n_classes + 1)
        self.rays = perceptron(n_rays)
        with torch.no_grad():
            # "Not background" starts at ``PRIOR``; its logit is the logsumexp of types minus the
            # background.
            self.types[-1].bias[-1] = math.log(n_classes) + math.log(1 / PRIOR - 1)
            self.rays[-1].bias.fill_(MEAN_RAY)

    def forward(self, features: Tensor) -> NucleusMaps:
        """(B, D, h, w) -> four maps."""
        types = self.types(features).float()  # keeps losses and positions exact in mixed precision
        label, background = types[:, :-1], types[:, -1:]
        centre = label.logsumexp(1, keepdim=True) - background
        rays = to_rays(self.rays(features).float())
        return NucleusMaps(centre, self.offset(features).float(), label, rays)

    def scores(self, maps: NucleusMaps) -> Tensor:
        """The probability of "not background", kept only at the best of the cells that point to the
        same nucleus.

        One-to-one matching trains one cell per nucleus, but after a short training several cells
        around a nucleus are still peaks. Among neighbours that point to positions less than a cell
        (2 um at 0.5 um/px) apart, only the cell with the highest score is kept; if scores are
        equal, the first one.
        """
        rows, columns = maps.centre.shape[-2:]
        located = torch.cat((maps.centre, maps.offset), 1)
        # no rivals beyond the border
        around = nn.functional.pad(located, (RIVAL_CELLS,) * 4, value=-1e4)
        beaten = torch.zeros_like(maps.centre, dtype=torch.bool)
        offsets = range(-RIVAL_CELLS, RIVAL_CELLS + 1)
        for down, right in (
            (down, right) for down in offsets for right in offsets if (down, right) != (0, 0)
        ):
            top, left = RIVAL_CELLS + down, RIVAL_CELLS + right
            rival = around[:, :, top : top + rows, left : left + columns]
            x, y = (rival[:, 1:] - maps.offset).split(1, 1)
            is_same = (x + right).square() + (y + down).square() < SAME_NUCLEUS_CELLS**2
            earlier = (down, right) < (0, 0)
            better = rival[:, :1] >= maps.centre if earlier else rival[:, :1] > maps.centre
            beaten = beaten | (is_same & better)
        return torch.where(beaten, torch.zeros_like(maps.centre), maps.centre.sigmoid())


HIDDEN = (64, 96)  # smallest and largest number of channels; channels at stride 4 are expensive
# (x, y) offsets of a cell and its four neighbours
FIVE = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))
LEAST_WEIGHT = 1e-12


@HEADS.register("dense")
class DenseHead(NucleusHead):
    """One shared 3x3 convolution to about twice the channels, then a 1x1 convolution for all
    quantities.
    """

    def __init__(self, in_channels: int, n_classes: int, n_rays: int):
        super().__init__()
        self.sizes = (n_classes, n_rays)
        hidden = min(max(2 * in_channels, HIDDEN[0]), HIDDEN[1])
        self.shared = nn.Sequential(conv_norm(in_channels, hidden), nn.ReLU(inplace=True))
        self.out = nn.Conv2d(hidden, 3 + sum(self.sizes), 1)
        nn.init.normal_(self.out.weight, std=0.01)
        nn.init.zeros_(self.out.bias)
        with torch.no_grad():
            self.out.bias[0] = -math.log(1 / PRIOR - 1)
            self.out.bias[-n_rays:] = MEAN_RAY

    def forward(self, features: Tensor) -> NucleusMaps:
        """(B, D, h, w) -> four maps."""
        # keeps losses and positions exact in mixed precision
        maps = self.out(self.shared(features)).float()
        centre, offset, label, rays = maps.split((1, 2, *self.sizes), 1)
        return NucleusMaps(centre, offset, label, to_rays(rays))

    def scores(self, maps: NucleusMaps) -> Tensor:
        """The probability of a nucleus at its local maxima in 3 x 3 cells, 0 elsewhere."""
        return _scores_at_peaks(maps.centre)

    def propose(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute centre and offset at every cell; ``describe`` computes label and rays only at
        peaks.
        """
        rows = as_rows(self.shared(features))
        located = torch.matmul(rows, self.out.weight[:3, :, 0, 0].T) + self.out.bias[:3]
        located = located.unflatten(0, (-1, *features.shape[-2:])).permute(0, 3, 1, 2)
        return _scores_at_peaks(located[:, :1]), located, rows

    def locate(self, located: Tensor, cell: Tensor) -> Tensor:
        """Mean position predicted by a cell and its four neighbours, weighted by the fourth power
        of their scores.

        The result thus hardly depends on which of two cells with nearly equal scores is the peak.
        Neighbours that point to a distant position belong to a different nucleus and are omitted.
        """
        columns = located.shape[-1]
        row = torch.div(cell, columns, rounding_mode="floor")
        column = cell - row * columns
        around = nn.functional.pad(located, (1,) * 4, value=-1e4)  # no peaks beyond the border
        right, down = torch.tensor(FIVE, device=cell.device).T
        wide = columns + 2
        # (B, K, 5), numbered as in ``around``
        near = ((row + 1) * wide + column + 1)[..., None] + down * wide + right
        centre, x, y = pick(as_rows(around), near, around.shape[-2] * wide).movedim(-1, 0)
        x, y = x + right, y + down  # relative to the centre of the peak's own cell
        apart = torch.stack((x - x[..., :1], y - y[..., :1])).abs().amax(0)
        score = centre.sigmoid()
        weight = score * score * score * score * (apart < SAME_NUCLEUS_CELLS)
        mean = torch.stack((weight * x, weight * y)).sum(-1) / weight.sum(-1).clamp(
            min=LEAST_WEIGHT
        )
        return torch.stack((column, row), 2) + 0.5 + mean.movedim(0, 2)

    def describe(self, cells: Tensor) -> tuple[Tensor, ...]:
        """Compute the remaining channels of the last convolution as one matrix product."""
        output = torch.matmul(cells, self.out.weight[3:, :, 0, 0].T) + self.out.bias[3:]
        label, rays = output.split(self.sizes, 2)
        return label, to_rays(rays)


def _scores_at_peaks(centre: Tensor) -> Tensor:
    peak = centre == nn.functional.max_pool2d(centre, 3, stride=1, padding=1)
    return torch.where(peak, centre.sigmoid(), torch.zeros_like(centre))


class NucleusDetector(nn.Module):
    """A backbone and a head: from pixels and a colour map to maps of nuclei."""

    def __init__(self, backbone: str, head: str, n_classes: int, n_rays: int):
        super().__init__()
        self.backbone = BACKBONES[backbone]()
        self.head = HEADS[head](self.backbone.channels, n_classes, n_rays)

    @classmethod
    def of(cls, backbone: Backbone, head: NucleusHead) -> NucleusDetector:
        """Build a detector from existing networks."""
        detector = cls.__new__(cls)
        nn.Module.__init__(detector)
        detector.backbone, detector.head = backbone, head
        return detector

    def features(self, pixels: Tensor, colour: Tensor) -> Tensor:
        """The backbone's dense map (B, D, h, w)."""
        return self.backbone(self.backbone.prepare(pixels, colour)).dense

    def forward(self, pixels: Tensor, colour: Tensor) -> NucleusMaps:
        """(B, 3, H, W) in 0..255 and (3, 4) or (B, 3, 4) -> maps at stride 4."""
        return self.head(self.backbone.lattice.at_cells(self.features(pixels, colour)))

    def propose(self, dense: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Output of ``NucleusHead.propose`` for a dense map from ``features``."""
        return self.head.propose(self.backbone.lattice.at_cells(dense))


class DetectionGraph(nn.Module):
    """The exported graph: windows in, ``capacity`` slots for nuclei out (docs/design.md).

    Slots with a score below ``threshold`` stay empty; with ``embed``, the vector of every nucleus
    is returned too.
    """

    def __init__(
        self, detector: NucleusDetector, threshold: float, capacity: int, embed: bool = False
    ):
        super().__init__()
        self.detector = detector
        self.threshold = threshold
        self.capacity = capacity
        self.embed = embed

    def forward(self, pixels: Tensor, colour: Tensor) -> tuple[Tensor, ...]:
        """Find nuclei in windows (B, 3, H, W) uint8 with the colour map (3, 4).

        Returns xy (B, K, 2) window px; score (B, K), descending, 0 for an empty slot; prob (B, K,
        C); rays (B, K, R) um. With ``embed``, also embedding (B, K, D), the dense map read at the
        nucleus.
        """
        dense = self.detector.features(pixels, colour)
        score, located, described = self.detector.propose(dense)
        n_cells = score.shape[-2] * score.shape[-1]
        score = score.flatten(1)
        score = torch.where(score >= self.threshold, score, torch.zeros_like(score))
        score, cell = score.topk(min(self.capacity, n_cells), dim=1)  # (B, K)
        xy = self.detector.head.locate(located, cell) * CELL_PX
        label, rays = self.detector.head.describe(pick(described, cell, n_cells))
        nuclei = (xy, score, label.softmax(2), rays)
        if self.embed:
            return (*nuclei, interpolate_at(dense, xy, self.detector.backbone.lattice))
        return nuclei

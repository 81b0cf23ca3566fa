"""Criteria: the losses of nucleus heads on labels, registered under the names of the heads, and
dense targets.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import min_weight_full_bipartite_matching
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import logsigmoid

from muse_pipeline.core.coords import CELL_PX
from muse_pipeline.core.registry import Registry
from muse_pipeline.data.augment import CLASSES_ONLY, LabelledBatch
from muse_pipeline.models.detector import MEAN_RADIUS_UM, NucleusMaps
from muse_pipeline.training.method import Losses

# largest distance between a nucleus and the middle of a cell that predicts it, in cells
REACH_CELLS = 1.0
REACH_SIGMAS = 5.0  # distance at which Gaussians are cut off; their value there is 4e-6
CANDIDATE_CELLS = 2  # a nucleus has 5 x 5 candidate cells, 4 to 6 um to either side at 0.5 um/px
RAY_WEIGHT = 2.0  # weight of the ray term; all other terms of the loss have the weight 1
# cells closer to a region's border are not background, because nuclei cut by the border are
# unlabelled
RIM_UM = 3.0

CRITERIA: Registry = Registry("criterion", "muse_pipeline.methods.detector")


class DenseTargets(NamedTuple):
    """Targets for each of the (h, w) cells of B windows."""

    centre: Tensor  # (B, 1, h, w) Gaussians, exactly 1 in the cell that contains a centre
    # (B, 1, h, w) weight of all targets except ``centre``: the Gaussian close to a centre, 0
    # elsewhere
    weight: Tensor
    # (B, 2, h, w) vector to the nearest centre, in cells; arbitrary beyond the Gaussians
    offset: Tensor
    nucleus: Tensor  # (B, h, w) index of the nearest of the M nuclei, -1 beyond the Gaussians


def dense_targets(xy: Tensor, cells: tuple[int, int], sigma_px: float) -> DenseTargets:
    """Make the dense targets of B windows with nuclei at ``xy`` (B, M, 2), window px, on ``cells``
    (rows, columns).
    """
    # (B, h * w)
    nucleus = _nearest(xy, cells, math.ceil(REACH_SIGMAS * sigma_px / CELL_PX))
    y, x = (torch.arange(n, device=xy.device, dtype=xy.dtype) + 0.5 for n in cells)
    middle = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).reshape(1, -1, 2)
    offset = (xy / CELL_PX).gather(1, nucleus.clamp(min=0)[..., None].expand(-1, -1, 2)) - middle
    distance = offset.norm(dim=2)
    # The interval is half-open, so that a centre on the line between two cells is in exactly one of
    # them.
    holds = ((offset >= -0.5) & (offset < 0.5)).all(2)
    gaussian = torch.exp(-0.5 * (distance * CELL_PX / sigma_px) ** 2)
    # The focal loss treats exactly 1 as a centre, so no other cell may reach 1, however close to
    # the centre.
    gaussian = torch.where(holds, torch.ones_like(gaussian), gaussian.clamp(max=0.999)) * (
        nucleus >= 0
    )
    near = (distance <= REACH_CELLS) | holds
    centre, weight, nucleus = (
        values.unflatten(1, cells) for values in (gaussian, gaussian * near, nucleus)
    )
    return DenseTargets(
        centre[:, None], weight[:, None], offset.transpose(1, 2).unflatten(2, cells), nucleus
    )


def _nearest(xy: Tensor, cells: tuple[int, int], reach: int) -> Tensor:
    """(B, h * w) index of the nearest nucleus within ``reach`` cells; the lowest of equally near
    ones, -1 if none.

    Only cells around a nucleus are compared with it, because comparing all pairs would take a fifth
    of a training step.
    """
    n_cells, columns = cells[0] * cells[1], cells[1]
    index, exists = cells_around(xy, cells, reach)  # (B, M, K)
    middle = torch.stack((index % columns, index // columns), -1) + 0.5
    squared = ((xy / CELL_PX)[:, :, None] - middle).square().sum(-1).flatten(1)
    # cells beyond the border share an extra index, dropped later
    index = index.where(exists, n_cells).flatten(1)
    # The lowest index among equal distances is taken, so that the result does not depend on the
    # order of threads.
    least = squared.new_full((len(xy), n_cells + 1), torch.inf).scatter_reduce_(
        1, index, squared, "amin"
    )
    number = torch.arange(xy.shape[1], device=xy.device)[:, None].expand(exists.shape[1:]).flatten()
    number = number.where(squared == least.gather(1, index), xy.shape[1])
    first = index.new_full(least.shape, xy.shape[1]).scatter_reduce_(1, index, number, "amin")[
        :, :n_cells
    ]
    return first.where(first < xy.shape[1], -1)


# cost of leaving a nucleus without a proposal; so high that this happens only if proposals are too
# few
UNMATCHED = 1e6


class Assignment(NamedTuple):
    """P pairs of a nucleus and a proposal, sorted by window and nucleus."""

    window: Tensor  # (P,) index of the window
    nucleus: Tensor  # (P,) index of the nucleus within its window
    cell: Tensor  # (P,) index of the proposal's cell within its window, row by row


def assign(cost: Tensor, cell: Tensor, allowed: Tensor) -> Assignment:
    """Find the cheapest one-to-one assignment of proposals to nuclei in every window.

    All windows are solved as one sparse problem. Every nucleus also has a dummy proposal that costs
    more than any real one, so that a solution always exists; nuclei that are assigned their dummies
    are left out of the result. The arguments (B, M, K) are the cost of each candidate of a nucleus,
    the index of its cell within the window, and whether it may be assigned.
    """
    n_nuclei = cost.shape[1]
    entry = allowed.flatten(0, 1).cpu().numpy()
    cost, cell = (values.detach().flatten(0, 1).cpu().numpy() for values in (cost, cell))
    nuclei = np.flatnonzero(entry.any(1))
    row, candidate = np.nonzero(entry[nuclei])
    proposal = cell[nuclei[row], candidate].astype(np.int64)
    window = nuclei // max(n_nuclei, 1)
    most = int(proposal.max(initial=0)) + 1
    # Cells are numbered over all windows, so that no two windows share a proposal.
    used, column = np.unique(window[row] * most + proposal, return_inverse=True)
    own = np.arange(len(nuclei))
    weights = cost[nuclei[row], candidate].astype(np.float64)
    weights += 1 - weights.min(initial=0)  # the solver does not accept zeros
    costs = np.append(weights, np.full(len(nuclei), UNMATCHED))
    edges = np.append(row, own), np.append(column, len(used) + own)
    problem = csr_matrix((costs, edges), shape=(len(nuclei), len(used) + len(nuclei)))
    matched, column = min_weight_full_bipartite_matching(problem) if len(nuclei) else (own, own)
    real = column < len(used)
    matched, column = matched[real], column[real]
    pairs = (
        window[matched],
        nuclei[matched] % max(n_nuclei, 1),
        used[column] % most if len(used) else column,
    )
    return Assignment(
        *(torch.from_numpy(np.asarray(index, np.int64)).to(allowed.device) for index in pairs)
    )


def cells_around(xy: Tensor, cells: tuple[int, int], reach: int) -> tuple[Tensor, Tensor]:
    """Find the square of K = (2 ``reach`` + 1) ** 2 cells around each position of ``xy`` (B, M, 2),
    window px.

    ``cells`` is (rows, columns) of the map. Returns the flat index (B, M, K) of each cell, and (B,
    M, K) bool, False for cells outside the map.
    """
    rows, columns = cells
    steps = torch.arange(-reach, reach + 1, device=xy.device)
    own = (xy / CELL_PX).floor().clamp(-1e6, 1e6).long()
    column, row = (own[..., axis, None, None] for axis in (0, 1))
    column, row = torch.broadcast_tensors(column + steps, row + steps[:, None])
    exists = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
    index = row.clamp(0, rows - 1) * columns + column.clamp(0, columns - 1)
    return index.flatten(2), exists.flatten(2)


class Criterion(nn.Module):
    """Base class of criteria for windows at ``mpp``; ``class_weights`` (C,) are those in the
    cross-entropy.
    """

    def __init__(self, mpp: float, class_weights: Tensor):
        super().__init__()
        self.mpp = mpp
        self.register_buffer("class_weights", class_weights)

    def forward(self, maps: NucleusMaps, batch: LabelledBatch) -> Losses:
        """Compute ``"loss"`` and its terms, keyed by name; unlabelled areas (``batch.region``) do
        not contribute.
        """
        raise NotImplementedError


def known_cells(maps: NucleusMaps, batch: LabelledBatch) -> tuple[Tensor, Tensor]:
    """Two (B, 1, h, w) maps of 0 and 1: cells where nuclei are labelled, and cells that may be
    background.
    """
    if batch.region is None:
        everywhere = torch.ones_like(maps.centre)
        return everywhere, everywhere
    depth_um = batch.region[:, None]
    return (depth_um > 0).to(maps.centre), (depth_um >= RIM_UM).to(maps.centre)


def class_error(
    logits: Tensor, label: Tensor, shares: Tensor | None, class_weights: Tensor
) -> tuple[Tensor, Tensor]:
    """(N,) class loss of each nucleus, and (N,) bool, False for nuclei of unknown class.

    For a nucleus with a class, the loss is the cross-entropy. In a class area it is the negative
    logarithm of the sum of the class probabilities, each multiplied by the expected share of its
    class ("forward" correction of label noise, Patrini et al., arXiv 1609.03683). ``logits`` are
    (N, C), ``label`` (N,) is -1 if unknown, ``shares`` (N, C) are as in ``LabelledBatch``, and
    ``class_weights`` (C,).
    """
    error = functional.cross_entropy(logits, label.clamp(min=0), class_weights, reduction="none")
    has_class = label >= 0
    if shares is None:
        return error, has_class
    in_area = shares.sum(1) > 0
    # Dividing by the largest share makes the loss of a perfect prediction 0 and does not change the
    # gradient.
    likelihood = (shares / shares.amax(1, keepdim=True).clamp(min=1e-6)).clamp(min=1e-6)
    of_area = -(logits.log_softmax(1) + likelihood.log()).logsumexp(1) * (shares @ class_weights)
    return torch.where(in_area, of_area, error), has_class | in_area


def mean_over(values: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean; 0 if all weights are 0."""
    return (values * weight).sum() / weight.sum().clamp(min=1e-6)


GAUSSIAN_UM = 1.25


@CRITERIA.register("dense")
class DenseCriterion(Criterion):
    """Centres are learnt as Gaussians; offsets, classes and rays only in cells at most one cell
    from a centre.
    """

    def forward(self, maps: NucleusMaps, batch: LabelledBatch) -> Losses:
        """Compute the four terms and their sum, in which rays have the weight 2 and all other terms
        1.
        """
        cells = tuple(maps.centre.shape[-2:])
        target = dense_targets(batch.xy, cells, GAUSSIAN_UM / self.mpp)
        inside, background = known_cells(maps, batch)
        # Nuclei in class areas count only in the class term, because their positions come from a
        # detector.
        with_class = (
            inside
            if batch.shares is None
            else (inside > 0) | (batch.region[:, None] == CLASSES_ONLY)
        )
        # only cells with a target
        window, row, column = (target.weight * with_class)[:, 0].nonzero(as_tuple=True)
        at = window, slice(None), row, column
        nucleus = target.nucleus[window, row, column]
        with_class = target.weight[window, 0, row, column]
        weight = with_class * inside[window, 0, row, column]
        label = batch.label[window, nucleus]
        rays = batch.rays[window, nucleus]
        shares = None if batch.shares is None else batch.shares[window, nucleus]
        label_error, has_class = class_error(maps.label[at], label, shares, self.class_weights)
        # Unknown rays are replaced by numbers, because a weight of 0 does not remove NaN.
        ray_error = (maps.rays[at] - rays.nan_to_num()).abs().mean(1) / MEAN_RADIUS_UM
        terms = {
            "centre": penalty_reduced_focal(
                maps.centre, target.centre, torch.where(target.centre >= 1, inside, background)
            ),
            "offset": mean_over((maps.offset[at] - target.offset[at]).abs().mean(1), weight),
            "label": mean_over(label_error, with_class * has_class),
            "rays": mean_over(ray_error, weight * rays[:, 0].isfinite()),
        }
        return {"loss": sum(terms.values()) + (RAY_WEIGHT - 1) * terms["rays"], **terms}


DISTANCE_COST = 0.1 * 4  # per um: 0.1 per px at 0.25 um/px
OFFSET_WEIGHT = 5e-3 * 4**2  # per um2: 5e-3 per px2 at 0.25 um/px
BACKGROUND_WEIGHT = 0.4


@CRITERIA.register("point")
class PointCriterion(Criterion):
    """Supervision of MUSE's point head: each nucleus is matched with one proposal; all other
    proposals are background.

    The terms are the squared error of matched points, the cross-entropy over types and background,
    and the L1 error of rays. Distances and weights are those of DPA-P2PNet, which the MUSE paper
    cites, converted from pixels at 0.25 um/px to um. In contrast to DPA-P2PNet, the summed
    cross-entropy is divided by the total weight of the nuclei, not of all proposals. As 98 % of the
    proposals are background, types are learnt much faster this way.
    """

    def forward(self, maps: NucleusMaps, batch: LabelledBatch) -> Losses:
        """Compute the three weighted terms and their sum."""
        inside, background = known_cells(maps, batch)
        pairs = self.match(maps, batch, inside)
        label = batch.label[pairs.window, pairs.nucleus]
        has_class = label >= 0
        at = pairs.window, slice(None), pairs.cell
        # (P, 2), (P, R)
        offset, rays = (values.flatten(2)[at] for values in (maps.offset, maps.rays))
        type_error = (
            functional.cross_entropy(
                maps.label.flatten(2)[at], label.clamp(min=0), reduction="none"
            )
            * has_class
        )
        centre = maps.centre.flatten(1)  # (B, h * w)
        weight = torch.where(has_class, self.class_weights[label.clamp(min=0)], 1.0)
        background = BACKGROUND_WEIGHT * background.flatten(1)
        background[pairs.window, pairs.cell] = 0
        hit = weight * (functional.softplus(-centre[pairs.window, pairs.cell]) + type_error)
        miss = background * functional.softplus(centre)
        columns = maps.centre.shape[-1]
        anchor = torch.stack((pairs.cell % columns, pairs.cell // columns), 1) + 0.5
        true_offset = batch.xy[pairs.window, pairs.nucleus] / CELL_PX - anchor
        squared_um = (offset - true_offset).square().sum(1) * (CELL_PX * self.mpp) ** 2
        true_rays = batch.rays[pairs.window, pairs.nucleus]
        ray_error = (rays - true_rays.nan_to_num()).abs().mean(1) / MEAN_RADIUS_UM
        terms = {
            "offset": OFFSET_WEIGHT * mean_over(squared_um, torch.ones_like(squared_um)),
            # The divisor is at least the number of windows, so that it is not 0 for a batch without
            # nuclei.
            "type": (hit.sum() + miss.sum()) / weight.sum().clamp(min=len(centre)),
            "rays": mean_over(ray_error, true_rays[:, 0].isfinite().to(ray_error)),
        }
        return {"loss": sum(terms.values()), **terms}

    @torch.no_grad()
    def match(self, maps: NucleusMaps, batch: LabelledBatch, inside: Tensor) -> Assignment:
        """Assign a proposal to each nucleus by distance and the probability of its type (if
        unknown, of any type).
        """
        rows, columns = maps.centre.shape[-2:]
        # (B, M, K)
        cell, allowed = cells_around(batch.xy, (rows, columns), CANDIDATE_CELLS)
        # a nucleus outside the window has no cell of its own and gets no proposal
        own = cell.shape[2] // 2
        allowed = allowed & allowed[..., own, None] & (_gather(inside, cell)[..., 0] > 0)
        point = (
            _gather(maps.offset, cell) + torch.stack((cell % columns, cell // columns), -1) + 0.5
        )
        distance_um = (point - (batch.xy / CELL_PX)[:, :, None]).norm(dim=3) * (CELL_PX * self.mpp)
        prob = (
            torch.cat((maps.label.softmax(1), torch.ones_like(maps.centre)), 1)
            * maps.centre.sigmoid()
        )
        label = batch.label.remainder(prob.shape[1])[..., None, None].expand(
            -1, -1, cell.shape[2], 1
        )  # -1 -> last
        prob = _gather(prob, cell).gather(3, label)[..., 0]
        return assign(DISTANCE_COST * distance_um - prob, cell, allowed)


def _gather(maps: Tensor, cell: Tensor) -> Tensor:
    """(B, D, h, w) at (B, M, K) cells -> (B, M, K, D)."""
    flat = cell.flatten(1)[:, None].expand(-1, maps.shape[1], -1)
    return maps.flatten(2).gather(2, flat).unflatten(2, cell.shape[1:]).permute(0, 2, 3, 1)


ALPHA = 2.0  # focusing exponent
BETA = 4.0  # exponent of ``1 - target``; higher values penalise cells close to a centre less


def penalty_reduced_focal(logit: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Focal loss on Gaussians of CornerNet (Law and Deng, ECCV 2018, arXiv 1808.01244, equation 1).

    False positives near a centre, where ``target`` is exactly 1, are penalised less. All maps are
    (B, 1, h, w); cells with ``weight`` 0 are ignored. The sum over cells is divided by the number
    of centres (at least 1).
    """
    prob = logit.sigmoid()
    positive = (target >= 1).to(logit.dtype) * weight
    negative = (target < 1).to(logit.dtype) * weight
    # Computed from logits, because a probability that is rounded to 0 or 1 has an infinite
    # logarithm.
    hit = positive * (1 - prob) ** ALPHA * logsigmoid(logit)
    miss = negative * (1 - target) ** BETA * prob**ALPHA * logsigmoid(-logit)
    return -(hit.sum() + miss.sum()) / positive.sum().clamp(min=1)

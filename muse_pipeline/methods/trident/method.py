"""The settings of a TriDeNT run, and its method: branches, projectors and the losses between
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional

from muse_pipeline.core.config import Between, NotNegative, OneOf
from muse_pipeline.core.errors import ConfigError
from muse_pipeline.data.nucleus_images import NucleusSource
from muse_pipeline.data.views import ViewSettings
from muse_pipeline.methods.detector.config import require_windows
from muse_pipeline.methods.muse.config import MuseConfig
from muse_pipeline.methods.muse.method import SelfDistillationSettings
from muse_pipeline.methods.trident.partners import PairBatch, PairedSource, PartnerSource
from muse_pipeline.models.base import Backbone, Features, interpolate_at
from muse_pipeline.training.devices import gather_rows
from muse_pipeline.training.method import Losses, Method

LOSSES = ("vicreg", "infonce")
Width = Annotated[int, Between(2, 1 << 16)]


@dataclass(frozen=True)
class AlignmentSettings:
    """Losses between branches.

    Attributes:
        branches: 3: two H&E views and the partner (TriDeNT); 2: one H&E view and the partner (More
            From Less); 1: only two H&E views (a Siamese network, as a control).
        loss: "vicreg" or "infonce".
        image_weight: weight of the loss on image vectors; 0 turns it off.
        nucleus_weight: weight of the loss on features at nuclei that both H&E views share; 0 turns
            it off.
        invariance: weight of VICReg's invariance term.
        variance: weight of VICReg's variance term.
        covariance: weight of VICReg's covariance term.
        temperature: softmax temperature of InfoNCE.
        hidden: width of the projectors' two inner layers.
        width: length of the vectors that are compared.
        max_nuclei: maximum number of nuclei compared per batch, chosen at random.
    """

    branches: Annotated[int, Between(1, 3)] = 3
    loss: Annotated[str, OneOf(LOSSES)] = "vicreg"
    image_weight: NotNegative = 1.0
    nucleus_weight: NotNegative = 0.0
    # The weights in the VICReg paper, which TriDeNT also uses.
    invariance: NotNegative = 25.0
    variance: NotNegative = 25.0
    covariance: NotNegative = 1.0
    temperature: Annotated[float, Between(1e-3, 10)] = 0.5
    hidden: Width = 1024
    width: Width = 1024
    max_nuclei: Annotated[int, Between(2, 1 << 20)] = 4096

    def __post_init__(self) -> None:
        if not self.image_weight and not self.nucleus_weight:
            raise ConfigError(
                "alignment: image_weight and nucleus_weight are both 0; nothing would be learnt"
            )


@dataclass(frozen=True)
class TridentConfig(MuseConfig):
    """Settings of a run on H&E tissue with partners; those not described here are described in
    ``MuseConfig``.

    Attributes:
        backbone: registered name of the H&E network.
        sources: H&E tissue with nucleus positions, each with or without a ``partner``.
        alignment: losses between branches.
        partner_backbone: registered name of the partner's network; the same as ``backbone`` by
            default.
        distillation: settings of MUSE's losses. If given, they are added on the same views, and
            MUSE's teacher is the result of the run.
        weight: factor of the alignment loss if MUSE's losses are added.
        checkpoint: initial weights of the H&E network, as in ``MuseConfig``.
        views: settings of H&E views; local views are used only with MUSE's losses.
        method: name of the method, "trident".
    """

    sources: tuple[PairedSource, ...]
    alignment: AlignmentSettings = AlignmentSettings()
    partner_backbone: str | None = None
    distillation: SelfDistillationSettings | None = None
    # 0.1 / 25: VICReg's main terms, which already have the weight 25, then count a tenth as much as
    # MUSE's losses.
    weight: NotNegative = 0.004
    views: ViewSettings = ViewSettings(n_local=0)
    batch: Annotated[int, Between(2)] = 16
    method: str = "trident"

    def pair(self, source: NucleusSource, partner: Path | None) -> PairedSource:
        """A slide of a cohort as a source, with the store of its partner if it has one and a branch
        needs it.
        """
        is_used = partner is not None and self.alignment.branches > 1
        return PairedSource(
            **vars(source), partner=PartnerSource(store=partner) if is_used else None
        )


def require_sound_pairs(config: TridentConfig) -> None:
    """Reject views that the networks do not accept, and missing partners, before any data is
    read.
    """
    require_windows(config.backbone, *config.sides_px)
    if config.alignment.branches > 1 and all(source.partner is None for source in config.sources):
        raise ConfigError(
            f"sources: none has a `partner`, which {config.alignment.branches} branches need; add"
            " it (for slides of a sheet, in its column `partner`), or set `alignment.branches`"
            " to 1"
        )
    if config.partner_backbone is not None:
        require_windows(config.partner_backbone, config.views.global_px)
    if config.distillation is None and config.views.n_local:
        raise ConfigError(
            f"views: n_local is {config.views.n_local}, but local views need MUSE's loss; set it"
            " to 0"
        )


def build_projector(channels: int, hidden: int, width: int) -> nn.Sequential:
    """Two layers with batch norm and ReLU, then a linear layer: (N, channels) -> (N, width)."""
    inner = [(channels, hidden), (hidden, hidden)]
    layers = [
        (nn.Linear(inside, outside), nn.BatchNorm1d(outside), nn.ReLU(inplace=True))
        for inside, outside in inner
    ]
    return nn.Sequential(*chain(*layers), nn.Linear(hidden, width))


def in_float(values: Tensor) -> Tensor:
    """``values`` in at least single precision, because half precision is too coarse for losses and
    positions.
    """
    return values.to(torch.promote_types(values.dtype, torch.float32))


def apply_to_rows(network: nn.Module, rows: Tensor) -> Tensor:
    """Apply ``network`` to rows (N, C), even to a single row, which batch norms reject in
    training.
    """
    return network(rows.repeat(2, 1))[:1] if len(rows) == 1 else network(rows)


class BranchLevel(nn.Module):
    """Loss between branches on image vectors or nuclei, with projectors and diagnostics."""

    def __init__(self, channels: int, partner_channels: int | None, settings: AlignmentSettings):
        super().__init__()
        self.settings = settings
        self.he = build_projector(channels, settings.hidden, settings.width)
        self.partner = None
        if partner_channels is not None:
            self.partner = build_projector(partner_channels, settings.hidden, settings.width)

    def forward(self, he: Sequence[Tensor], partner: Tensor | None, present: Tensor) -> Losses:
        """Compute the loss and diagnostics over the rows of all processes.

        ``he`` are one or two H&E branches (N, C), ``partner`` the features (K, C') of the partners,
        None without a partner branch, and ``present`` (N,) bool is True for the K rows with a
        partner.
        """
        branches = [gather_rows(in_float(apply_to_rows(self.he, rows))) for rows in he]
        masks = [torch.ones(len(branches[0]), dtype=torch.bool, device=present.device)] * len(
            branches
        )
        if partner is not None:
            # The projector gets only existing partners, so that zeros for missing ones do not
            # affect its batch norms.
            rows = in_float(apply_to_rows(self.partner, partner))
            every = rows.new_zeros(len(present), rows.shape[1]).index_put(
                (present.nonzero()[:, 0],), rows
            )
            branches.append(gather_rows(every))
            masks.append(gather_rows(present.float()) > 0)
        with torch.autocast(present.device.type, enabled=False):
            gauges = measure_spread(branches[0].detach())
            return {
                **self._compare(branches, masks),
                **gauges,
                "partners": masks[-1].float().mean(),
            }

    def _compare(self, branches: list[Tensor], present: list[Tensor]) -> Losses:
        settings = self.settings
        if settings.loss == "infonce":
            return {"loss": infonce(branches, present, settings.temperature)}
        terms = {
            "invariance": invariance(branches, present),
            "variance": variance(branches, present),
            "covariance": covariance(branches, present),
        }
        return {
            "loss": sum(getattr(settings, name) * value for name, value in terms.items()),
            **terms,
        }


def measure_spread(rows: Tensor) -> Losses:
    """Diagnostics of collapse for rows (N, D).

    ``std`` is the mean standard deviation of a dimension. ``spread`` is the root mean squared
    distance of the normalised rows from their mean, 1 if they point in all directions. ``rank`` is
    the effective rank (squared trace of the covariance / its squared norm) as a share of the
    largest possible.
    """
    n, width = rows.shape
    if n < 2:
        return dict.fromkeys(("std", "spread", "rank"), rows.new_zeros(()))
    centred = rows - rows.mean(0)
    unit = functional.normalize(rows, dim=1)
    # The two products have the same trace and norm; the smaller one is cheaper.
    gram = centred.T @ centred if width < n else centred @ centred.T
    rank = gram.diagonal().sum().square() / gram.square().sum().clamp(min=1e-30)
    return {
        "std": centred.square().mean(0).sqrt().mean(),
        "spread": (unit - unit.mean(0)).square().sum(1).mean().sqrt(),
        "rank": rank / min(n - 1, width),
    }


class Trident(Method):
    """An H&E backbone for one or two views, and a separate encoder for the partner, None if
    ``branches`` is 1.
    """

    def __init__(self, backbone: Backbone, partner: Backbone | None, settings: AlignmentSettings):
        super().__init__()
        self.settings = settings
        self.backbone = backbone
        self.partner = partner
        of_images, of_nuclei = (
            (None, None) if partner is None else (partner.image_channels, partner.channels)
        )
        self.image = (
            BranchLevel(backbone.image_channels, of_images, settings)
            if settings.image_weight
            else None
        )
        self.nucleus = (
            BranchLevel(backbone.channels, of_nuclei, settings) if settings.nucleus_weight else None
        )

    def losses(self, batch: PairBatch, turn: str, progress: float) -> Losses:
        """Compute the weighted sum over levels, and each level's terms and diagnostics
        (``measure_spread``).

        ``*_partners`` is the share of samples that have a partner.
        """
        pixels, colour = batch.views.global_views
        # with two branches, only the first global view is used
        n = 1 if self.settings.branches == 2 else 2
        pixels, colour = (part[: n * len(pixels) // 2] for part in (pixels, colour))
        features = self.backbone(self.backbone.prepare(pixels, colour))
        he = [Features(*parts) for parts in zip(*(part.chunk(n) for part in features), strict=True)]
        pictures = self._encode_pictures(batch)
        losses = {}
        loss = 0.0
        if self.image is not None:
            vectors = [features.image for features in he]
            terms = self.image(
                vectors, pictures.image if pictures else None, batch.partner.image_known
            )
            loss = loss + self.settings.image_weight * terms["loss"]
            losses |= {f"image_{name}": value for name, value in terms.items()}
        if self.nucleus is not None:
            terms = self._compare_nuclei(he, pictures, batch)
            loss = loss + self.settings.nucleus_weight * terms["loss"]
            losses |= {f"nucleus_{name}": value for name, value in terms.items()}
        return {"loss": loss, **losses}

    def _encode_pictures(self, batch: PairBatch) -> Features | None:
        if self.partner is None:
            return None
        pixels = batch.partner.image
        # A partner keeps its own colours, because the reference is for H&E.
        colour = torch.eye(
            3, 4, dtype=torch.promote_types(pixels.dtype, torch.float), device=pixels.device
        )
        return self.partner(self.partner.prepare(pixels, colour))

    def _compare_nuclei(
        self, he: list[Features], pictures: Features | None, batch: PairBatch
    ) -> Losses:
        positions = [batch.views.teacher_xy[0], batch.views.student_xy[0]]
        partner = batch.partner
        chosen = _draw(batch.views.shared[0], self.settings.max_nuclei)
        present, rows = partner.nuclei_known & chosen, None
        lattice = self.backbone.lattice
        # With two branches there is only one H&E view, and the positions in the second are not
        # used.
        views = [
            interpolate_at(in_float(view.dense), xy, lattice)[chosen]
            for view, xy in zip(he, positions, strict=False)
        ]
        if pictures:
            has = partner.image_known
            # A partner is cut like the first view, so its nuclei have the same positions.
            rows = interpolate_at(
                in_float(pictures.dense), positions[0][has], self.partner.lattice
            )[present[has]]
        return self.nucleus(views, rows, present[chosen])

    def trained(self) -> Backbone:
        """The H&E backbone."""
        return self.backbone


def _draw(shared: Tensor, most: int) -> Tensor:
    """``shared`` (B, M) with at most ``most`` of its True entries kept, drawn at random."""
    positions = shared.nonzero()
    if len(positions) <= most:
        return shared
    kept = positions[torch.randperm(len(positions), device=positions.device)[:most]]
    return torch.zeros_like(shared).index_put(
        (kept[:, 0], kept[:, 1]), torch.ones((), dtype=torch.bool, device=kept.device)
    )


EPSILON = 1e-5  # added to variances


def infonce(
    branches: Sequence[Tensor], present: Sequence[Tensor], temperature: float = 0.5
) -> Tensor:
    """Symmetric cross-entropy of finding each sample of one branch in another, summed over pairs of
    branches (InfoNCE).

    InfoNCE: arXiv 1807.03748; SimCLR: arXiv 2002.05709. Branches (N, D) are not normalised; a pair
    is compared on the rows ``present`` (N,) in both.
    """
    # A zero that depends on the input, so that it has a gradient even if no two branches share a
    # row.
    total = branches[0].sum() * 0
    for pair in combinations(range(len(branches)), 2):
        both = present[pair[0]] & present[pair[1]]
        if both.any():
            first, second = (functional.normalize(branches[index][both], dim=1) for index in pair)
            logits = first @ second.T / temperature
            own = torch.arange(len(first), device=first.device)
            total = (
                total
                + (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own))
                / 2
            )
    return total


def invariance(branches: Sequence[Tensor], present: Sequence[Tensor]) -> Tensor:
    """Mean squared difference between two branches, summed over ordered pairs of branches (VICReg,
    arXiv 2105.04906).

    Every pair is counted twice and compared on the rows ``present`` (N,) in both branches (N, D).
    """
    total = branches[0].sum() * 0
    for first, second in combinations(range(len(branches)), 2):
        both = present[first] & present[second]
        squares = (branches[first] - branches[second]).square().mean(1)
        total = total + 2 * (squares * both).sum() / both.sum().clamp(min=1)
    return total


def variance(branches: Sequence[Tensor], present: Sequence[Tensor]) -> Tensor:
    """Shortfall of each dimension's standard deviation from 1, averaged over dimensions and summed
    over branches.
    """
    variances = [
        covariance_matrix(rows[has]).diagonal() for rows, has in zip(branches, present, strict=True)
    ]
    return torch.stack(
        [torch.relu(1 - (values + EPSILON).sqrt()).mean() for values in variances]
    ).sum()


def covariance(branches: Sequence[Tensor], present: Sequence[Tensor]) -> Tensor:
    """Squared covariances of all ordered pairs of dimensions, summed over pairs and branches,
    divided by D.
    """
    matrices = [covariance_matrix(rows[has]) for rows, has in zip(branches, present, strict=True)]
    sums = [matrix.square().sum() - matrix.diagonal().square().sum() for matrix in matrices]
    return torch.stack(
        [total / len(matrix) for total, matrix in zip(sums, matrices, strict=True)]
    ).sum()


def covariance_matrix(rows: Tensor) -> Tensor:
    """(D, D) biased covariance of rows (N, D); all zeros if there are no rows."""
    if not len(rows):
        return rows.new_zeros(rows.shape[1], rows.shape[1])
    centred = rows - rows.mean(0)
    return centred.T @ centred / len(rows)

"""MUSE: nucleus-guided dense self-distillation (arXiv 2511.05170), on views of the same tissue that
share nuclei.

A student learns to predict, from a nucleus in one view, what an averaged teacher predicts from the
same nucleus in a view at a different scale. The same is done for whole views, as in DINO. Details
that the paper does not specify follow DINO and related methods (``docs/guide/pretraining.md``).
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

from muse_pipeline.core.config import Between, Fraction, NotNegative, OneOf
from muse_pipeline.core.errors import ConfigError
from muse_pipeline.data.views import ViewBatch, Views, ordered_pairs
from muse_pipeline.models.base import Backbone, Features, Lattice, interpolate_at
from muse_pipeline.training.devices import all_sum, is_distributed, n_processes
from muse_pipeline.training.method import Losses, Method


class Projector(nn.Module):
    """Three layers with GELU, a normalised bottleneck, and the cosine to each of K prototypes; no
    batch norm.

    As in DINO, the projector is dropped after pretraining.
    """

    def __init__(
        self, channels: int, hidden: int = 2048, bottleneck: int = 256, n_prototypes: int = 8192
    ):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(channels, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, bottleneck),
        )
        for layer in self.layers[::2]:
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        self.prototypes = nn.Parameter(torch.empty(n_prototypes, bottleneck))
        # Initialised as in DINO; the norms do not affect the output, but longer vectors turn more
        # slowly in training.
        nn.init.uniform_(self.prototypes, -(bottleneck**-0.5), bottleneck**-0.5)

    def forward(self, features: Tensor) -> Tensor:
        """(N, C) -> (N, K), in float32 because cosines are later divided by temperatures as low as
        0.04.
        """
        latent = self.layers(features).float()
        with torch.autocast(latent.device.type, enabled=False):
            return (
                functional.normalize(latent, dim=-1)
                @ functional.normalize(self.prototypes, dim=-1).T
            )


BALANCES = ("centring", "sinkhorn")
CENTRE_MOMENTUM, USE_MOMENTUM = 0.9, 0.99
N_ITERATIONS = 3  # of Sinkhorn-Knopp
MAX_WIDTH = 1 << 18  # four times the number of prototypes in DINO
Width = Annotated[int, Between(2, MAX_WIDTH)]
Temperature = Annotated[float, Between(1e-3, 10)]


@dataclass(frozen=True)
class SelfDistillationSettings:
    """Losses between student and teacher.

    Attributes:
        nucleus_weight: weight of the loss at shared nuclei.
        image_weight: weight of the loss on whole views.
        balance: way to keep the teacher from collapsing: "centring" (with sharpening) or
            "sinkhorn".
        n_prototypes: number of prototypes of each projector.
        hidden: width of the hidden layers of each projector.
        bottleneck: length of the normalised vectors.
        student_temperature: temperature of the student's softmax.
        teacher_temperature: (initial, final) temperature of the teacher's softmax.
        teacher_warmup: fraction of the run over which the teacher's temperature changes linearly.
        momentum: initial momentum of the teacher; it rises to 1 along a cosine.
        frozen: fraction of the run, at its start, during which the prototypes are not updated.
    """

    nucleus_weight: NotNegative = 1.0
    image_weight: NotNegative = 1.0
    balance: Annotated[str, OneOf(BALANCES)] = "centring"
    n_prototypes: Width = 8192
    hidden: Width = 2048
    bottleneck: Width = 256
    student_temperature: Temperature = 0.1
    teacher_temperature: tuple[Temperature, Temperature] = (0.04, 0.07)
    teacher_warmup: Fraction = 0.3
    momentum: Fraction = 0.996
    frozen: Fraction = 0.01

    def __post_init__(self) -> None:
        if not self.nucleus_weight and not self.image_weight:
            raise ConfigError(
                "distillation: nucleus_weight and image_weight are both 0; nothing would be learnt"
            )


class DistillationLevel(nn.Module):
    """Loss between student and teacher on nuclei or on whole views, with a projector for each
    network.
    """

    def __init__(self, channels: int, settings: SelfDistillationSettings):
        super().__init__()
        self.settings = settings
        self.student = Projector(
            channels, settings.hidden, settings.bottleneck, settings.n_prototypes
        )
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.register_buffer("centre", torch.zeros(settings.n_prototypes))
        self.register_buffer("use", torch.zeros(settings.n_prototypes))
        # sums over the teacher's output; not saved, because they are used within a step
        self._sums: list[Tensor] = []

    @torch.no_grad()
    def targets(self, features: Tensor, progress: float) -> Tensor:
        """Compute the teacher's probabilities (N, K), and keep sums over its output for
        ``update``.
        """
        first, last = self.settings.teacher_temperature
        temperature = first + (last - first) * min(
            progress / max(self.settings.teacher_warmup, 1e-9), 1
        )
        logits = self.teacher(features)
        if self.settings.balance == "sinkhorn":
            targets = sinkhorn_targets(logits, temperature)
        else:
            targets = torch.softmax((logits.float() - self.centre) / temperature, -1)
        likeliest = targets.argmax(-1)
        chosen = torch.zeros_like(self.use).index_add_(
            0, likeliest, torch.ones_like(likeliest).float()
        )
        # All sums (logits, likeliest prototypes, rows) are kept in one tensor, so that processes
        # exchange them at once.
        self._sums.append(
            torch.cat([logits.float().sum(0), chosen, chosen.new_full((1,), len(logits))])
        )
        return targets

    def loss(self, targets: Tensor, features: Tensor) -> Tensor:
        """(N,) cross-entropy between ``targets`` (N, K) and the softmax of the student's output for
        ``features`` (N, C).
        """
        logits = self.student(features) / self.settings.student_temperature
        return -(targets * torch.log_softmax(logits, -1)).sum(-1)

    @torch.no_grad()
    def update(self, momentum: float) -> None:
        """Update the teacher's projector, and its centre and prototype use from this step's sums
        over all processes.
        """
        for average, current in zip(
            self.teacher.parameters(), self.student.parameters(), strict=True
        ):
            average.lerp_(current, 1 - momentum)
        sums, self._sums, n = self._sums, [], len(self.centre)
        logits, chosen, n_rows = all_sum(sum(sums, self.centre.new_zeros(2 * n + 1))).split(
            (n, n, 1)
        )
        any_row, n_rows = (n_rows > 0).to(logits), n_rows.clamp(min=1)
        # The centre follows DINO's equation 4; a step without rows (no shared nuclei) does not
        # change it.
        self.centre.lerp_(logits / n_rows, (1 - CENTRE_MOMENTUM) * any_row)
        self.use.lerp_(chosen / n_rows, (1 - USE_MOMENTUM) * any_row)

    def prototype_usage(self) -> Tensor:
        """Fraction of prototypes in use: those recently likeliest more than 5 % as often as the
        average prototype.
        """
        return (self.use > 0.05 * self.use.mean()).float().mean()


class MusePretraining(Method):
    """Student, averaged teacher, and the losses between them; the teacher starts as a copy of
    ``backbone``.
    """

    def __init__(self, backbone: Backbone, settings: SelfDistillationSettings, n_local: int):
        super().__init__()
        self.settings, self.pairs = settings, ordered_pairs(n_local)
        self.backbone = backbone
        self.teacher = copy.deepcopy(backbone).requires_grad_(False)
        self.nucleus = (
            DistillationLevel(backbone.channels, settings) if settings.nucleus_weight else None
        )
        self.image = (
            DistillationLevel(backbone.image_channels, settings) if settings.image_weight else None
        )

    def losses(self, batch: ViewBatch, turn: str, progress: float) -> Losses:
        """Compute the cross-entropies over shared nuclei and over views, their weighted sum, and
        diagnostics.

        The diagnostics (at logged steps) are ``shared_nuclei``, the mean number of nuclei that a
        pair of views shares; ``entropy_*``, the entropy of the teacher's output as a share of the
        largest possible; ``spread``, the scatter of the teacher's nucleus vectors, 1 if they point
        in all directions; and ``prototypes_*``, the share of prototypes in use.
        """
        with torch.no_grad():
            teachers = _encode_views(self.teacher, batch.global_views, 2)
        students = [*_encode_views(self.backbone, batch.global_views, 2)]
        if batch.local_views is not None:
            students += _encode_views(self.backbone, batch.local_views, len(self.pairs) // 2 - 1)
        terms, loss = {}, students[0].dense.sum() * 0
        if self.nucleus is not None:
            terms |= self._compare_nuclei(teachers, students, batch, progress)
            loss = loss + self.settings.nucleus_weight * terms["nucleus"]
        if self.image is not None:
            terms |= self._compare_images(teachers, students, progress)
            loss = loss + self.settings.image_weight * terms["image"]
        return {"loss": loss, **terms}

    def _compare_nuclei(
        self, teachers: list[Features], students: list[Features], batch: ViewBatch, progress: float
    ) -> Losses:
        level, lattice = self.nucleus, self.backbone.lattice
        # For each pair, the flat indices into (B, M) of its shared nuclei. This synchronises with
        # the device twice; indexing with ``shared`` would do so for each view of each pair.
        _, rows = batch.shared.flatten(1).nonzero(as_tuple=True)
        rows = list(rows.split(batch.shared.sum((1, 2)).tolist()))
        vectors = []
        targets = []
        losses = []
        for teacher in range(2):
            numbers = [number for number, pair in enumerate(self.pairs) if pair[0] == teacher]
            read = [
                _read_rows(teachers[teacher], batch.teacher_xy[n], lattice, rows[n])
                for n in numbers
            ]
            # All pairs with the same teacher view share one projector pass and one Sinkhorn-Knopp
            # assignment.
            pred = level.targets(torch.cat(read), progress).split([len(part) for part in read])
            for n, target in zip(numbers, pred, strict=True):
                ours = _read_rows(students[self.pairs[n][1]], batch.student_xy[n], lattice, rows[n])
                losses.append(level.loss(target, ours))
            vectors += read
            targets += pred
        # The loss of a pair is averaged over its nuclei in all processes, whose numbers of nuclei
        # differ; the factor ``n_processes`` compensates for the later averaging of gradients.
        n_rows = all_sum(batch.shared.sum((1, 2)).float())
        totals = [
            loss.sum() * n_processes() / n
            for loss, n in zip(losses, n_rows.clamp(min=1), strict=True)
        ]
        term = {"nucleus": torch.stack(totals).sum() / (n_rows > 0).sum().clamp(min=1)}
        if not self.gauges:
            return term
        n_pairs = all_sum(n_rows.new_full((), batch.shared[..., 0].numel()))
        return {
            **term,
            "shared_nuclei": n_rows.sum() / n_pairs.clamp(min=1),
            "entropy_nucleus": self._relative_entropy(targets),
            "spread": _spread(torch.cat(vectors)),
            "prototypes_nucleus": level.prototype_usage(),
        }

    def _compare_images(
        self, teachers: list[Features], students: list[Features], progress: float
    ) -> Losses:
        level = self.image
        targets = [level.targets(features.image, progress) for features in teachers]
        losses = [
            level.loss(targets[teacher], students[student].image).mean()
            for teacher, student in self.pairs
        ]
        term = {"image": torch.stack(losses).mean()}
        if not self.gauges:
            return term
        gauges = {
            "entropy_image": self._relative_entropy(targets),
            "prototypes_image": level.prototype_usage(),
        }
        return term | gauges

    def _relative_entropy(self, targets: list[Tensor]) -> Tensor:
        """Mean entropy of all rows of ``targets``, each (N, K), as a share of the largest
        possible.
        """
        entropies = [
            -(probability * probability.clamp(min=1e-12).log()).sum(-1) for probability in targets
        ]
        return _mean(torch.cat(entropies)) / math.log(self.settings.n_prototypes)

    def before_step(self, turn: str, progress: float) -> None:
        """Freeze the prototypes at the start of the run."""
        if progress < self.settings.frozen:
            for level in self._levels():
                # an optimiser skips parameters without a gradient
                level.student.prototypes.grad = None

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Update the teacher's weights; the statistics of its batch norms come from its own
        batches, as in DINO.
        """
        momentum = 1 - (1 - self.settings.momentum) * (math.cos(math.pi * progress) + 1) / 2
        for average, current in zip(
            self.teacher.parameters(), self.backbone.parameters(), strict=True
        ):
            average.lerp_(current, 1 - momentum)
        for level in self._levels():
            level.update(momentum)

    def _levels(self) -> list[DistillationLevel]:
        return [level for level in (self.nucleus, self.image) if level is not None]

    def trained(self) -> Backbone:
        """The teacher's backbone."""
        return self.teacher


def _encode_views(backbone: Backbone, views: Views, n_views: int) -> list[Features]:
    """Features of each of the ``n_views`` views in B sets, computed in one pass."""
    features = backbone(backbone.prepare(views.pixels, views.colour))
    return [
        Features(*parts)
        for parts in zip(*(part.float().chunk(n_views) for part in features), strict=True)
    ]


def _read_rows(features: Features, xy: Tensor, lattice: Lattice, rows: Tensor) -> Tensor:
    """(n, D) features of the dense map at those positions ``xy`` (B, M, 2) that ``rows`` (n,)
    selects.
    """
    return interpolate_at(features.dense, xy, lattice).flatten(0, 1).index_select(0, rows)


# Diagnostics are computed over the rows of all processes, because a single process may have few or
# none.


def _mean(values: Tensor) -> Tensor:
    """Mean of the values (N,) of all processes; 0 if there are no values."""
    total, n_rows = all_sum(torch.stack([values.sum(), values.new_full((), len(values))]))
    return total / n_rows.clamp(min=1)


def _spread(vectors: Tensor) -> Tensor:
    """Standard deviation of normalised vectors (N, D), 1 if they point in all directions; 0 for
    fewer than two.
    """
    unit = functional.normalize(vectors.float(), dim=-1)
    n_rows = all_sum(unit.new_full((), len(unit)))
    mean = all_sum(unit.sum(0)) / n_rows.clamp(min=1)
    squares = all_sum((unit - mean).square().sum(0))
    return (squares / (n_rows - 1).clamp(min=1)).sqrt().mean() * math.sqrt(vectors.shape[1])


def sinkhorn_targets(logits: Tensor, temperature: float) -> Tensor:
    """(N, K) probabilities that assign rows to prototypes so that, over all processes, prototypes
    are used equally.

    Sinkhorn-Knopp, as in SwAV (arXiv 2006.09882) and DINOv2 (arXiv 2304.07193).

    Processes may have different numbers of rows, or none; all of them must call this function.
    """
    # (K, N); kept as logarithms, so that low temperatures do not overflow
    scores = (logits.float() / temperature).T
    n_rows = all_sum(torch.tensor(float(scores.shape[1]), device=logits.device)).clamp(min=1)
    # Each prototype gets 1 / K of the mass, then each row 1 / N; rows are scaled last, so that each
    # sums to 1.
    for _ in range(N_ITERATIONS):
        scores = scores - _log_sum(scores) - math.log(len(scores))
        scores = scores - scores.logsumexp(0, keepdim=True) - n_rows.log()
    return (scores + n_rows.log()).exp().T


def _log_sum(scores: Tensor) -> Tensor:
    """(K, 1) logarithm of the sum of exp(scores) over the rows (K, N) of all processes."""
    highest = (
        scores.amax(1, keepdim=True)
        if scores.shape[1]
        else scores.new_full((len(scores), 1), -torch.inf)
    )
    if is_distributed():
        distributed.all_reduce(highest, op=distributed.ReduceOp.MAX)
    # If no process has a row, the maximum is -inf, and -inf minus itself would be NaN.
    highest = highest.nan_to_num(neginf=0.0)
    return (
        highest + all_sum(torch.exp(scores - highest).sum(1, keepdim=True)).clamp(min=1e-30).log()
    )

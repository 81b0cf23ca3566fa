"""The losses of MUSE pretraining written out as in their formulas: one image, nucleus and prototype
at a time.
"""

from __future__ import annotations

import math
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from muse_pipeline.data.views import ViewBatch
from muse_pipeline.methods.muse.method import DistillationLevel, MusePretraining, Projector
from muse_pipeline.models.base import Backbone, Features


def literal_values(
    method: MusePretraining, batch: ViewBatch, temperature: float
) -> dict[str, Tensor | float]:
    """Each loss, the weighted sum, and the logged gauges of nuclei.

    Args:
        method: the method after ``.double().eval()``.
        batch: a batch of at least two sets.
        temperature: the temperature of the teacher.
    """
    teachers = features_of_views(method.teacher, batch)[:2]
    students = features_of_views(method.backbone, batch)
    nuclei = literal_nuclei(method.nucleus, teachers, students, batch, temperature)
    nucleus, settings = literal_nucleus_loss(nuclei), method.settings
    image = literal_image_loss(method.image, teachers, students, temperature)
    loss = settings.nucleus_weight * nucleus + settings.image_weight * image
    entropies = [-sum(p * math.log(p) for p in one.target.tolist() if p > 0) for one in nuclei]
    unit = torch.stack([one.vector / one.vector.norm() for one in nuclei]).detach()
    deviations = [column.std().item() for column in unit.T]
    return {
        "nucleus": nucleus,
        "image": image,
        "loss": loss,
        "shared_nuclei": len(nuclei) / (batch.shared.shape[0] * batch.shared.shape[1]),
        "entropy_nucleus": sum(entropies) / len(entropies) / math.log(settings.n_prototypes),
        "spread": sum(deviations) / len(deviations) * math.sqrt(unit.shape[1]),
    }


class SharedNucleus(NamedTuple):
    """One nucleus that two views of a set share.

    Attributes:
        pair: index of the pair of views.
        vector: the teacher's feature vector, before its projector.
        target: (K,) probabilities of the prototypes, from the teacher.
        loss: cross-entropy of the student against ``target``.
    """

    pair: int
    vector: Tensor
    target: Tensor
    loss: Tensor


def literal_nuclei(
    level: DistillationLevel, teachers: list, students: list, batch: ViewBatch, temperature: float
) -> list[SharedNucleus]:
    """Every shared nucleus of every pair of views; Sinkhorn balances over all nuclei read from one
    teacher's view.
    """
    found, pairs = [], view_pairs(len(students))
    for teacher in (0, 1):
        shared = torch.nonzero(batch.shared).tolist()
        rows = [(number, b, m) for number, b, m in shared if pairs[number][0] == teacher]
        vectors = [
            read_bilinear(teachers[teacher][b].dense[0], batch.teacher_xy[n, b, m])
            for n, b, m in rows
        ]
        targets = literal_targets(level, vectors, temperature)
        for (n, b, m), vector, target in zip(rows, vectors, targets, strict=True):
            from_student = read_bilinear(
                students[pairs[n][1]][b].dense[0], batch.student_xy[n, b, m]
            )
            loss = literal_cross_entropy(level, target, from_student)
            found.append(SharedNucleus(n, vector, target, loss))
    return found


def literal_nucleus_loss(nuclei: list[SharedNucleus]) -> Tensor:
    """Mean over the nuclei of each pair of views, then over the pairs that share nuclei."""
    pairs = [
        [one.loss for one in nuclei if one.pair == number]
        for number in sorted({one.pair for one in nuclei})
    ]
    return sum(sum(losses) / len(losses) for losses in pairs) / len(pairs)


def literal_image_loss(
    level: DistillationLevel, teachers: list, students: list, temperature: float
) -> Tensor:
    """Mean over all sets and all pairs of views, including local ones; Sinkhorn balances over the
    sets of one view.
    """
    targets = [
        literal_targets(level, [one.image[0] for one in teachers[view]], temperature)
        for view in (0, 1)
    ]
    losses = [
        literal_cross_entropy(level, target, from_student.image[0])
        for teacher, student in view_pairs(len(students))
        for target, from_student in zip(targets[teacher], students[student], strict=True)
    ]
    return sum(losses) / len(losses)


def literal_targets(
    level: DistillationLevel, vectors: list[Tensor], temperature: float
) -> list[Tensor]:
    """(K,) probabilities from the teacher for each vector; Sinkhorn balances over all of them."""
    cosines = [literal_cosines(level.teacher, vector).detach() for vector in vectors]
    if level.settings.balance == "centring":
        return [softmax((one - level.centre) / temperature) for one in cosines]
    q = torch.stack(
        [(one / temperature).exp() for one in cosines]
    )  # algorithm 1 of arXiv 2006.09882; rows: vectors
    for _ in range(3):
        q = q / q.sum(0, keepdim=True) / q.shape[1]
        q = q / q.sum(1, keepdim=True) / q.shape[0]
    return list(q * len(q))


def literal_cross_entropy(level: DistillationLevel, target: Tensor, from_student: Tensor) -> Tensor:
    """-sum p log q, with p the teacher's probabilities and q those of one feature vector of the
    student.
    """
    q = softmax(literal_cosines(level.student, from_student) / level.settings.student_temperature)
    return -sum(a * b.log() for a, b in zip(target, q, strict=True))


def literal_cosines(projector: Projector, vector: Tensor) -> Tensor:
    """(K,) cosines between a projected vector and each prototype."""
    latent = projector.layers(vector)
    return torch.stack(
        [latent @ one / (latent.norm() * one.norm()) for one in projector.prototypes]
    )


def softmax(logits: Tensor) -> Tensor:
    return logits.exp() / logits.exp().sum()


def view_pairs(n_views: int) -> list[tuple[int, int]]:
    """Every (teacher's view, student's view): each of the two global views with every other view of
    the set.
    """
    return [pair for pair in product((0, 1), range(n_views)) if pair[0] != pair[1]]


def features_of_views(backbone: Backbone, batch: ViewBatch) -> list[list[Features]]:
    """Features, indexed ``[view][set]``; each image goes through the network by itself."""
    n_sets, found = batch.shared.shape[1], []
    for views in (batch.global_views, batch.local_views):
        if views is not None:
            images = zip(views.pixels.double(), views.colour.double(), strict=True)
            alone = [
                backbone(backbone.prepare(pixels[None], colour[None])) for pixels, colour in images
            ]
            found += [alone[first : first + n_sets] for first in range(0, len(alone), n_sets)]
    return found


def read_bilinear(dense: Tensor, xy: Tensor) -> Tensor:
    """Interpolate a vector bilinearly: pixel x is at column x / 4 - 0.5, and border cells are
    repeated outwards.
    """
    column, row = (
        min(max(float(v) / 4 - 0.5, 0), n - 1)
        for v, n in zip(xy, (dense.shape[2], dense.shape[1]), strict=True)
    )
    left, top = int(column), int(row)
    right, bottom = min(left + 1, dense.shape[2] - 1), min(top + 1, dense.shape[1] - 1)
    a, b = column - left, row - top
    upper = (1 - a) * dense[:, top, left] + a * dense[:, top, right]
    lower = (1 - a) * dense[:, bottom, left] + a * dense[:, bottom, right]
    return (1 - b) * upper + b * lower

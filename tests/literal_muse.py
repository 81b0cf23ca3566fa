"""The losses of MUSE pretraining written out from their formulas: one image, nucleus and prototype at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from muse_pipeline.data.views import ViewBatch
from muse_pipeline.methods.muse.method import Level, MusePretraining, Projector
from muse_pipeline.models.base import Backbone, Features


def literal_losses(method: MusePretraining, batch: ViewBatch, temperature: float) -> dict[str, Tensor]:
    """Every loss and their weighted sum, for a method in double precision and evaluation mode.

    Args:
        method: converted by ``.double().eval()``.
        batch: two sets or more.
        temperature: of the teacher.
    """
    teachers, students = features_of_views(method.teacher, batch)[:2], features_of_views(method.backbone, batch)
    nucleus = literal_nucleus_loss(method.nucleus, teachers, students, batch, temperature)
    image = literal_image_loss(method.image, teachers, students, temperature)
    first, second = (literal_koleo([one.image[0] for one in students[view]]) for view in (0, 1))
    koleo = (first + second) / 2
    settings = method.settings
    loss = settings.nucleus_weight * nucleus + settings.image_weight * image + settings.koleo_weight * koleo
    return {"nucleus": nucleus, "image": image, "koleo": koleo, "loss": loss}


def literal_nucleus_loss(level: Level, teachers: list, students: list, batch: ViewBatch, temperature: float) -> Tensor:
    """Mean over the nuclei of each pair of views, then over the pairs that share nuclei."""
    pairs = []
    for number, (teacher, student) in enumerate(view_pairs(len(students))):
        losses = []
        for b in range(len(batch.shared[number])):
            for m in torch.nonzero(batch.shared[number, b]).flatten():
                from_teacher = read_bilinear(teachers[teacher][b].dense[0], batch.teacher_xy[number, b, m])
                from_student = read_bilinear(students[student][b].dense[0], batch.student_xy[number, b, m])
                losses.append(literal_cross_entropy(level, from_teacher, from_student, temperature))
        if losses:
            pairs.append(sum(losses) / len(losses))
    return sum(pairs) / len(pairs)


def literal_image_loss(level: Level, teachers: list, students: list, temperature: float) -> Tensor:
    """Mean over all sets and all pairs of views, local views included."""
    losses = [
        literal_cross_entropy(level, from_teacher.image[0], from_student.image[0], temperature)
        for teacher, student in view_pairs(len(students))
        for from_teacher, from_student in zip(teachers[teacher], students[student], strict=True)
    ]
    return sum(losses) / len(losses)


def literal_koleo(vectors: list[Tensor]) -> Tensor:
    """-1/n sum_i log min_j |x_i - x_j| of the vectors scaled to unit length (arXiv 1806.03198)."""
    unit = [vector / vector.norm() for vector in vectors]
    logs = []
    for i, one in enumerate(unit):
        distances = [(one - other).norm() for j, other in enumerate(unit) if j != i]
        logs.append(min(distances).log())
    return -sum(logs) / len(logs)


def literal_cross_entropy(level: Level, from_teacher: Tensor, from_student: Tensor, temperature: float) -> Tensor:
    """-sum p log q of one feature vector of the teacher and one of the student."""
    p = softmax((literal_cosines(level.teacher, from_teacher) - level.centre) / temperature).detach()
    q = softmax(literal_cosines(level.student, from_student) / level.settings.student_temperature)
    return -sum(a * b.log() for a, b in zip(p, q, strict=True))


def literal_cosines(projector: Projector, vector: Tensor) -> Tensor:
    """(K,) between a projected vector and each prototype."""
    latent = projector.layers(vector)
    return torch.stack([latent @ one / (latent.norm() * one.norm()) for one in projector.prototypes])


def softmax(logits: Tensor) -> Tensor:
    return logits.exp() / logits.exp().sum()


def view_pairs(n_views: int) -> list[tuple[int, int]]:
    """(teacher's view, student's view): each of the two global views with every other view of the set."""
    return [(teacher, student) for teacher in (0, 1) for student in range(n_views) if student != teacher]


def features_of_views(backbone: Backbone, batch: ViewBatch) -> list[list[Features]]:
    """Features ``[view][set]``, each image alone through the network."""
    n_sets, found = batch.octaves.shape[1], []
    for views in (batch.global_views, batch.local_views):
        if views is not None:
            images = zip(views.pixels.double(), views.colour.double(), strict=True)
            alone = [backbone(backbone.prepare(pixels[None], colour[None])) for pixels, colour in images]
            found += [alone[first : first + n_sets] for first in range(0, len(alone), n_sets)]
    return found


def read_bilinear(dense: Tensor, xy: Tensor) -> Tensor:
    """Bilinear: pixel x lies at column x / 4 - 0.5; the border extends outwards."""
    column, row = (
        min(max(float(v) / 4 - 0.5, 0), n - 1) for v, n in zip(xy, (dense.shape[2], dense.shape[1]), strict=True)
    )
    left, top = int(column), int(row)
    right, bottom = min(left + 1, dense.shape[2] - 1), min(top + 1, dense.shape[1] - 1)
    a, b = column - left, row - top
    upper = (1 - a) * dense[:, top, left] + a * dense[:, top, right]
    lower = (1 - a) * dense[:, bottom, left] + a * dense[:, bottom, right]
    return (1 - b) * upper + b * lower

"""Average of a detector's trained and initial weights, in a proportion chosen on held-out labels.

Training on few labels can make a detector worse. Pictures are therefore held out in turn, and
scores on them decide how much of the change in weights is kept (Wortsman et al., "Robust
fine-tuning of zero-shot models", arXiv 2109.01903). The length of the run and its learning rate
depend on the number of labelled nuclei.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from muse_pipeline.core.config import Between
from muse_pipeline.core.text import count_noun
from muse_pipeline.evaluation.bootstrap import compare_scores
from muse_pipeline.evaluation.detection import DetectionCounts
from muse_pipeline.labels.labelled_image import LabelledImage
from muse_pipeline.labels.statistics import count_labels
from muse_pipeline.training.checkpoint import Checkpoint
from muse_pipeline.training.method import Schedule

SHARES = (0.25, 0.5, 0.75, 1.0)
NUCLEI_PER_STEP, LEAST_STEPS = 4, 200
# highest learning rate, and the minimum number of labelled nuclei for it
FULL_RATE, FULL_RATE_NUCLEI = 2.5e-4, 2000
BLOCK_UM = 64.0  # side of the blocks of a picture that the bootstrap resamples
N_SCORES = 8  # times that a training is scored on labels held out
PATIENCE = 2  # scores in a row that are not above the best one before, after which it ends
TOLERANCE = 0.5  # largest accepted decrease of any score on held-out labels, in points
# minimum number of labels of a class, without any one part of the pictures, from which it is learnt
LEAST_LABELS = 20


@dataclass(frozen=True)
class MixingSettings:
    """Settings of the average of a detector's trained and initial weights.

    Attributes:
        folds: number of parts into which the labelled pictures are split, each held out from one
            additional training; ignored if there are `validation` sources.
    """

    folds: Annotated[int, Between(2, 10)] = 3


def follow_labels(schedule: Schedule, n_nuclei: int) -> Schedule:
    """Reduce the steps and the learning rate of a schedule for a small number of labelled
    nuclei.
    """
    steps = max(n_nuclei // NUCLEI_PER_STEP, LEAST_STEPS)
    rate = FULL_RATE * min(1.0, n_nuclei / FULL_RATE_NUCLEI) ** 0.5
    return replace(
        schedule,
        steps=min(schedule.steps, steps),
        learning_rate=min(schedule.learning_rate, max(rate, 1e-6)),
    )


def shorten(schedule: Schedule, share: float) -> Schedule:
    """Take the first ``share`` of the steps of a schedule, with the learning rates that they have
    in the whole one.
    """
    steps = max(1, round(share * schedule.steps))
    curve = schedule.curve or schedule.steps
    return replace(schedule, steps=steps, curve=None if steps == curve else curve)


Part = tuple[list[LabelledImage], list[LabelledImage]]  # images to train on, and images to hold out


def split_images(images: Sequence[LabelledImage], n_folds: int) -> list[Part]:
    """Split images into at most ``n_folds`` parts; return, for each, the images to train on and
    those to hold out.

    Pictures of a patient stay together, unless there is only one patient; a single picture is
    halved.
    """
    keys = [image.patient for image in images]
    if len(set(keys)) < 2:
        keys = [image.name for image in images]
    if len(set(keys)) < 2:
        images = [half for image in images for half in _halve(image)]
        keys = [f"{index % 2}" for index in range(len(images))]
    names = sorted(set(keys))
    part_of = {name: index % n_folds for index, name in enumerate(names)}
    parts = [part_of[key] for key in keys]
    return [
        (
            [image for image, part in zip(images, parts, strict=True) if part != held],
            [image for image, part in zip(images, parts, strict=True) if part == held],
        )
        for held in range(max(parts) + 1)
    ]


def _halve(image: LabelledImage) -> list[LabelledImage]:
    """Return two copies of an image, one for each half of its annotated area, which is cut across
    the longer side.
    """
    left, top, right, bottom = image.annotated_box
    row, column = np.indices(image.pixels.shape[:2])
    is_first = (
        column < (left + right) / 2 if right - left >= bottom - top else row < (top + bottom) / 2
    )
    return [restrict(image, mask) for mask in (is_first, ~is_first)]


def count_left(parts: Sequence[Part], n_classes: int) -> ndarray:
    """(C,) labels of each class that are left without the part that contains most of them.

    They are few if the class has few labels, or has them in one picture alone.
    """
    return np.min([count_labels(images, n_classes) for images, _ in parts], 0)


def find_kept(left: ndarray) -> list[int]:
    """The classes that labels do not change, by the result of ``count_left``; all of them if fewer
    than two are left, because a class is learnt in contrast to another. None for a single class,
    whose probability is always 1.
    """
    few = left < LEAST_LABELS
    return np.flatnonzero(few | ((~few).sum() < 2)).tolist() if len(left) > 1 else []


def describe_kept(kept: Sequence[int], left: ndarray, classes: Sequence[str]) -> str:
    """Describe a result of ``find_kept`` in one sentence."""
    names = ", ".join(f"{classes[index]} ({left[index]:.0f})" for index in kept)
    return (
        f"classes kept as in the initial weights: {names}; label more of them in other pictures,"
        f" because a class is learnt if {LEAST_LABELS} labels of it, and of another class, are left"
        " (in brackets) without any one part of the pictures"
    )


def restrict(image: LabelledImage, mask: ndarray) -> LabelledImage:
    """Restrict the nuclei and the region of an image to ``mask`` (h, w) bool."""
    whole = np.ones(mask.shape, bool) if image.region is None else image.region
    column, row = image.nuclei.xy.astype(int).T
    inside = mask[row.clip(0, mask.shape[0] - 1), column.clip(0, mask.shape[1] - 1)]
    annotated = whole if image.annotated is None else image.annotated
    return replace(image, nuclei=image.nuclei[inside], region=whole & mask, annotated=annotated)


def mix_weights(start: Checkpoint, trained: Checkpoint, share: float) -> Checkpoint:
    """Average two checkpoints of a network; ``trained`` has the weight ``share`` and provides the
    meta.
    """
    if not share:
        return replace(start, meta=trained.meta)

    def mix(first: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            # Integers, such as the counters of batch norms, cannot be averaged.
            name: (
                torch.lerp(first[name].to(value), value, share)
                if value.is_floating_point()
                else value
            )
            for name, value in other.items()
        }

    return replace(
        trained, backbone=mix(start.backbone, trained.backbone), head=mix(start.head, trained.head)
    )


def choose_share(
    counts: ndarray, classes: Sequence[str], kept: Sequence[int] = ()
) -> dict[str, Any]:
    """Choose the share of the trained weights by scores on held-out labels.

    The criterion is the gain in the sum of detection F1 and mean class F1, less one standard error
    of this gain. Neither these scores nor the F1 of a class may fall by more than ``TOLERANCE``;
    classes in ``kept``, which have too few labels to judge, have no influence. ``counts`` (1 + S,
    B, C + 1, 3) are those in B blocks, with the initial weights and then with each of S ``SHARES``.
    The entry "share" is 0 if the initial weights are kept, "scores" are named results of
    ``compare_scores``, and "n_blocks" is B.
    """
    is_labelled = counts[0][..., [0, 2]].sum((0, 2)) > 0  # true positives or false negatives
    rows = is_labelled[1:].nonzero()[0] + 1
    learnt = np.setdiff1d(rows, np.array(kept, int) + 1)
    criteria = {
        "detection": is_labelled[:1].nonzero()[0],
        "mean class": learnt if len(learnt) else rows,
    }
    criteria = {name: of_name for name, of_name in criteria.items() if len(of_name)}
    rows_of = criteria | {classes[row - 1]: np.array([row]) for row in rows}
    judged = [*criteria, *(classes[row - 1] for row in learnt)]
    blocks = [str(index) for index in range(counts.shape[1])]
    best = {"share": 0.0, "scores": {}, "n_blocks": len(blocks)}
    if not criteria:
        return best
    least_gain = 0.0
    for share, after in zip(SHARES, counts[1:], strict=True):
        scores = {
            name: compare_scores(counts[0], after, blocks, partial(_sum_of_scores, rows=[of_name]))
            for name, of_name in rows_of.items()
        }
        together = compare_scores(
            counts[0], after, blocks, partial(_sum_of_scores, rows=[*criteria.values()])
        )
        # if no share is chosen, the smallest one's are reported
        best["scores"] = best["scores"] or scores
        # A 95 % interval is 2 x 1.96 standard errors wide. Without an interval (a single block) no
        # share is chosen.
        low, high = together["interval"] or (-np.inf, np.inf)
        gain = together["difference"] - (high - low) / (2 * 1.96)
        if gain > least_gain and all(scores[name]["difference"] >= -TOLERANCE for name in judged):
            least_gain = gain
            best = {**best, "share": share, "scores": scores}
    return best


def _sum_of_scores(values: ndarray, rows: list[ndarray]) -> ndarray:
    """Mean F1 over each group of ``rows`` of counts (..., C + 1, 3), summed over groups: (...)."""
    f1 = np.nan_to_num(DetectionCounts(values).f1)
    return sum(f1[..., group].mean(-1) for group in rows)


def describe_gains(choice: dict[str, Any]) -> str:
    """Describe a result of ``choose_share`` in one sentence, while more labels are still to be held
    out.
    """
    gains = ", ".join(
        f"{name} {score['difference']:+.1f}" for name, score in choice["scores"].items()
    )
    share = f"with {choice['share'] or SHARES[0]:.0%} of the change"
    return f"F1 on labels held out so far: {gains or 'not known'} {share}"


def describe_choice(choice: dict[str, Any], where: str) -> list[str]:
    """Describe a result of ``choose_share`` in sentences; ``where`` names the labels that it is
    based on.
    """
    share = choice["share"]
    kept = (
        f"{share:.0%} of the change by training is kept"
        if share
        else "not enough labels: initial weights are kept"
    )
    tried = "" if share else f" with {SHARES[0]:.0%} of the change"
    sentences = [
        f"{kept}, as scored on {where}, in {count_noun(choice['n_blocks'], 'square')} of"
        f" {BLOCK_UM:g} um"
    ]
    for name, score in choice["scores"].items():
        low, high = score["interval"] or (float("nan"), float("nan"))
        sentences.append(
            f"{name} F1 on {where}: {score['before']:.1f} before, {score['after']:.1f} now{tried} "
            f"({score['difference']:+.1f}, 95 % interval {low:+.1f} to {high:+.1f})"
        )
    return sentences


def describe_falls(changes: Mapping[str, float], where: str) -> list[str]:
    """Name the classes whose F1 falls by more than ``TOLERANCE``, for the end of a run."""
    falls = [f"{name} {change:+.1f}" for name, change in changes.items() if change < -TOLERANCE]
    return [f"warning: F1 on {where} falls: {', '.join(falls)}"] if falls else []

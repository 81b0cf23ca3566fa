"""Accuracy of classes at given nuclei, with intervals by patient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from muse_pipeline.evaluation.bootstrap import REPEATS, percentile_interval, resample_sums


def accuracy(confusion: np.ndarray) -> np.ndarray:
    """(...) percent right of confusion matrices (..., C, C), true by predicted."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return 100 * np.trace(confusion, axis1=-2, axis2=-1) / confusion.sum((-2, -1))


def recalls(confusion: np.ndarray) -> np.ndarray:
    """(..., C) percent right of each true class; NaN where a class is not there."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return 100 * np.diagonal(confusion, axis1=-2, axis2=-1) / confusion.sum(-1)


def balanced_accuracy(confusion: np.ndarray) -> np.ndarray:
    """(...) mean of the recalls of the classes that are there."""
    by_class = recalls(confusion)
    known = np.isfinite(by_class)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(known, by_class, 0).sum(-1) / known.sum(-1)


def confusion_by_patient(
    true: np.ndarray, predicted: np.ndarray, patient: Sequence[str], n_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Names of the patients, sorted, and (N, C, C) nuclei of each, true by predicted class."""
    names, member = np.unique(np.asarray(patient, str), return_inverse=True)
    by_patient = np.zeros((len(names), n_classes, n_classes), int)
    np.add.at(by_patient, (member, true, predicted), 1)
    return names, by_patient


def score_classes(
    true: np.ndarray, predicted: np.ndarray, patient: Sequence[str], classes: Sequence[str], repeats: int = REPEATS
) -> dict[str, Any]:
    """Both accuracies with 95 % intervals over patients, each class' recall, and the confusion matrix.

    Args:
        true: (N,) class index.
        predicted: (N,) class index.
        patient: (N,) whose nucleus it is.
        classes: names of the C classes.
        repeats: draws of the bootstrap.
    """
    names, by_patient = confusion_by_patient(true, predicted, patient, len(classes))
    total, drawn = by_patient.sum(0), resample_sums(by_patient, names, repeats)
    return {
        "accuracy": float(accuracy(total)),
        "accuracy_interval": percentile_interval(accuracy(drawn), names),
        "balanced_accuracy": float(balanced_accuracy(total)),
        "balanced_accuracy_interval": percentile_interval(balanced_accuracy(drawn), names),
        "recall": {
            name: None if np.isnan(value) else float(value) for name, value in zip(classes, recalls(total), strict=True)
        },
        "confusion": total.tolist(),
    }

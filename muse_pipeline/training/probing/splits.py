"""Which nuclei choose among candidates (k, epoch) and which are reported; never both at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from muse_pipeline.errors import ConfigError


@dataclass(frozen=True, eq=False)
class ProbeSplit:
    """Of P judged nuclei.

    Attributes:
        choosing: (P,) bool.
        reported: (P,) bool.
    """

    choosing: np.ndarray
    reported: np.ndarray


def split_validation_and_test(n_validation: int, n_test: int) -> tuple[ProbeSplit, ...]:
    """Validation, which stands first, chooses; the test is reported."""
    is_test = np.arange(n_validation + n_test) >= n_validation
    return (ProbeSplit(~is_test, is_test),)


def split_halves(patient: np.ndarray) -> tuple[ProbeSplit, ProbeSplit]:
    """Without a test: every second patient, by name. What one half chooses is reported on the other, and vice versa.

    Raises:
        ConfigError: there is one patient.
    """
    names = np.unique(patient)
    if len(names) < 2:
        raise ConfigError(
            f"the validation pictures are all of patient '{names[0]}': one part must choose and another be reported; "
            "add patients, or give --test"
        )
    second = np.isin(patient, names[1::2])
    return ProbeSplit(second, ~second), ProbeSplit(~second, second)


def choose(
    candidates: np.ndarray, label: np.ndarray, splits: Sequence[ProbeSplit], last: bool = False
) -> tuple[np.ndarray, list[int]]:
    """For each split the candidate with the best accuracy on what chooses, applied to what is reported.

    Args:
        candidates: (E, P) class index.
        label: (P,) true class index.
        splits: whose reported nuclei do not overlap.
        last: of equals the last, as for epochs; else the first, as for k.

    Returns:
        (P,) predictions, -1 where nothing is reported; the index of the candidate of each split.
    """
    predicted, chosen = np.full(len(label), -1), []
    for split in splits:
        right = (candidates[:, split.choosing] == label[split.choosing]).mean(1)
        best = len(right) - 1 - right[::-1].argmax() if last else right.argmax()
        predicted[split.reported] = candidates[best, split.reported]
        chosen.append(int(best))
    return predicted, chosen

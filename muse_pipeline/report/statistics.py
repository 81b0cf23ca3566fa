"""The section of the report that compares groups of patients: every measure with its patients, effect and tests."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from muse_pipeline.core.errors import ConfigError
from muse_pipeline.report.plots import group_color

SHOWN = 15  # measures of a pair of groups; the others are folded away
MOST_DOTS = 100  # of a group: a larger one is drawn by so many percentiles
FOUND = 0.05  # false discovery rate
MOST_EFFECT = 4  # where the axis of effects ends at the latest
_UNITS = {"1": "", "1/mm2": "/mm²", "um": "µm", "um2": "µm²", "OD/um": "OD/µm"}


def read_statistics(table: Path) -> dict[str, Any]:
    """The content of ``templates/statistics.html``, from ``statistics.tsv`` and ``statistics.patients.tsv`` beside it.

    Raises:
        ConfigError: a file is missing or damaged.
    """
    patients = table.with_suffix(f".patients{table.suffix}")
    try:
        of_patient = _read(patients)
        groups = groupby(_read(table), key=lambda row: (row["first"], row["second"]))
        pairs = [_pair(names, [_measure(row, names, of_patient) for row in rows]) for names, rows in groups]
    except (OSError, KeyError, ValueError) as error:
        raise ConfigError(f"{table}: is no result of `muse statistics` ({error}); run it again") from error
    names = sorted({name for pair in pairs for name in pair["names"]})
    colors = {name: group_color(names, name) for name in names}
    return {"pairs": pairs, "colors": colors, "table": table.name, "patients": patients.name}


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, dialect="excel-tab"))


def _measure(row: dict[str, str], names: Sequence[str], patients: Sequence[dict[str, str]]) -> dict[str, Any]:
    """A measure in two groups of patients; a number that is missing is None."""
    groups = [
        np.array([float(each[row["measure"]] or "nan") for each in patients if each["group"] == n]) for n in names
    ]
    known = [values[np.isfinite(values)] for values in groups]
    together = np.concatenate(known) if any(map(len, known)) else np.zeros(1)
    numbers = ("mean_first", "mean_second", "effect", "low", "high", "p", "q")
    found = {name: value if math.isfinite(value := float(row[name] or "nan")) else None for name in numbers}
    return {
        "name": row["measure"],
        "unit": _UNITS.get(row["unit"], row["unit"]),
        "n_patients": [len(values) for values in known],
        "dots": [_thin(values).tolist() for values in known],
        "least": float(together.min()),
        "extent": float(np.ptp(together)) or 1.0,
        "is_found": found["q"] is not None and found["q"] < FOUND,
        "means": [found["mean_first"], found["mean_second"]],
        **found,
    }


def _thin(values: np.ndarray) -> np.ndarray:
    return np.percentile(values, np.linspace(0, 100, MOST_DOTS)) if len(values) > MOST_DOTS else values


def _pair(names: tuple[str, str], measures: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Two groups: the number of measures that differ, and all measures by ascending p."""
    n_patients = [max(each["n_patients"][side] for each in measures) for side in (0, 1)]
    n_tested = sum(each["p"] is not None for each in measures)
    least = _least_p(*n_patients)
    ranked = sorted(measures, key=lambda each: (_last(each["q"]), _last(each["p"]), -abs(each["effect"] or 0)))
    ends = [abs(each[name] or 0) for each in measures for name in ("effect", "low", "high")]
    return {
        "names": names,
        "n_patients": n_patients,
        "n_found": sum(each["is_found"] for each in measures),
        "n_tested": n_tested,
        "least_p": f"{least:.2g}" if n_tested and least > FOUND else "",
        "reach": min(math.ceil(max(1, *ends)), MOST_EFFECT),
        "shown": ranked[:SHOWN],
        "others": ranked[SHOWN:],
    }


def _least_p(n_first: int, n_second: int) -> float:
    """The least p that a permutation test can give: groups of equal size can be exchanged."""
    return (2 if n_first == n_second else 1) / math.comb(n_first + n_second, n_first)


def _last(value: float | None) -> float:
    return math.inf if value is None else value

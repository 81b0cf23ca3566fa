"""The section of the report that compares groups of patients: every measure with its patients, effect and tests."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from muse_pipeline.core.errors import ConfigError
from muse_pipeline.report.plots import group_color

SHOWN = 15  # measures of a pair of groups; the others are folded away
MOST_DOTS = 100  # of a group: a larger one is drawn by so many percentiles
FOUND = 0.05  # false discovery rate
PLOT_PX, MARGIN_PX = 220, 6
LANES_PX = 9, 25  # where the groups are drawn in a row of 34 px
MOST_EFFECT = 4  # where the axis of effects ends at the latest


@dataclass(frozen=True)
class ComparedMeasure:
    """A measure in two groups of patients.

    Attributes:
        name: name of the measure.
        unit: unit of its values.
        values: values of the patients of either group.
        means: mean of either group.
        effect: Hedges' g with the ends of its interval; NaN if it was not tested.
        p: p of the permutation test.
        q: q after control of the false discovery rate.
    """

    name: str
    unit: str
    values: tuple[np.ndarray, np.ndarray]
    means: tuple[float, float]
    effect: tuple[float, float, float]
    p: float
    q: float

    @property
    def is_found(self) -> bool:
        """True if the groups differ at a false discovery rate of ``FOUND``."""
        return self.q < FOUND


def read_statistics(table: Path) -> dict[str, Any]:
    """The comparisons in ``statistics.tsv`` and ``statistics.patients.tsv`` beside it, for ``statistics.html``.

    Raises:
        ConfigError: a file is missing or damaged.
    """
    patients = table.with_suffix(f".patients{table.suffix}")
    try:
        pairs = list(_read_pairs(table, patients))
    except (OSError, KeyError, ValueError) as error:
        raise ConfigError(f"{table}: is no result of `muse statistics` ({error}); run it again") from error
    names = sorted({name for pair, _ in pairs for name in pair})
    return {
        "pairs": [_pair(pair, [group_color(names, name) for name in pair], measures) for pair, measures in pairs],
        "table": table.name,
        "patients": patients.name,
    }


def _read_pairs(table: Path, patients: Path) -> Iterator[tuple[tuple[str, str], list[ComparedMeasure]]]:
    of_patient = _read(patients)
    for pair, rows in groupby(_read(table), key=lambda row: (row["first"], row["second"])):
        yield (
            pair,
            [_measure(row, [[each for each in of_patient if each["group"] == name] for name in pair]) for row in rows],
        )


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, dialect="excel-tab"))


def _measure(row: dict[str, str], groups: Sequence[Sequence[dict[str, str]]]) -> ComparedMeasure:
    first, second = (np.array([float(each[row["measure"]] or "nan") for each in group]) for group in groups)
    numbers = {
        name: float(row[name] or "nan") for name in ("mean_first", "mean_second", "effect", "low", "high", "p", "q")
    }
    return ComparedMeasure(
        row["measure"],
        row["unit"],
        (first[np.isfinite(first)], second[np.isfinite(second)]),
        (numbers["mean_first"], numbers["mean_second"]),
        (numbers["effect"], numbers["low"], numbers["high"]),
        numbers["p"],
        numbers["q"],
    )


def _pair(names: tuple[str, str], colors: Sequence[str], measures: Sequence[ComparedMeasure]) -> dict[str, Any]:
    """Two groups: the number of measures that differ, and all measures by ascending p."""
    n_patients = [max(len(each.values[side]) for each in measures) for side in (0, 1)]
    n_tested = sum(math.isfinite(each.p) for each in measures)
    least = _least_p(*n_patients)
    ranked = sorted(measures, key=lambda each: (_last(each.q), _last(each.p), -abs(_first(each.effect[0]))))
    largest = max([1.0, *(abs(end) for each in ranked for end in each.effect if math.isfinite(end))])
    reach = min(math.ceil(largest), MOST_EFFECT)
    rows = [_row(each, reach, colors) for each in ranked]
    return {
        "groups": list(zip(names, colors, n_patients, strict=True)),
        "n_found": sum(each.is_found for each in measures),
        "n_tested": n_tested,
        "least_p": f"{least:.2g}" if n_tested and least > FOUND else "",
        "reach": reach,
        "shown": rows[:SHOWN],
        "others": rows[SHOWN:],
    }


def _least_p(n_first: int, n_second: int) -> float:
    """The least p that a permutation test can give: groups of equal size can be exchanged."""
    return (2 if n_first == n_second else 1) / math.comb(n_first + n_second, n_first)


def _last(value: float) -> float:
    return value if math.isfinite(value) else math.inf


def _first(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def _row(measure: ComparedMeasure, reach: int, colors: Sequence[str]) -> dict[str, Any]:
    g, low, high = measure.effect
    is_tested, means = math.isfinite(g), [_number(mean) for mean in measure.means]
    unit = {"1": "", "1/mm2": "/mm²", "um": "µm", "um2": "µm²", "OD/um": "OD/µm"}.get(measure.unit, measure.unit)
    return {
        "name": measure.name,
        "is_found": measure.is_found,
        "dots": _dots(measure, colors),
        "means": list(zip(means, colors, strict=True)),
        "unit": unit,
        "effect": f"{g:+.2f}" if is_tested else "not tested",
        "ends": f"{low:+.2f} to {high:+.2f}" if math.isfinite(low) else "",
        "x": _effect_x(g, reach) if is_tested else None,
        "x_ends": [_effect_x(end, reach) for end in (low, high)] if math.isfinite(low) else [],
        "chances": [_chance(measure.p), _chance(measure.q)],
    }


def _number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "–"


def _chance(value: float) -> str:
    return "–" if not math.isfinite(value) else f"{value:.4f}" if value < 0.1 else f"{value:.2f}"


def _dots(measure: ComparedMeasure, colors: Sequence[str]) -> list[dict[str, Any]]:
    """Positions of the patients and the mean of each group, in px, with the middle of the lane of the group."""
    known = np.concatenate(measure.values)
    if not len(known):
        return []
    low, span = known.min(), (known.max() - known.min()) or 1.0

    def x(value: float) -> float:
        return round(MARGIN_PX + (PLOT_PX - 2 * MARGIN_PX) * float((value - low) / span), 1)

    lanes = []
    for values, mean, y, color in zip(measure.values, measure.means, LANES_PX, colors, strict=True):
        shown = np.percentile(values, np.linspace(0, 100, MOST_DOTS)) if len(values) > MOST_DOTS else values
        mean_x = x(mean) if math.isfinite(mean) else None
        lanes.append({"color": color, "y": y, "xs": [x(value) for value in shown], "mean": mean_x})
    return lanes


def _effect_x(effect: float, reach: int) -> float:
    """Position of an effect in px, with zero in the middle; values beyond ``reach`` are clipped."""
    within = min(max(effect, -reach), reach)
    return round(PLOT_PX / 2 + (PLOT_PX / 2 - MARGIN_PX) * within / reach, 1)

"""The section of the report that compares groups of patients: every measure with its patients, effect and tests."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from muse_pipeline.core.errors import ConfigError
from muse_pipeline.core.text import count_noun
from muse_pipeline.report.html import Markup, element, join
from muse_pipeline.report.plots import group_color

SHOWN = 15  # measures of a pair of groups; the others are folded away
MOST_DOTS = 100  # of a group: a larger one is drawn by so many percentiles
FOUND = 0.05  # false discovery rate
PLOT_PX, MARGIN_PX = 220, 6
LANES_PX, ROW_PX = (9, 25), 34  # where the groups are drawn in a row
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


def statistics_section(table: Path) -> Iterator[Markup]:
    """The section from ``statistics.tsv`` and ``statistics.patients.tsv`` beside it.

    Raises:
        ConfigError: a file is missing or damaged.
    """
    patients = table.with_suffix(f".patients{table.suffix}")
    try:
        pairs = list(_read_pairs(table, patients))
    except (OSError, KeyError, ValueError) as error:
        raise ConfigError(f"{table}: is no result of `muse statistics` ({error}); run it again") from error
    yield element("h2", "Groups of patients", id="statistics")
    yield from map(_paragraph, _EXPLAINED)
    if len(pairs) > 1:
        yield _paragraph("Every pair of groups is corrected by itself.")
    names = sorted({name for pair, _ in pairs for name in pair})
    for pair, measures in pairs:
        yield from _pair([(name, group_color(names, name)) for name in pair], measures)
    links = [element("a", path.name, href=path.name) for path in (table, patients)]
    yield element("p", "All numbers: ", links[0], "; of every patient: ", links[1], ".", class_="files")


_EXPLAINED = (
    "The unit of the test is the patient. Slides of a patient are averaged first, and patients, not nuclei, are "
    "assigned to groups at random. Nuclei of a slide resemble each other: a test that takes them for independent finds "
    "differences where there are none.",
    "A dot is a patient, a bar the mean of the group. The effect is the difference of the means in standard deviations "
    "between patients (Hedges' g), second group less first, with its 95 % interval by bootstrap over patients. p is "
    "the share of random assignments of the patients that differ as much. q is p corrected for the number of "
    "measures: of the measures with q below 0.05, printed in bold, about one in twenty differs by chance.",
)


def _paragraph(text: str) -> Markup:
    return element("p", text, class_="note")


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


def _pair(groups: Sequence[tuple[str, str]], measures: Sequence[ComparedMeasure]) -> Iterator[Markup]:
    """Two groups, each with its colour: the number of measures that differ, and all measures by ascending p."""
    (first, _), (second, _) = groups
    colours = [colour for _, colour in groups]
    n = [max(len(each.values[side]) for each in measures) for side in (0, 1)]
    n_found, n_tested = sum(each.is_found for each in measures), sum(math.isfinite(each.p) for each in measures)
    yield element("h3", element("bdi", second), " against ", element("bdi", first))
    entries = (
        element(
            "span",
            element("i", style=f"background:{colour}"),
            element("bdi", name),
            element("span", f" {count_noun(k, 'patient')}", class_="number"),
        )
        for colour, name, k in zip(colours, (first, second), n, strict=True)
    )
    yield element("p", *entries, class_="legend")
    if n_tested:
        yield element("p", f"{n_found} of {n_tested} measures differ at a false discovery rate of 5 %.")
    else:
        yield element("p", "No measure is tested: a group has values of fewer than two patients.")
    if n_tested and (least := _least_p(*n)) > FOUND:
        text = f"With so few patients no p can be below {least:.2g}: nothing can be found at 5 %, whatever the effect."
        yield element("p", text, class_="warnings amber")
    ranked = sorted(measures, key=lambda each: (_last(each.q), _last(each.p), -abs(_first(each.effect[0]))))
    largest = max([1.0, *(abs(end) for each in ranked for end in each.effect if math.isfinite(end))])
    reach = min(math.ceil(largest), MOST_EFFECT)
    yield _table(ranked[:SHOWN], reach, colours)
    if others := ranked[SHOWN:]:
        yield element(
            "details",
            element("summary", f"{count_noun(len(others), 'further measure')}"),
            _table(others, reach, colours),
        )


def _least_p(n_first: int, n_second: int) -> float:
    """The least p that a permutation test can give: groups of equal size can be exchanged."""
    return (2 if n_first == n_second else 1) / math.comb(n_first + n_second, n_first)


def _last(value: float) -> float:
    return value if math.isfinite(value) else math.inf


def _first(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def _table(measures: Sequence[ComparedMeasure], reach: int, colours: Sequence[str]) -> Markup:
    labels = ("Measure", "Patients", "Mean", f"Effect, drawn from \N{MINUS SIGN}{reach} to {reach}", "", "p", "q")
    head = [
        element("th", label, scope="col", class_="number" if label in {"Mean", "p", "q"} else None) for label in labels
    ]
    body = [_row(measure, reach, colours) for measure in measures]
    table = element("table", element("thead", element("tr", *head)), element("tbody", join(body)))
    return element("div", table, class_="scroll annotations compared")


def _row(measure: ComparedMeasure, reach: int, colours: Sequence[str]) -> Markup:
    weight = "strong" if measure.is_found else "span"
    unit = {"1": "", "1/mm2": "/mm²", "um": "µm", "um2": "µm²", "OD/um": "OD/µm"}.get(measure.unit, measure.unit)
    means = [
        element(
            "div",
            _number(mean),
            element("small", f" {unit}") if unit else None,
            style=f"border-right:3px solid {colour};padding-right:6px",
        )
        for mean, colour in zip(measure.means, colours, strict=True)
    ]
    g, low, high = measure.effect
    interval = f"{g:+.2f}" if math.isfinite(g) else "not tested"
    ends = element("small", f"{low:+.2f} to {high:+.2f}") if math.isfinite(low) else None
    return element(
        "tr",
        element("th", measure.name.replace("_", " "), scope="row"),
        element("td", _dots(measure, colours)),
        element("td", *means, class_="number"),
        element("td", _interval(measure, reach)),
        element("td", interval, ends, class_="number share"),
        *(element("td", element(weight, _chance(each)), class_="number") for each in (measure.p, measure.q)),
    )


def _number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "–"


def _chance(value: float) -> str:
    return "–" if not math.isfinite(value) else f"{value:.4f}" if value < 0.1 else f"{value:.2f}"


def _dots(measure: ComparedMeasure, colours: Sequence[str]) -> Markup | None:
    """A dot for every patient, a lane for each group."""
    known = np.concatenate(measure.values)
    if not len(known):
        return None
    low, span = known.min(), (known.max() - known.min()) or 1.0

    def x(value: float) -> float:
        return round(MARGIN_PX + (PLOT_PX - 2 * MARGIN_PX) * float((value - low) / span), 1)

    drawn = []
    for values, mean, y, colour in zip(measure.values, measure.means, LANES_PX, colours, strict=True):
        shown = np.percentile(values, np.linspace(0, 100, MOST_DOTS)) if len(values) > MOST_DOTS else values
        drawn += [element("circle", cx=x(value), cy=y, r=3.5, fill=colour, fill_opacity=0.55) for value in shown]
        if math.isfinite(mean):
            drawn.append(element("line", x1=x(mean), x2=x(mean), y1=y - 8, y2=y + 8, stroke=colour, stroke_width=2.5))
    return _svg(drawn, f"{measure.name}: {_number(measure.means[0])} and {_number(measure.means[1])} on average")


def _interval(measure: ComparedMeasure, reach: int) -> Markup | None:
    """The effect and its interval, with zero in the middle; values beyond ``reach`` are clipped."""
    g, low, high = measure.effect
    if not math.isfinite(g):
        return None

    def x(effect: float) -> float:
        within = min(max(effect, -reach), reach)
        return round(PLOT_PX / 2 + (PLOT_PX / 2 - MARGIN_PX) * within / reach, 1)

    middle = ROW_PX / 2
    drawn = [element("line", x1=PLOT_PX / 2, x2=PLOT_PX / 2, y1=0, y2=ROW_PX, class_="axis zero")]
    if math.isfinite(low):
        drawn.append(element("line", x1=x(low), x2=x(high), y1=middle, y2=middle, class_="interval"))
    drawn.append(element("circle", cx=x(g), cy=middle, r=4.5))
    style = "color:var(--ink)" if measure.is_found else "color:var(--quiet)"
    return _svg([element("g", *drawn, class_="difference", style=style)], f"effect {g:+.2f}, {low:+.2f} to {high:+.2f}")


def _svg(drawn: Sequence[Markup], label: str) -> Markup:
    size = {"viewBox": f"0 0 {PLOT_PX} {ROW_PX}", "width": PLOT_PX, "height": ROW_PX}
    return element("svg", *drawn, **size, role="img", aria_label=label, class_="chart")

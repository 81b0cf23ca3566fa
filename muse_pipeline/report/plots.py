"""Plots that compare all slides: densities, class mix, features and regions; outliers are labelled.

The template draws them as inline SVG. Dots without links share one path, so that plots of thousands
of slides are small.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from muse_pipeline.core.text import count_noun, count_text
from muse_pipeline.features.catalogue import WITHOUT_CLASSES, every_feature
from muse_pipeline.inference.trust import CLASSES, LEAVE_OUT, NUCLEI, REGIONS, join_marks, of_class
from muse_pipeline.report.cohort import SlideResult, by_model, class_names, counted, describe_model
from muse_pipeline.report.notices import ShownSlide
from muse_pipeline.report.slide_card import add_up

# Okabe & Ito, "Color Universal Design", 2008
COLOR_BLIND_SAFE = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#f0e442",
    "#000000",
)
LEAST_SLIDES = 3  # minimum number of slides in a plot
LEAST_OF_GROUP = 6  # minimum size of a group in which outliers are named
FAR = 3.5  # modified z-score (Iglewicz & Hoaglin 1993) above which a slide is an outlier
ORIENTATION = "shape_orientation"  # an angle, whose median is meaningless
MOST_NAMED = 6  # maximum number of outliers named below a plot
MOST_LINKED = 200  # with more slides, only the dots of outliers are links

_LEFT, _RIGHT, _ROW, _AXIS = 10, 370, 34, 24
_MIX_WIDTH, _MIX_HEIGHT = 1150, 130
MOST_COLUMNS = 50  # a class mix with more columns than this does not name them
_NAME_LETTERS, _LETTER = 18, 7  # maximum number of letters of a name, and the width of a letter
_DEVIATION = 0.6745  # median absolute deviation of a normal distribution of variance 1


def describe_plots(entries: Sequence[ShownSlide]) -> dict[str, Any] | None:
    """The content of ``templates/plots.html``, grouped by model; None if no model has
    ``LEAST_SLIDES`` slides.
    """
    added = {id(slide) for slide in counted(entry.slide for entry in entries)}
    entries = [entry for entry in entries if id(entry.slide) in added]
    models = by_model(entry.slide for entry in entries)
    shown = [slides for slides in models if len(slides) >= LEAST_SLIDES]
    if not shown:
        return None
    groups = sorted({slide.group for slides in shown for slide in slides if slide.group})
    return {
        "groups": [{"name": group, "color": group_color(groups, group)} for group in groups],
        "far": FAR,
        "least": LEAST_OF_GROUP,
        "models": [
            {
                "name": describe_model(slides) if len(models) > 1 else "",
                **_plots_of_model(
                    [
                        entry
                        for entry in entries
                        if entry.slide.model.sha256 == slides[0].model.sha256
                    ],
                    groups,
                ),
            }
            for slides in shown
        ],
    }


def group_color(groups: Sequence[str], group: str) -> str:
    """Colour of ``group`` in sorted ``groups``; grey if it is not among them, the first colour if
    there are none.
    """
    if group in groups:
        return COLOR_BLIND_SAFE[groups.index(group) % len(COLOR_BLIND_SAFE)]
    return "#777777" if groups else COLOR_BLIND_SAFE[0]


def _plots_of_model(entries: Sequence[ShownSlide], groups: Sequence[str]) -> dict[str, Any]:
    slides = [entry.slide for entry in entries]
    names = class_names(slides)
    counts = [slide.class_counts for slide in slides]
    of_classes = {
        name: _numbers([of_slide.get(name) for of_slide in counts]) for name in names if any(counts)
    }
    area, total = (
        _numbers([slide.tissue_mm2 for slide in slides]),
        _numbers([slide.n_nuclei for slide in slides]),
    )
    densities = [("All nuclei, per mm²", _divide(total, area), NUCLEI)]
    densities += [
        (f"{name}, per mm²", _divide(n, area), of_class(name)) for name, n in of_classes.items()
    ]
    shares = [
        (f"{name}, % of nuclei", 100 * _divide(n, total), of_class(name))
        for name, n in of_classes.items()
    ]
    quantities = {
        "densities": densities,
        "shares": shares,
        "regions": _region_areas(slides),
        "features": _features(slides),
    }
    marked = join_marks(slide.trust for slide in slides)
    plots: dict[str, Any] = {
        "mix": _class_mix(entries, np.stack(list(of_classes.values()), 1), groups)
        if of_classes
        else None
    }
    for name, measures in quantities.items():
        plots[name] = [
            {**_strip_plot(title, values, entries, groups), "mark": marked.get(quantity)}
            for title, values, quantity in measures
            if np.isfinite(values).sum() >= LEAST_SLIDES
        ]
    return plots


def _numbers(values: Sequence[float | None]) -> np.ndarray:
    """(S,) float values, NaN for None."""
    return np.array([np.nan if value is None else value for value in values], float)


def _divide(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """(S,) quotients, NaN where the whole is 0."""
    return part / np.where(whole > 0, whole, np.nan)


def _region_areas(slides: Sequence[SlideResult]) -> Iterator[tuple[str, np.ndarray, str]]:
    """Area of each region as a percentage of the area of all regions."""
    of_slides = []
    for slide in slides:
        is_used = slide.regions and slide.trust.verdict(REGIONS) != LEAVE_OUT
        regions = slide.regions.get("classes", ()) if is_used else ()
        of_slides.append({region["name"]: region["area_mm2"] for region in regions})
    for name in dict.fromkeys(name for areas in of_slides for name in areas):
        shares = [
            100 * areas.get(name, 0) / total if (total := sum(areas.values())) else None
            for areas in of_slides
        ]
        yield f"{name}, % of the regions' area", _numbers(shares), REGIONS


def _features(slides: Sequence[SlideResult]) -> Iterator[tuple[str, np.ndarray, str]]:
    measured = []
    for slide in slides:
        are_used = slide.trust.verdict(CLASSES) != LEAVE_OUT
        features = slide.summary["features"].items()
        measured.append(
            {name: value for name, value in features if are_used or name in WITHOUT_CLASSES}
        )
    units = {feature.name: feature.unit for feature in every_feature(class_names(slides))}
    for name in dict.fromkeys(
        name for features in measured for name in features if name != ORIENTATION
    ):
        unit = {"um": ", µm", "um2": ", µm²", "1": ""}.get(
            units.get(name, "1"), f", {units.get(name)}"
        )
        quantity = NUCLEI if name in WITHOUT_CLASSES else CLASSES
        yield f"{name}{unit}", _numbers([features.get(name) for features in measured]), quantity


def find_outliers(values: np.ndarray, group: Sequence[str]) -> np.ndarray:
    """(S,) modified z-score of each slide's value (S,) in its group; 0 in small groups or if most
    values are equal.
    """
    score, group = np.zeros(len(values)), np.asarray(group, str)
    for name in np.unique(group):
        own = np.flatnonzero((group == name) & np.isfinite(values))
        distance = (
            values[own] - np.median(values[own])
            if len(own) >= LEAST_OF_GROUP
            else np.zeros(len(own))
        )
        deviation = np.median(abs(distance)) if len(own) else 0
        if deviation > 0:
            score[own] = _DEVIATION * distance / deviation
    return score


def _strip_plot(
    title: str, values: np.ndarray, entries: Sequence[ShownSlide], groups: Sequence[str]
) -> dict[str, Any]:
    """A plot with a row of dots for every group above a common axis, and its outliers."""
    of_slide = [entry.slide.group for entry in entries]
    names = [name for name in (*groups, "") if name in of_slide]
    low, middle, high = np.nanpercentile(values, (0, 50, 100))
    n = count_noun(int(np.isfinite(values).sum()), "slide")
    ticks = _ticks(float(low), float(high))

    def to_x(value: np.ndarray) -> list[float]:
        return np.round(
            _LEFT + (_RIGHT - _LEFT) * (value - ticks[0]) / (ticks[-1] - ticks[0]), 1
        ).tolist()

    # Heights within a row differ, so that dots of equal values do not cover each other.
    x, y = to_x(values), 7 + (_ROW - 14) * (np.arange(len(values)) * 0.618034 % 1)
    score = abs(find_outliers(values, of_slide))
    far = [i for i in np.argsort(-score, kind="stable").tolist() if score[i] > FAR]
    linked = set(range(len(entries)) if len(entries) <= MOST_LINKED else far)
    rows = []
    for top, name in zip(range(0, _ROW * len(names), _ROW), names, strict=True):
        own = [i for i, of in enumerate(of_slide) if of == name and np.isfinite(values[i])]
        if not own:
            continue
        left, median, right = to_x(np.percentile(values[own], (25, 50, 75)))
        xy = {i: (x[i], round(top + float(y[i]), 1)) for i in own}
        path = "".join(f"M{x:g} {y:g}h0" for i, (x, y) in xy.items() if i not in linked)
        circles = [
            (entries[i], _text(values[i]), *xy[i], score[i] > FAR) for i in own if i in linked
        ]
        box = {"low": left, "width": round(max(right - left, 1), 1), "median": median}
        rows.append(
            {"color": group_color(groups, name), "top": top, "path": path, "dots": circles, **box}
        )
    return {
        "title": title,
        "range": f"{n} from {_text(low)} to {_text(high)}, median {_text(middle)}",
        "height": _ROW * len(names) + _AXIS,
        "ticks": [
            (at, f"{tick:,.10g}") for at, tick in zip(to_x(np.array(ticks)), ticks, strict=True)
        ],
        "rows": rows,
        "outliers": [(entries[i], _text(values[i])) for i in far[:MOST_NAMED]],
        "n_more": len(far[MOST_NAMED:]),
    }


def _text(value: float) -> str:
    return count_text(round(value)) if abs(value) >= 1000 else f"{value:.3g}"


def _ticks(low: float, high: float) -> list[float]:
    """At most six round numbers that enclose the values from ``low`` to ``high``."""
    reach = max(high - low, 1e-9 * max(abs(high), 1), 1e-12)
    power = 10.0 ** math.floor(math.log10(reach / 4))
    step = next(
        power * size for size in (1, 2, 2.5, 5, 10) if power * size * 4 >= reach * (1 - 1e-9)
    )
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(n * step, 12) for n in range(first, max(last, first + 1) + 1)]


def _class_mix(
    entries: Sequence[ShownSlide], counts: np.ndarray, groups: Sequence[str]
) -> dict[str, Any]:
    """A column for every slide, divided by class; columns are sorted by group, then by fraction of
    the first class.
    """
    slides = [entry.slide for entry in entries]
    totals = np.nansum(counts, 1, keepdims=True)
    shares = np.nan_to_num(counts) / np.where(totals > 0, totals, 1)
    rank = [groups.index(slide.group) if slide.group else len(groups) for slide in slides]
    order = [i for i in np.lexsort((-shares[:, 0], rank)).tolist() if totals[i] > 0]
    width = _MIX_WIDTH / max(len(order), 1)
    edges = np.cumsum(np.hstack([np.zeros((len(slides), 1)), shares]), 1)[order] * _MIX_HEIGHT
    classes = add_up(slide.summary for slide in slides)
    bands = []
    for k, entry in enumerate(classes):  # the areas of a class in all columns, as a single path
        cells = ((n * width, row[k], row[k + 1]) for n, row in enumerate(edges))
        path = "".join(
            f"M{x:.2f} {top:.1f}h{width:.2f}V{bottom:.1f}h-{width:.2f}z" for x, top, bottom in cells
        )
        bands.append((entry["color"], path))
    for group in groups:  # a bar in the colour of the group below its columns
        own = (k for k, i in enumerate(order) if slides[i].group == group)
        path = "".join(
            f"M{k * width:.2f} {_MIX_HEIGHT + 3}h{width:.2f}v7h-{width:.2f}z" for k in own
        )
        bands.append((group_color(groups, group), path))
    columns = (
        [(round(k * width, 2), entries[i]) for k, i in enumerate(order)]
        if len(slides) <= MOST_LINKED
        else []
    )
    return {
        "classes": classes,
        "bands": bands,
        "columns": columns,
        "width": round(width, 2),
        **_column_names(
            [slides[i].slide_id for i in order], width, _MIX_HEIGHT + (12 if groups else 0)
        ),
    }


def _column_names(names: Sequence[str], width: float, top: int) -> dict[str, Any]:
    """Names of slides below their columns, rotated if too wide, and the plot's height; many slides
    are not named.
    """
    if len(names) > MOST_COLUMNS:
        return {"names": [], "turned": False, "height": top}
    # Both ends of long names are kept, so that names that differ only at the end remain distinct.
    shown = [
        name if len(name) <= _NAME_LETTERS else f"{name[:8]}…{name[9 - _NAME_LETTERS :]}"
        for name in names
    ]
    longest = math.ceil(_LETTER * max(map(len, shown), default=0))
    turned = longest > width
    y, height = (top + 6, top + longest + 12) if turned else (top + 16, top + 22)
    positions = [
        (name, round((k + 0.5) * width - 4 * turned, 1), y) for k, name in enumerate(shown)
    ]
    return {"names": positions, "turned": turned, "height": height}

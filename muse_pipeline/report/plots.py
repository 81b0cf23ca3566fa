"""Plots that compare all slides: densities, class mix, features and regions; outliers are labelled.

The template draws them as inline SVG. Dots without links share one path, so that plots of thousands
of slides are small.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from muse_pipeline.core.text import count_noun, count_text
from muse_pipeline.features.catalogue import WITHOUT_CLASSES, every_feature
from muse_pipeline.inference.trust import CLASSES, LEAVE_OUT, NUCLEI, REGIONS, join_marks, of_class
from muse_pipeline.report.cohort import SlideResult, by_model, class_names, counted, describe_model
from muse_pipeline.report.notices import ShownSlide
from muse_pipeline.report.overlays import nice_length
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
    slides = counted(entry.slide for entry in entries)
    models, entry_of = by_model(slides), {entry.slide.slide_id: entry for entry in entries}
    shown = [own for own in models if len(own) >= LEAST_SLIDES]
    groups = sorted({slide.group for own in shown for slide in own} - {""})
    return shown and {
        "groups": [{"name": group, "color": group_color(groups, group)} for group in groups],
        "far": FAR,
        "least": LEAST_OF_GROUP,
        "models": [
            {
                "name": describe_model(own) if len(models) > 1 else "",
                **_plots_of_model([entry_of[slide.slide_id] for slide in own], groups),
            }
            for own in shown
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
    marked = join_marks(slide.trust for slide in slides)
    plots: dict[str, Any] = {}
    for section, measure in _SECTIONS.items():
        rows = list(map(measure, slides))
        lacking = 0.0 if section == "regions" else np.nan  # a slide without a region has 0 % of it
        plots[section] = []
        for title, quantity in dict.fromkeys(key for row in rows for key in row):
            got = [row.get((title, quantity), lacking) if row else np.nan for row in rows]
            if np.isfinite(got).sum() >= LEAST_SLIDES:
                plot = _strip_plot(title, np.array(got), entries, groups)
                plots[section].append({**plot, "mark": marked.get(quantity)})
    counts = [slide.class_counts for slide in slides]
    names = class_names(slides) if any(counts) else []
    of_classes = np.array([[own.get(name, 0) for name in names] for own in counts], float)
    plots["mix"] = _class_mix(entries, of_classes, groups) if names else None
    return plots


# Values of a slide, keyed by the title of their plot and the quantity on which they depend.
_Measured = dict[tuple[str, str], float]


def _densities(slide: SlideResult) -> _Measured:
    numbers = {("All nuclei, per mm²", NUCLEI): slide.n_nuclei}
    numbers |= {(f"{k}, per mm²", of_class(k)): n for k, n in slide.class_counts.items()}
    return {key: n / slide.tissue_mm2 for key, n in numbers.items() if slide.tissue_mm2}


def _shares(slide: SlideResult) -> _Measured:
    n, counts = slide.n_nuclei, slide.class_counts
    return {(f"{k}, % of nuclei", of_class(k)): 100 * own / n for k, own in counts.items() if n}


def _regions(slide: SlideResult) -> _Measured:
    """Area of each region as a percentage of the area of all regions."""
    is_used = slide.regions and slide.trust.verdict(REGIONS) != LEAVE_OUT
    areas = {r["name"]: r["area_mm2"] for r in slide.regions.get("classes", ())} if is_used else {}
    total = sum(areas.values())
    return {
        (f"{name}, % of the regions' area", REGIONS): 100 * mm2 / total
        for name, mm2 in areas.items()
        if total
    }


def _features(slide: SlideResult) -> _Measured:
    are_used = slide.trust.verdict(CLASSES) != LEAVE_OUT
    unit_of = {one.name: one.unit for one in every_feature(slide.provenance.class_names)}
    values = {}
    for name, value in slide.summary["features"].items():
        of_nuclei, unit = name in WITHOUT_CLASSES, unit_of.get(name, "1")
        if name != ORIENTATION and (are_used or of_nuclei):
            title = f"{name}, {unit_text(unit)}".removesuffix(", ")
            values[title, NUCLEI if of_nuclei else CLASSES] = value
    return values


def unit_text(unit: str) -> str:
    """A unit of the tables, as in "µm²"; "" for numbers without one."""
    return "" if unit == "1" else unit.replace("um", "µm").replace("2", "²")


_SECTIONS = {"densities": _densities, "shares": _shares, "regions": _regions, "features": _features}


def find_outliers(values: np.ndarray, group: Sequence[str]) -> np.ndarray:
    """(S,) modified z-score of each slide's value (S,) in its group; 0 in small groups or if most
    values are equal.
    """
    score, group = np.zeros(len(values)), np.asarray(group, str)
    for name in np.unique(group):
        own = np.flatnonzero((group == name) & np.isfinite(values))
        if len(own) >= LEAST_OF_GROUP:
            distance = values[own] - np.median(values[own])
            if deviation := np.median(abs(distance)):
                score[own] = _DEVIATION * distance / deviation
    return score


def _strip_plot(
    title: str, values: np.ndarray, entries: Sequence[ShownSlide], groups: Sequence[str]
) -> dict[str, Any]:
    """A plot with a row of dots for every group above a common axis, and its outliers."""
    of_slide = [entry.slide.group for entry in entries]
    names = [name for name in (*groups, "") if name in of_slide]
    low, middle, high = np.nanpercentile(values, (0, 50, 100)).tolist()
    n = count_noun(int(np.isfinite(values).sum()), "slide")
    ticks = _ticks(low, high)

    def to_x(value: np.ndarray) -> list[float]:
        share = (value - ticks[0]) / (ticks[-1] - ticks[0])
        return np.round(_LEFT + (_RIGHT - _LEFT) * share, 1).tolist()

    # Heights within a row differ, so that dots of equal values do not cover each other.
    x, y = to_x(values), 7 + (_ROW - 14) * (np.arange(len(values)) * 0.618034 % 1)
    score = abs(find_outliers(values, of_slide))
    far = [i for i in np.argsort(-score, kind="stable").tolist() if score[i] > FAR]
    linked = set(range(len(entries)) if len(entries) <= MOST_LINKED else far)
    rows = []
    for number, name in enumerate(names):
        own = [i for i, of in enumerate(of_slide) if of == name and np.isfinite(values[i])]
        if not own:
            continue
        top = _ROW * number
        left, median, right = to_x(np.percentile(values[own], (25, 50, 75)))
        xy = {i: (x[i], round(top + float(y[i]), 1)) for i in own}
        rows.append(
            {
                "color": group_color(groups, name),
                "top": top,
                "path": "".join(f"M{x:g} {y:g}h0" for i, (x, y) in xy.items() if i not in linked),
                "dots": [
                    (entries[i], _text(values[i]), *xy[i], score[i] > FAR)
                    for i in own
                    if i in linked
                ],
                "low": left,
                "width": round(max(right - left, 1), 1),
                "median": median,
            }
        )
    return {
        "title": title,
        "range": f"{n} from {_text(low)} to {_text(high)}, median {_text(middle)}",
        "height": _ROW * len(names) + _AXIS,
        "ticks": list(zip(to_x(np.array(ticks)), map("{:,.10g}".format, ticks), strict=True)),
        "rows": rows,
        "outliers": [(entries[i], _text(values[i])) for i in far[:MOST_NAMED]],
        "n_more": len(far[MOST_NAMED:]),
    }


def _text(value: float) -> str:
    return count_text(round(value)) if abs(value) >= 1000 else f"{value:.3g}"


def _ticks(low: float, high: float) -> list[float]:
    """At most seven round numbers that enclose the values from ``low`` to ``high``."""
    reach = max(high - low, 1e-9 * max(abs(high), 1), 1e-12)
    step = nice_length(reach / 2)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(n * step, 12) for n in range(first, max(last, first + 1) + 1)]


def _class_mix(
    entries: Sequence[ShownSlide], counts: np.ndarray, groups: Sequence[str]
) -> dict[str, Any]:
    """A column for every slide, divided by class; columns are sorted by group, then by fraction of
    the first class.
    """
    slides = [entry.slide for entry in entries]
    totals = counts.sum(1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    rank = [groups.index(slide.group) if slide.group else len(groups) for slide in slides]
    order = [i for i in np.lexsort((-shares[:, 0], rank)).tolist() if totals[i] > 0]
    width = _MIX_WIDTH / max(len(order), 1)
    edges = np.cumsum(np.hstack([np.zeros((len(slides), 1)), shares]), 1)[order] * _MIX_HEIGHT
    classes = add_up(slide.summary for slide in slides)

    def path(cells: Iterable[tuple[int, float, float]]) -> str:
        """The areas from top to bottom in some columns, as a single path."""
        return "".join(
            f"M{k * width:.2f} {top:.1f}h{width:.2f}V{bottom:.1f}h-{width:.2f}z"
            for k, top, bottom in cells
        )

    bands = [
        (entry["color"], path((k, *row[n : n + 2]) for k, row in enumerate(edges)))
        for n, entry in enumerate(classes)
    ]
    for group in groups:  # a bar in the colour of the group below its columns
        own = [k for k, i in enumerate(order) if slides[i].group == group]
        bar = path((k, _MIX_HEIGHT + 3, _MIX_HEIGHT + 10) for k in own)
        bands.append((group_color(groups, group), bar))
    top = _MIX_HEIGHT + (12 if groups else 0)
    linked = order if len(order) <= MOST_LINKED else ()
    return {
        "classes": classes,
        "bands": bands,
        "columns": [(round(k * width, 2), entries[i]) for k, i in enumerate(linked)],
        "width": round(width, 2),
        **_column_names([slides[i].slide_id for i in order], width, top),
    }


def _column_names(names: Sequence[str], width: float, top: int) -> dict[str, Any]:
    """Names of slides below their columns, rotated if too wide, and the plot's height; many slides
    are not named.
    """
    if len(names) > MOST_COLUMNS:
        return {"names": [], "turned": False, "height": top}
    # Both ends of long names are kept, so that names that differ only at the end remain distinct.
    n = _NAME_LETTERS
    shown = [name if len(name) <= n else f"{name[:8]}…{name[9 - n :]}" for name in names]
    longest = _LETTER * max(map(len, shown), default=0)
    turned = longest > width
    y, height = (top + 6, top + longest + 12) if turned else (top + 16, top + 22)
    middles = [round((k + 0.5) * width - 4 * turned, 1) for k in range(len(shown))]
    places = [(name, x, y) for name, x in zip(shown, middles, strict=True)]
    return {"names": places, "turned": turned, "height": height}

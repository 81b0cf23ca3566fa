"""Figures of all slides side by side: densities, class mix, features, regions; outliers are named.

Every plot is inline SVG. Dots that are not linked use one path, so that plots of thousands of slides stay small.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from muse_pipeline.core.text import count_noun, count_text
from muse_pipeline.features.catalogue import WITHOUT_CLASSES, every_feature
from muse_pipeline.report.cohort import SlideResult, by_model, class_names, counted, describe_model
from muse_pipeline.report.html import Markup, element, join
from muse_pipeline.report.slide_card import add_up, css_color, swatch

# Okabe & Ito, "Color Universal Design", 2008
COLOR_BLIND_SAFE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#f0e442", "#000000")
LEAST_SLIDES = 3  # of a plot
LEAST_OF_GROUP = 6  # with fewer, no outlier is named
FAR = 3.5  # of the modified z-score (Iglewicz & Hoaglin 1993) from which a slide is an outlier
ORIENTATION = "shape_orientation"  # an angle, whose median means nothing
MOST_NAMED = 6  # outliers below a plot
MOST_LINKED = 200  # slides whose dots are links, each with the slide's name

_WIDTH, _LEFT, _RIGHT, _ROW, _AXIS = 380, 10, 370, 34, 24
_MIX_WIDTH, _MIX_HEIGHT = 1150, 130
MOST_COLUMNS = 50  # of the class mix, each with the slide's name
_NAME_LETTERS, _LETTER = 18, 7  # of such a name, and the width of a letter
_DEVIATION = 0.6745  # median absolute deviation of a normal distribution of variance 1

Anchored = Sequence[tuple[str, SlideResult]]


@dataclass(frozen=True, eq=False)
class Quantity:
    """One number per slide.

    Attributes:
        title: title with the unit.
        values: (S,) values, NaN for a slide without one.
    """

    title: str
    values: np.ndarray


def cohort_plots(anchored: Anchored) -> Iterator[Markup]:
    """The plots of every model's slides; none for a model of fewer than ``LEAST_SLIDES``."""
    anchors = {id(slide): anchor for anchor, slide in anchored}
    models = by_model(counted(slide for _, slide in anchored))
    shown = [slides for slides in models if len(slides) >= LEAST_SLIDES]
    if not shown:
        return
    yield element("h2", "Slides beside each other", id="plots")
    groups = sorted({slide.group for slides in shown for slide in slides if slide.group})
    yield element("p", _explain(groups), class_="note")
    if groups:
        yield _legend(groups)
    for slides in shown:
        if len(models) > 1:
            yield element("h3", element("bdi", describe_model(slides)))
        yield from _plots_of_model([(anchors[id(slide)], slide) for slide in slides], groups)


def _explain(groups: Sequence[str]) -> str:
    among, rows = ("the slides of its group", " Groups are rows, in this order:") if groups else ("all slides", "")
    return (
        "A dot is a slide, the line is the median, the box holds the middle half. A slide is an outlier if its "
        f"modified z-score among {among} exceeds {FAR:g}; fewer than {LEAST_OF_GROUP} slides have no outliers. A name "
        f"leads to its slide.{rows}"
    )


def _legend(groups: Sequence[str]) -> Markup:
    entries = [
        element("li", element("i", style=f"background:{group_color(groups, group)}"), element("bdi", group))
        for group in groups
    ]
    return element("ul", *entries, class_="legend")


def group_color(groups: Sequence[str], group: str) -> str:
    """The colour of a group among sorted ``groups``; without a group grey, without any groups the first colour."""
    if group in groups:
        return COLOR_BLIND_SAFE[groups.index(group) % len(COLOR_BLIND_SAFE)]
    return "#777777" if groups else COLOR_BLIND_SAFE[0]


def _plots_of_model(anchored: Anchored, groups: Sequence[str]) -> Iterator[Markup]:
    slides = [slide for _, slide in anchored]
    names = class_names(slides)
    counts = [slide.class_counts for slide in slides]
    of_classes = {name: _numbers([each.get(name) for each in counts]) for name in names if any(counts)}
    area, total = _numbers([slide.tissue_mm2 for slide in slides]), _numbers([slide.n_nuclei for slide in slides])
    densities = [Quantity("All nuclei, per mm²", _divide(total, area))]
    densities += [Quantity(f"{name}, per mm²", _divide(n, area)) for name, n in of_classes.items()]
    shares = [Quantity(f"{name}, % of nuclei", 100 * _divide(n, total)) for name, n in of_classes.items()]
    yield from _plot_row("Density", densities, anchored, groups)
    if of_classes:
        yield element("h3", "Class mix")
        yield _class_mix(anchored, np.stack(list(of_classes.values()), 1), groups)
        yield from _plot_row(None, shares, anchored, groups)
    yield from _plot_row("Tissue regions", _region_areas(slides), anchored, groups)
    if features := join(_plot_row(None, _features(slides), anchored, groups)):
        yield element("details", element("summary", "Features: medians over the nuclei of a slide"), features)


def _plot_row(
    title: str | None, quantities: Sequence[Quantity], anchored: Anchored, groups: Sequence[str]
) -> Iterator[Markup]:
    known = [each for each in quantities if np.isfinite(each.values).sum() >= LEAST_SLIDES]
    if known and title:
        yield element("h3", title)
    if known:
        yield element("div", *(_strip_plot(each, anchored, groups) for each in known), class_="plots")


def _numbers(values: Sequence[float | None]) -> np.ndarray:
    """(S,) float values, NaN for None."""
    return np.array([np.nan if value is None else value for value in values], float)


def _divide(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """(S,) quotients, NaN where the whole is 0."""
    return part / np.where(whole > 0, whole, np.nan)


def _region_areas(slides: Sequence[SlideResult]) -> Iterator[Quantity]:
    """Percentage of the regions' total area in each region."""
    found = [
        {one["name"]: one["area_mm2"] for one in slide.regions["classes"]}
        if slide.regions and slide.regions["status"] == "ok"
        else {}
        for slide in slides
    ]
    totals = [sum(areas.values()) for areas in found]
    for name in dict.fromkeys(name for areas in found for name in areas):
        shares = [100 * areas[name] / total if total else None for areas, total in zip(found, totals, strict=True)]
        yield Quantity(f"{name}, % of the regions' area", _numbers(shares))


def _features(slides: Sequence[SlideResult]) -> Iterator[Quantity]:
    measured = [
        {
            name: value
            for name, value in slide.summary["features"].items()
            if name in WITHOUT_CLASSES or not slide.classes_left_out
        }
        for slide in slides
    ]
    units = {each.name: each.unit for each in every_feature(class_names(slides))}
    for name in dict.fromkeys(name for features in measured for name in features if name != ORIENTATION):
        unit = {"um": ", µm", "um2": ", µm²", "1": ""}.get(units.get(name, "1"), f", {units.get(name)}")
        yield Quantity(f"{name}{unit}", _numbers([features.get(name) for features in measured]))


def find_outliers(values: np.ndarray, group: Sequence[str]) -> np.ndarray:
    """(S,) the modified z-score of each slide within its group; 0 if the group has too few, or all are equal.

    Args:
        values: (S,) values, NaN for a slide without one.
        group: (S,) name of each slide's group.
    """
    score, group = np.zeros(len(values)), np.asarray(group, str)
    for name in np.unique(group):
        own = np.flatnonzero((group == name) & np.isfinite(values))
        distance = values[own] - np.median(values[own]) if len(own) >= LEAST_OF_GROUP else np.zeros(len(own))
        deviation = np.median(abs(distance)) if len(own) else 0
        if deviation > 0:
            score[own] = _DEVIATION * distance / deviation
    return score


def _strip_plot(quantity: Quantity, anchored: Anchored, groups: Sequence[str]) -> Markup:
    """A row of dots for every group, over an axis, and the names of the outliers."""
    values, of_slide = quantity.values, [slide.group for _, slide in anchored]
    rows = list(dict.fromkeys(name for name in (*groups, "") if name in of_slide))
    ticks = _ticks(float(np.nanmin(values)), float(np.nanmax(values)))
    place = _Axis(ticks[0], ticks[-1])
    score = find_outliers(values, of_slide)
    height = _ROW * len(rows) + _AXIS
    svg = element(
        "svg",
        *(_tick(place(tick), f"{tick:,.10g}", height) for tick in ticks),
        *(
            _row(quantity, anchored, place, score, name, y * _ROW, group_color(groups, name))
            for y, name in enumerate(rows)
        ),
        viewBox=f"0 0 {_WIDTH} {height}",
        role="img",
        aria_label=f"{quantity.title}: {_describe(values)}",
        class_="chart",
    )
    outliers = _named_outliers(values, score, anchored)
    return element("figure", element("figcaption", quantity.title), svg, outliers, class_="plot")


def _describe(values: np.ndarray) -> str:
    low, middle, high = np.nanpercentile(values, (0, 50, 100))
    n = int(np.isfinite(values).sum())
    return f"{count_noun(n, 'slide')} from {_text(low)} to {_text(high)}, median {_text(middle)}"


def _text(value: float) -> str:
    return count_text(round(value)) if abs(value) >= 1000 else f"{value:.3g}"


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float

    def __call__(self, value: float) -> float:
        return round(_LEFT + (_RIGHT - _LEFT) * (value - self.low) / (self.high - self.low), 1)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers, at most six, the first at most the lowest and the last at least the highest value."""
    reach = max(high - low, 1e-9 * max(abs(high), 1), 1e-12)
    power = 10.0 ** math.floor(math.log10(reach / 4))
    step = next(power * each for each in (1, 2, 2.5, 5, 10) if power * each * 4 >= reach * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(n * step, 12) for n in range(first, max(last, first + 1) + 1)]


def _tick(x: float, text: str, height: int) -> Markup:
    bottom = height - _AXIS
    line = element("line", x1=x, x2=x, y1=0, y2=bottom + 4, class_="axis")
    anchor = "start" if x < _LEFT + 15 else "end" if x > _RIGHT - 15 else "middle"
    return join([line, element("text", text, x=x, y=bottom + 18, class_="tick", style=f"text-anchor:{anchor}")])


def _row(
    quantity: Quantity, anchored: Anchored, place: _Axis, score: np.ndarray, group: str, top: int, color: str
) -> Markup:
    values = quantity.values
    own = [i for i, (_, slide) in enumerate(anchored) if slide.group == group and np.isfinite(values[i])]
    if not own:
        return Markup()
    low, middle, high = (place(value) for value in np.percentile(values[own], (25, 50, 75)))
    positions = {i: (place(values[i]), _spread(i, top)) for i in own}
    is_linked = len(anchored) <= MOST_LINKED
    linked = {i for i in own if is_linked or abs(score[i]) > FAR}
    path = "".join(f"M{x:g} {y:g}h0" for i, (x, y) in positions.items() if i not in linked)
    return element(
        "g",
        element("path", d=path, class_="dots", stroke=color) if path else None,
        *(_dot(anchored[i], values[i], positions[i], color, abs(score[i]) > FAR) for i in own if i in linked),
        element("rect", x=low, width=round(max(high - low, 1), 1), y=top + 3, height=_ROW - 6, class_="half"),
        element("line", x1=middle, x2=middle, y1=top + 3, y2=top + _ROW - 3, class_="median"),
    )


def _spread(i: int, top: int) -> float:
    """Vertical offset within the row, so that dots of equal values do not cover each other."""
    return round(top + 7 + (_ROW - 14) * (i * 0.618034 % 1), 1)


def _dot(slide: tuple[str, SlideResult], value: float, xy: tuple[float, float], color: str, is_outlier: bool) -> Markup:
    title = element("title", f"{slide[1].slide_id}: {_text(value)}")
    circle = element("circle", cx=xy[0], cy=xy[1], r=4 if is_outlier else 2.6, fill=color)
    return element("a", title, circle, href=f"#{slide[0]}", tabindex=-1)  # the keyboard has the names below


def _named_outliers(values: np.ndarray, score: np.ndarray, anchored: Anchored) -> Markup | None:
    far = [i for i in np.argsort(-abs(score), kind="stable").tolist() if abs(score[i]) > FAR]
    if not far:
        return None
    entries = [
        element(
            "li",
            element("a", element("bdi", anchored[i][1].slide_id), href=f"#{anchored[i][0]}"),
            f" {_text(values[i])}",
        )
        for i in far[:MOST_NAMED]
    ]
    if len(far) > MOST_NAMED:
        entries.append(element("li", f"and {len(far) - MOST_NAMED:,} more"))
    return element("ul", *entries, class_="outliers", aria_label="Outliers")


def _class_mix(anchored: Anchored, counts: np.ndarray, groups: Sequence[str]) -> Markup:
    """A column for every slide, divided by class; slides of a group are adjacent, by fraction of the first class."""
    slides = [slide for _, slide in anchored]
    totals = np.nansum(counts, 1, keepdims=True)
    shares = np.nan_to_num(counts) / np.where(totals > 0, totals, 1)
    rank = [groups.index(slide.group) if slide.group else len(groups) for slide in slides]
    order = [i for i in np.lexsort((-shares[:, 0], rank)).tolist() if totals[i] > 0]
    width = _MIX_WIDTH / max(len(order), 1)
    edges = np.cumsum(np.hstack([np.zeros((len(slides), 1)), shares]), 1) * _MIX_HEIGHT
    classes = add_up(slide.summary for slide in slides)
    bands = [_band(edges[order], k, width, css_color(each["color"])) for k, each in enumerate(classes)]
    marks = [
        _underline([k for k, i in enumerate(order) if slides[i].group == group], width, group_color(groups, group))
        for group in groups
    ]
    links = [_column(anchored[i], k, width) for k, i in enumerate(order)] if len(slides) <= MOST_LINKED else []
    top = _MIX_HEIGHT + (12 if marks else 0)
    names, height = _column_names([slides[i].slide_id for i in order], width, top)
    svg = element(
        "svg", *bands, *marks, *names, *links,
        viewBox=f"0 0 {_MIX_WIDTH} {height}", role="img",
        aria_label="Class mix of every slide; the plots below have the figures", class_="mix",
    )  # fmt: skip
    legend = [element("li", swatch(each["color"]), element("bdi", each["name"])) for each in classes]
    return element("figure", element("ul", *legend, class_="legend"), svg)


def _column_names(names: Sequence[str], width: float, top: int) -> tuple[list[Markup], int]:
    """The names of slides below their columns, rotated if too wide, and their lower end; none for many slides."""
    if len(names) > MOST_COLUMNS:
        return [], top
    shown = [name if len(name) <= _NAME_LETTERS else f"{name[:8]}…{name[9 - _NAME_LETTERS :]}" for name in names]
    longest = math.ceil(_LETTER * max(map(len, shown), default=0))
    turned = longest > width
    anchor, turn = ("start", " rotate(90)") if turned else ("middle", "")
    found = [
        element(
            "text",
            name,
            transform=f"translate({round((k + 0.5) * width - 4 * turned, 1)} {top + (6 if turned else 16)}){turn}",
            style=f"text-anchor:{anchor}",
        )
        for k, name in enumerate(shown)
    ]
    return found, top + (longest + 12 if turned else 22)


def _band(edges: np.ndarray, k: int, width: float, color: str) -> Markup:
    """One class of all columns as a single path."""
    parts = [f"M{n * width:.2f} {row[k]:.1f}h{width:.2f}V{row[k + 1]:.1f}h-{width:.2f}z" for n, row in enumerate(edges)]
    return element("path", d="".join(parts), fill=color)


def _underline(columns: Sequence[int], width: float, color: str) -> Markup:
    """The colour of a group below its columns."""
    path = "".join(f"M{k * width:.2f} {_MIX_HEIGHT + 3}h{width:.2f}v7h-{width:.2f}z" for k in columns)
    return element("path", d=path, fill=color)


def _column(slide: tuple[str, SlideResult], k: int, width: float) -> Markup:
    classes = ", ".join(f"{each['name']} {each['n_nuclei']:,}" for each in slide[1].summary["classes"])
    title = element("title", f"{slide[1].slide_id}: {classes}")
    rectangle = element("rect", x=round(k * width, 2), y=0, width=round(width, 2), height=_MIX_HEIGHT)
    return element("a", title, rectangle, href=f"#{slide[0]}", tabindex=-1)

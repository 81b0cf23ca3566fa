"""Paired differences with their intervals, drawn to one scale around zero."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from muse_pipeline.report.drawing import nice_length
from muse_pipeline.report.markup import Markup, element

_LABEL_PX, _PLOT_PX, _ROW_PX, _AXIS_PX = 330, 560, 26, 40
_MARGIN = 1.08


@dataclass(frozen=True)
class ChartRow:
    """One difference.

    Attributes:
        label: what was measured.
        score: see ``evaluation.paired.compare_scores``.
    """

    label: str
    score: dict[str, Any]


def difference_chart(rows: Sequence[ChartRow]) -> Markup:
    """A dot for every difference, in points, and a line for its 95 % interval; right of zero is better."""
    ends = [end for row in rows for end in (row.score["difference"], *(row.score["interval"] or ()))]
    reach = max(1.0, _MARGIN * max(map(abs, ends)))
    height = _AXIS_PX + _ROW_PX * len(rows)

    def x(points: float) -> float:
        return round(_LABEL_PX + _PLOT_PX * (0.5 + points / reach / 2), 1)

    step = nice_length(reach / 1.5)
    ticks = [n * step for n in range(-int(reach / step), int(reach / step) + 1)]
    axis = [_tick(x(tick), tick, height) for tick in ticks]
    drawn = [_row(row, _ROW_PX * (index + 0.5), x) for index, row in enumerate(rows)]
    return element(
        "svg",
        *axis,
        *drawn,
        viewBox=f"0 0 {_LABEL_PX + _PLOT_PX + 20} {height}",
        role="img",
        aria_label="Differences, after less before, with 95 % intervals; the table below has the figures",
        class_="chart",
    )


def _tick(x: float, points: float, height: int) -> Markup:
    bottom = height - _AXIS_PX
    name = "axis zero" if points == 0 else "axis"
    line = element("line", x1=x, x2=x, y1=0, y2=bottom + 5, class_=name)
    return element("g", line, element("text", f"{points:+g}" if points else "0", x=x, y=bottom + 22, class_="tick"))


def _row(row: ChartRow, y: float, x: Any) -> Markup:
    score = row.score
    ends = score["interval"]
    return element(
        "g",
        element("title", f"{row.label}: {score['difference']:+.1f} points, {score['verdict']}"),
        element("text", row.label, x=_LABEL_PX - 14, y=y + 4.5, class_="label"),
        element("line", x1=x(ends[0]), x2=x(ends[1]), y1=y, y2=y, class_="interval") if ends else None,
        element("circle", cx=x(score["difference"]), cy=y, r=5),
        class_=f"difference {css_word(score['verdict'])}",
    )


def css_word(verdict: str) -> str:
    """How the style sheet calls a verdict: yes, no or undecided."""
    return verdict if verdict in {"yes", "no"} else "undecided"

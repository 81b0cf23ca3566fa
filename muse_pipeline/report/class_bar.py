"""Nuclei by class as a bar with its legend."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from muse_pipeline.report.markup import Markup, element, join
from muse_pipeline.report.wording import count_text


def class_bar(classes: Sequence[dict[str, Any]]) -> Markup:
    """The bar of [{name, color, n_nuclei}]; the legend gives names and figures, so colour alone carries nothing."""
    total = sum(each["n_nuclei"] for each in classes)
    parts = [
        element("span", style=f"flex-grow:{each['n_nuclei']};background:{css_color(each['color'])}")
        for each in classes
        if each["n_nuclei"]
    ]
    return element(
        "div", element("div", *parts, class_="bar", aria_hidden="true"), _legend(classes, total), class_="classes"
    )


def add_up(summaries: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The classes of many slides with their nuclei added up."""
    total: dict[str, dict[str, Any]] = {}
    for summary in summaries:
        for each in summary["classes"]:
            known = total.setdefault(each["name"], {**each, "n_nuclei": 0})
            known["n_nuclei"] += each["n_nuclei"]
    return list(total.values())


def css_color(color: Sequence[int]) -> str:
    """``rgb(1 2 3)``."""
    return f"rgb({' '.join(str(int(channel)) for channel in color)})"


def swatch(color: Sequence[int]) -> Markup:
    """A dot of that colour."""
    return element("i", style=f"background:{css_color(color)}")


def _legend(classes: Sequence[dict[str, Any]], total: int) -> Markup:
    entries = [
        element("li", swatch(each["color"]), element("bdi", each["name"]), " ", _figures(each["n_nuclei"], total))
        for each in classes
    ]
    return element("ul", join(entries), class_="legend")


def _figures(n: int, total: int) -> Markup:
    share = f" ({100 * n / total:.0f} %)" if total else ""
    return element("span", f"{count_text(n)}{share}", class_="number")

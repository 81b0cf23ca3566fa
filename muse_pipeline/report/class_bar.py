"""Nuclei by class: as a bar with its legend, and as cells of a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from muse_pipeline.report.markup import Markup, element, join
from muse_pipeline.report.wording import count_text, density_text, percent_text


def class_bar(classes: Sequence[dict[str, Any]], tissue_mm2: float | None) -> Markup:
    """The bar of [{name, color, n_nuclei}]; the legend gives names and figures, so colour alone carries nothing.

    Args:
        classes: to draw.
        tissue_mm2: that the nuclei were found in, for their density.
    """
    total = sum(each["n_nuclei"] for each in classes)
    parts = [
        element("span", style=f"flex-grow:{each['n_nuclei']};background:{css_color(each['color'])}")
        for each in classes
        if each["n_nuclei"]
    ]
    return element(
        "div",
        element("div", *parts, class_="bar", aria_hidden="true"),
        _legend(classes, total, tissue_mm2),
        class_="classes",
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


def share_cell(n: int | None, total: int, tissue_mm2: float | None) -> Markup:
    """A cell with the percentage of ``n`` in ``total``, by which a column is sorted, above their number and density."""
    if n is None or not total:
        return element("td", "–", class_="number", data_value=-1)
    density = f" · {density_text(n / tissue_mm2)}/mm²" if tissue_mm2 else ""
    small = element("small", f"{count_text(n)}{density}")
    return element("td", percent_text(n, total), small, class_="number share", data_value=round(100 * n / total, 4))


def _legend(classes: Sequence[dict[str, Any]], total: int, tissue_mm2: float | None) -> Markup:
    entries = []
    for each in classes:
        n = each["n_nuclei"]
        share = [percent_text(n, total)] if total else []
        density = [f"{density_text(n / tissue_mm2)} /mm²"] if tissue_mm2 else []
        figures = element("span", f"{count_text(n)} ({', '.join(share + density)})", class_="number")
        entries.append(element("li", swatch(each["color"]), element("bdi", each["name"]), " ", figures))
    return element("ul", join(entries), class_="legend")

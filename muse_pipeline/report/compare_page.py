"""``compare.html``: the effect of pretraining, conclusion first, in one file that needs neither network nor script."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from muse_pipeline.core.files import complete_file
from muse_pipeline.core.text import count_noun
from muse_pipeline.evaluation.summary_text import format_number
from muse_pipeline.report.html import Markup, css_word, element, frame_document, join
from muse_pipeline.report.overlays import nice_length
from muse_pipeline.report.slide_card import definitions

_COLUMNS = ("Before", "After", "Difference", "95 % interval", "Better?")
_HOW = "after less before, with 95 % intervals over patients. Right of zero is better."
_FIRST = "The answer above is that of the first line, fixed before anything was measured."


def write_compare_page(result: dict[str, Any], folder: Path) -> None:
    """Write the page.

    Args:
        result: content of ``compare.json`` of ``muse compare``.
        folder: folder of the page and of the pictures that ``result`` names, which are embedded in the page.
    """
    before, after = frame_document("Did pretraining help?")
    with complete_file(folder / "compare.html") as partial:
        partial.write_text(f"{before}{join(list(_sections(result, folder)))}{after}", encoding="utf-8")


def _sections(result: dict[str, Any], folder: Path) -> Iterator[Markup]:
    yield element("h1", "Did pretraining help?")
    for answer in result["answers"]:
        yield element("p", answer["sentence"], class_=f"answer {css_word(answer['verdict'])}")
    yield _networks(result)
    for name, section in (("with_labels", _with_labels), ("without_labels", _without_labels)):
        if result[name]:
            yield from section(result[name])
            yield from _notes_and_picture(result[name], folder)


def _networks(result: dict[str, Any]) -> Markup:
    pairs = {}
    for side in ("before", "after"):
        one = result[side]
        small = element("small", f"{one['backbone']}, colour {one['colour']}")
        pairs[side.capitalize()] = element("span", one["weights"], " ", small)
    return definitions(pairs, "figures names")


def _with_labels(labels: dict[str, Any]) -> Iterator[Markup]:
    yield element("h2", "Classes at labelled nuclei")
    named = [(f"{row['protocol']}, labels of {_patients(row)}", row) for row in labels["rows"]]
    yield difference_chart([ChartRow(name, row["accuracy"]) for name, row in named])
    yield element("p", f"Points of accuracy, {_HOW}", class_="note")
    head = ("Accuracy, %", *_COLUMNS, "Balanced accuracy", *_COLUMNS[3:])
    yield _table(head, [(name, *_cells(row["accuracy"]), *_cells(row["balanced_accuracy"])[2:]) for name, row in named])
    yield element("p", _measured_with_labels(labels), class_="note")


def _without_labels(tissue: dict[str, Any]) -> Iterator[Markup]:
    yield element("h2", "The same nuclei seen otherwise, without labels")
    rows = [(row["measure"].capitalize(), row["score"]) for row in tissue["rows"]]
    yield difference_chart([ChartRow(name, score) for name, score in rows])
    yield element("p", f"Points, {_HOW}", class_="note")
    yield _table(("Nuclei, %", *_COLUMNS), [(name, *_cells(score)) for name, score in rows])
    yield element("p", _measured_without_labels(tissue), class_="note")


def _notes_and_picture(part: dict[str, Any], folder: Path) -> Iterator[Markup]:
    if part["notes"]:
        yield element("ul", *(element("li", note) for note in part["notes"]), class_="warnings")
    if part["picture"]:
        yield element("h3", "Nuclei and those most like them")
        yield _picture(part["picture"], folder)


def _patients(row: dict[str, Any]) -> str:
    draws = f", {row['n_draws']} draws" if row["n_draws"] > 1 else ""
    return f"{row['n_patients']} {'patient' if row['n_patients'] == 1 else 'patients'}{draws}"


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> Markup:
    names = [element("th", name, scope="col", class_="number" if index else None) for index, name in enumerate(head)]
    body = [
        element("tr", element("th", row[0], scope="row"), *(element("td", cell, class_="number") for cell in row[1:]))
        for row in rows
    ]
    table = element("table", element("thead", element("tr", *names)), element("tbody", *body))
    return element("div", table, class_="scroll")


def _cells(score: dict[str, Any]) -> list[object]:
    """The cells of a score, in the order of ``_COLUMNS``."""
    ends = score["interval"]
    return [
        *(format_number(score[side]) for side in ("before", "after")),
        f"{score['difference']:+.1f}",
        "–" if ends is None else " to ".join(f"{end:+.1f}" for end in ends),
        element("span", score["verdict"], class_=f"pill {css_word(score['verdict'])}"),
    ]


def _measured_with_labels(labels: dict[str, Any]) -> str:
    counts = "; ".join(
        f"{name}: {one['n_nuclei']:,} nuclei, {count_noun(one['n_patients'], 'patient')}"
        for name, one in labels["splits"].items()
    )
    how = (
        "The validation chooses k and epochs, the test is reported."
        if "test" in labels["splits"]
        else "The validation's patients are halved: what one half chooses is reported on the other."
    )
    return f"{counts.capitalize()}. {how} Windows of {labels['window_px']} px at {labels['mpp']:g} µm/px. {_FIRST}"


def _measured_without_labels(tissue: dict[str, Any]) -> str:
    fine, coarse = tissue["mpps"]
    same, different = (tissue["rows"][1][f"cosine_{which}"] for which in ("same", "different"))
    cosines = "; ".join(f"{side} {same[side]:.3f} and {different[side]:.3f}" for side in ("before", "after"))
    return (
        f"{tissue['n_nuclei']:,} nuclei of {count_noun(tissue['n_images'], 'image')}, "
        f"{count_noun(tissue['n_patients'], 'patient')}. First line: "
        f"each nucleus is looked for by cosine among up to 1,000 of its image, from {fine:g} to {coarse:g} µm/px and "
        f"back; by chance {tissue['chance']:.1f} %. Second: how often a nucleus mirrored, turned or stained anew is "
        "nearer to itself than another nucleus is; by chance, and for a network with constant output, 50 %. "
        "Third: the same between the two scales. "
        f"Mean cosine with itself and with others: {cosines}. {_FIRST}"
    )


def _picture(picture: dict[str, str], folder: Path) -> Markup:
    path = folder / picture["file"]
    with Image.open(path) as opened:
        width, height = opened.size
    source = f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
    image = element("img", src=source, alt=picture["caption"], width=width, height=height)
    return element("figure", image, element("figcaption", picture["caption"]), class_="sheet")


_LABEL_PX, _PLOT_PX, _ROW_PX, _AXIS_PX = 330, 560, 26, 40
_MARGIN = 1.08


@dataclass(frozen=True)
class ChartRow:
    """One row of the chart, a difference.

    Attributes:
        label: name of the measure.
        score: score from ``evaluation.bootstrap.compare_scores``.
    """

    label: str
    score: dict[str, Any]


def difference_chart(rows: Sequence[ChartRow]) -> Markup:
    """A dot for every difference, in points, with a line for its 95 % interval; right of zero is better."""
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

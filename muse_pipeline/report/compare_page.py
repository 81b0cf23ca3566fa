"""``compare.html``: whether pretraining helped, the answer first; one file that needs neither network nor script."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from muse_pipeline.evaluation.summary_text import format_number
from muse_pipeline.files import complete_file
from muse_pipeline.report.compare_chart import ChartRow, css_word, difference_chart
from muse_pipeline.report.document import frame_document
from muse_pipeline.report.markup import Markup, element, join
from muse_pipeline.report.slide_card import definitions


def write_compare_page(result: dict[str, Any], folder: Path) -> None:
    """Write the page.

    Args:
        result: what ``muse compare`` writes as ``compare.json``.
        folder: of the page; the pictures that ``result`` names lie there, and are taken into the page.
    """
    before, after = frame_document("Did pretraining help?")
    with complete_file(folder / "compare.html") as partial:
        partial.write_text(f"{before}{join(list(_sections(result, folder)))}{after}", encoding="utf-8")


def _sections(result: dict[str, Any], folder: Path) -> Iterator[Markup]:
    yield element("h1", "Did pretraining help?")
    for answer in result["answers"]:
        yield element("p", answer["sentence"], class_=f"answer {css_word(answer['verdict'])}")
    yield _networks(result)
    if result["notes"]:
        yield element("ul", *(element("li", note) for note in result["notes"]), class_="warnings")
    if labels := result["with_labels"]:
        yield from _with_labels(labels, folder)


def _networks(result: dict[str, Any]) -> Markup:
    named = {side: result[side] for side in ("before", "after")}
    pairs = {
        side.capitalize(): element(
            "span", one["weights"], " ", element("small", f"{one['backbone']}, colour {one['colour']}")
        )
        for side, one in named.items()
    }
    return definitions(pairs, "figures names")


def _with_labels(labels: dict[str, Any], folder: Path) -> Iterator[Markup]:
    yield element("h2", "Classes at labelled nuclei")
    named = [(f"{row['protocol']}, {_patients(row)}", row) for row in labels["rows"]]
    yield difference_chart([ChartRow(name, row["accuracy"]) for name, row in named])
    note = "Points of accuracy, after less before, with 95 % intervals over patients. Right of zero is better."
    yield element("p", note, class_="note")
    yield _table([(name, row["accuracy"], row["balanced_accuracy"]) for name, row in named])
    yield element("p", _measured(labels), class_="note")
    if labels["notes"]:
        yield element("ul", *(element("li", note) for note in labels["notes"]), class_="warnings")
    if labels["picture"]:
        yield element("h2", "Nuclei and those most like them")
        yield _picture(labels["picture"], folder)


def _patients(row: dict[str, Any]) -> str:
    draws = f", {row['n_draws']} draws" if row["n_draws"] > 1 else ""
    return f"{row['n_patients']} patients{draws}"


def _table(rows: list[tuple[str, dict[str, Any], dict[str, Any]]]) -> Markup:
    names = ("Before", "After", "Difference", "95 % interval", "Better?", "Balanced", "95 % interval", "Better?")
    head = [
        element("th", "Accuracy, %", scope="col"),
        *(element("th", name, scope="col", class_="number") for name in names),
    ]
    body = [
        element("tr", element("th", name, scope="row"), *_sides(score), *_difference(score), *_difference(balanced))
        for name, score, balanced in rows
    ]
    table = element("table", element("thead", element("tr", *head)), element("tbody", *body))
    return element("div", table, class_="scroll")


def _sides(score: dict[str, Any]) -> list[Markup]:
    return [element("td", format_number(score[side]), class_="number") for side in ("before", "after")]


def _difference(score: dict[str, Any]) -> list[Markup]:
    ends = score["interval"]
    interval = "–" if ends is None else " to ".join(f"{end:+.1f}" for end in ends)
    verdict = element("span", score["verdict"], class_=f"pill {css_word(score['verdict'])}")
    cells = (f"{score['difference']:+.1f}", interval, verdict)
    return [element("td", cell, class_="number") for cell in cells]


def _measured(labels: dict[str, Any]) -> str:
    counts = "; ".join(
        f"{name}: {one['n_nuclei']:,} nuclei, {one['n_patients']} patients" for name, one in labels["splits"].items()
    )
    how = (
        "The validation chooses k and epochs, the test is reported."
        if "test" in labels["splits"]
        else "The validation's patients are halved: what one half chooses is reported on the other."
    )
    return (
        f"{counts}. {how} Windows of {labels['window_px']} px at {labels['mpp']:g} µm/px. The answer above is that of "
        "the first line, fixed before anything was measured."
    )


def _picture(picture: dict[str, str], folder: Path) -> Markup:
    path = folder / picture["file"]
    with Image.open(path) as opened:
        width, height = opened.size
    source = f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
    image = element("img", src=source, alt=picture["caption"], width=width, height=height)
    return element("figure", image, element("figcaption", picture["caption"]), class_="sheet")

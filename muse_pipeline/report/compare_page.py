"""``compare.html``: the effect of pretraining, conclusion first, in one file that needs neither network nor script."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from muse_pipeline.core.text import count_noun
from muse_pipeline.report.overlays import nice_length


def write_compare_page(result: dict[str, Any], folder: Path) -> None:
    """Write the page.

    Args:
        result: content of ``compare.json`` of ``muse compare``.
        folder: folder of the page and of the pictures that ``result`` names, which are embedded in the page.
    """
    from muse_pipeline.report.html import write_html

    accuracies, scores = [], []
    if labels := result["with_labels"]:
        accuracies = [(_name(row), row["accuracy"], row["balanced_accuracy"]) for row in labels["rows"]]
    if tissue := result["without_labels"]:
        scores = [(row["measure"].capitalize(), row["score"]) for row in tissue["rows"]]
    write_html(
        folder / "compare.html",
        "compare.html",
        result=result,
        accuracies=accuracies,
        scores=scores,
        axes=[_axis([score for _, score, *_ in rows]) for rows in (accuracies, scores)],
        pictures=[_read_picture(part["picture"], folder) if part else None for part in (labels, tissue)],
    )


def _name(row: dict[str, Any]) -> str:
    """The protocol of a row and the patients whose labels it uses."""
    draws = f", {row['n_draws']} draws" if row["n_draws"] > 1 else ""
    return f"{row['protocol']}, labels of {count_noun(row['n_patients'], 'patient')}{draws}"


def _read_picture(picture: dict[str, str] | None, folder: Path) -> dict[str, Any] | None:
    if not picture:
        return None
    path = folder / picture["file"]
    with Image.open(path) as opened:
        width, height = opened.size
    source = f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
    return {"caption": picture["caption"], "source": source, "width": width, "height": height}


def _axis(scores: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Half the length of an axis of differences, in points, with zero in the middle, and its ticks."""
    ends = [end for score in scores for end in (score["difference"], *(score["interval"] or ()))]
    reach = max(1.0, 1.08 * max(map(abs, ends), default=0.0))
    step = nice_length(reach / 1.5)
    return {"reach": reach, "ticks": [n * step for n in range(-int(reach / step), int(reach / step) + 1)]}

"""``compare.html``: the effect of pretraining, conclusion first, in one file that needs neither network nor script."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from muse_pipeline.core.text import count_noun
from muse_pipeline.report.overlays import nice_length

_LABEL_PX, _PLOT_PX, _ROW_PX, _AXIS_PX = 330, 560, 26, 40
_MARGIN = 1.08


def write_compare_page(result: dict[str, Any], folder: Path) -> None:
    """Write the page.

    Args:
        result: content of ``compare.json`` of ``muse compare``.
        folder: folder of the page and of the pictures that ``result`` names, which are embedded in the page.
    """
    from muse_pipeline.report.html import write_html

    with_labels, without_labels = result["with_labels"], result["without_labels"]
    accuracies = [(_name(row), row) for row in with_labels["rows"]] if with_labels else []
    scores = [(row["measure"].capitalize(), row["score"]) for row in without_labels["rows"]] if without_labels else []
    write_html(
        folder / "compare.html",
        "compare.html",
        result=result,
        accuracies=accuracies,
        accuracy_chart=difference_chart([(name, row["accuracy"]) for name, row in accuracies]),
        scores=scores,
        score_chart=difference_chart(scores),
        pictures=[_read_picture(part["picture"], folder) if part else None for part in (with_labels, without_labels)],
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


def difference_chart(rows: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """Positions in px of every difference, in points, and of its interval, over an axis with zero in the middle.

    Args:
        rows: name of a measure, and its score from ``evaluation.bootstrap.compare_scores``.
    """
    ends = [end for _, score in rows for end in (score["difference"], *(score["interval"] or ()))]
    reach = max(1.0, _MARGIN * max(map(abs, ends), default=0.0))

    def x(points: float) -> float:
        return round(_LABEL_PX + _PLOT_PX * (0.5 + points / reach / 2), 1)

    step = nice_length(reach / 1.5)
    ticks = [n * step for n in range(-int(reach / step), int(reach / step) + 1)]
    return {
        "height": _AXIS_PX + _ROW_PX * len(rows),
        "ticks": [(x(tick), f"{tick:+g}" if tick else "0") for tick in ticks],
        "rows": [
            {
                "label": label,
                "score": score,
                "x": x(score["difference"]),
                "ends": [x(end) for end in score["interval"] or ()],
                "y": _ROW_PX * (index + 0.5),
            }
            for index, (label, score) in enumerate(rows)
        ],
    }

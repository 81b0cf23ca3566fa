"""A comparison as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from muse_pipeline.evaluation.summary_text import NONE, format_number, render_table


def render_comparison(result: dict[str, Any]) -> str:
    """The answers, then tables of ``comparing.compare``'s dictionary, and what they were measured on."""
    sides = [f"{side}: {result[side]['backbone']} ({result[side]['weights']})" for side in ("before", "after")]
    parts = ["\n".join(answer["sentence"] for answer in result["answers"]), "\n".join(sides)]
    remarks = list(result["notes"])
    if labels := result["with_labels"]:
        parts.append(_label_table(labels))
        remarks = [*_how_labels(labels), *remarks, *labels["notes"]]
    return "\n\n".join([*parts, "\n".join(remarks)])


def format_signed(interval: Sequence[float] | None) -> str:
    """As in +1.2 to +8.1, or a dash where there is none."""
    return NONE if interval is None else " to ".join(f"{end:+.1f}" for end in interval)


def _label_table(labels: dict[str, Any]) -> str:
    header = ["classes at given points, %", "labels of", "before", "after", "difference", "interval", "better?"]
    rows = [
        [
            row["protocol"],
            f"{row['n_patients']} patients{_draws(row)}",
            *_score_cells(row["accuracy"]),
            *_score_cells(row["balanced_accuracy"])[2:],
        ]
        for row in labels["rows"]
    ]
    return render_table([*header, "balanced", "interval", "better?"], rows)


def _draws(row: dict[str, Any]) -> str:
    return f" x{row['n_draws']}" if row["n_draws"] > 1 else ""


def _score_cells(score: dict[str, Any]) -> list[str]:
    return [
        *(format_number(score[key]) for key in ("before", "after")),
        f"{score['difference']:+.1f}",
        format_signed(score["interval"]),
        score["verdict"],
    ]


def _how_labels(labels: dict[str, Any]) -> list[str]:
    splits = labels["splits"]
    counts = "; ".join(
        f"{name} {one['n_nuclei']:,} nuclei of {one['n_patients']} patients" for name, one in splits.items()
    )
    how = "validation chooses, the test is reported" if "test" in splits else "validation patients in halves"
    return [
        f"{counts}; {how}; windows of {labels['window_px']} px at {labels['mpp']:g} um/px",
        "differences are paired; 95 % intervals by bootstrap over patients; better: the interval leaves 0 out; the "
        "answer is that of the first line",
    ]

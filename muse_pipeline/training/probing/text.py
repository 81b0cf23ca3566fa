"""The accuracies of a probe as text for a terminal."""

from __future__ import annotations

from typing import Any

from muse_pipeline.evaluation.summary_text import format_interval, format_number, render_table
from muse_pipeline.wording import count_noun


def render_probe(result: dict[str, Any]) -> str:
    """A table of ``probing.probe``'s dictionary, and what it was measured on."""
    splits = result["splits"]
    measured = "; ".join(
        f"{name} {one['n_nuclei']:,} nuclei of {count_noun(one['n_patients'], 'patient')}"
        for name, one in splits.items()
    )
    how = (
        "validation chooses, the test is reported"
        if "test" in splits
        else "validation patients in halves: what one half chooses is reported on the other"
    )
    heading = (
        f"{result['backbone']} ({result['weights']}), windows of {result['window_px']} px at {result['mpp']:g} um/px, "
        f"colour {result['colour']}\n{measured}\n{how}; 95 % intervals by bootstrap over patients"
    )
    rows = [
        [
            name,
            format_number(one["accuracy"]),
            format_interval(one["accuracy_interval"]),
            format_number(one["balanced_accuracy"]),
            format_interval(one["balanced_accuracy_interval"]),
            *(format_number(value) for value in one["recall"].values()),
            _chosen(one),
        ]
        for name, one in result["protocols"].items()
    ]
    header = [
        "classes at given points, %",
        "accuracy",
        "interval",
        "balanced",
        "interval",
        *result["classes"],
        "chosen",
    ]
    parts = [heading, render_table(header, rows)]
    remarks = ["best k on the test: the authors' way of reporting, chosen on what it is measured on", *result["notes"]]
    return "\n\n".join([*parts, "\n".join(remarks)])


def _chosen(protocol: dict[str, Any]) -> str:
    what = "k" if "k" in protocol else "epoch"
    return f"{what} {', '.join(map(str, protocol[what]))}"

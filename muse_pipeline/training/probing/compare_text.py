"""A comparison as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from muse_pipeline.evaluation.summary_text import NONE, format_number, render_table
from muse_pipeline.wording import count_noun


def render_comparison(result: dict[str, Any]) -> str:
    """The answers, then tables of ``Comparison.run``'s dictionary, and what they were measured on."""
    sides = [f"{side}: {result[side]['backbone']} ({result[side]['weights']})" for side in ("before", "after")]
    parts = ["\n".join(answer["sentence"] for answer in result["answers"]), "\n".join(sides)]
    remarks = []
    if labels := result["with_labels"]:
        parts.append(_label_table(labels))
        remarks += [*_how_labels(labels), *labels["notes"]]
    if tissue := result["without_labels"]:
        parts.append(_tissue_table(tissue))
        remarks += [*_how_tissue(tissue), *tissue["notes"]]
    remarks.append(
        "differences are paired; 95 % intervals by bootstrap over patients; better: the interval leaves 0 out; an "
        "answer is that of its table's first line"
    )
    return "\n\n".join([*parts, "\n".join(remarks)])


def _label_table(labels: dict[str, Any]) -> str:
    header = ["classes at given points, %", "labels of", "before", "after", "difference", "interval", "better?"]
    rows = [
        [
            row["protocol"],
            _patients(row),
            *_score_cells(row["accuracy"]),
            *_score_cells(row["balanced_accuracy"])[2:],
        ]
        for row in labels["rows"]
    ]
    return render_table([*header, "balanced", "interval", "better?"], rows)


def _tissue_table(tissue: dict[str, Any]) -> str:
    header = ["nuclei without labels, %", "nuclei", "before", "after", "difference", "interval", "better?"]
    rows = [[row["measure"], f"{row['n_nuclei']:,}", *_score_cells(row["score"])] for row in tissue["rows"]]
    return render_table(header, rows)


def _patients(row: dict[str, Any]) -> str:
    draws = f" x{row['n_draws']}" if row["n_draws"] > 1 else ""
    return f"{count_noun(row['n_patients'], 'patient')}{draws}"


def _score_cells(score: dict[str, Any]) -> list[str]:
    return [
        *(format_number(score[key]) for key in ("before", "after")),
        f"{score['difference']:+.1f}",
        _signed(score["interval"]),
        score["verdict"],
    ]


def _signed(interval: Sequence[float] | None) -> str:
    return NONE if interval is None else " to ".join(f"{end:+.1f}" for end in interval)


def _how_labels(labels: dict[str, Any]) -> Iterator[str]:
    counts = "; ".join(
        f"{name} {one['n_nuclei']:,} nuclei of {count_noun(one['n_patients'], 'patient')}"
        for name, one in labels["splits"].items()
    )
    how = "validation chooses, the test is reported" if "test" in labels["splits"] else "validation patients in halves"
    yield f"with labels: {counts}; {how}; windows of {labels['window_px']} px at {labels['mpp']:g} um/px"


def _how_tissue(tissue: dict[str, Any]) -> Iterator[str]:
    fine, coarse = tissue["mpps"]
    yield (
        f"without labels: {tissue['n_nuclei']:,} nuclei of {count_noun(tissue['n_images'], 'image')} of "
        f"{count_noun(tissue['n_patients'], 'patient')}, at {fine:g} and {coarse:g} um/px; "
        f"by chance {tissue['chance']:.1f} and 50 %"
    )
    same, different = (tissue["rows"][1][f"cosine_{which}"] for which in ("same", "different"))
    yield "; ".join(
        f"{side}: cosine {same[side]:.3f} with itself turned or stained anew, {different[side]:.3f} with others"
        for side in ("before", "after")
    )

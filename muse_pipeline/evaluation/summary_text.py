"""The scores of a cohort as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from muse_pipeline.core.text import count_noun
from muse_pipeline.evaluation.bootstrap import MIN_PATIENTS
from muse_pipeline.evaluation.score import FAR_UM

NONE = "-"


def render_summary(summary: dict[str, Any]) -> str:
    """Tables of ``summary.summarise``'s dictionary, with remarks on the rules, and on nuclei and slides left out."""
    parts = [_heading(summary), _f1_table(summary)]
    tables = _confusion(summary), _calibration_table(summary), _outline_table(summary), _slide_table(summary)
    parts += [part for part in tables if part]
    remarks = list(_remarks(summary))
    return "\n\n".join([*parts, *(["\n".join(remarks)] if remarks else [])])


def render_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned: the first to the left, the others to the right."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True))]
        ).rstrip()
        for line in lines
    )


def format_interval(interval: Sequence[float] | None, scale: float = 1.0, digits: int = 1) -> str:
    """An interval as in 84.0 to 88.1, or a dash for None."""
    return NONE if interval is None else " to ".join(f"{scale * end:.{digits}f}" for end in interval)


def format_number(value: float | None, scale: float = 1.0, digits: int = 1) -> str:
    """A number with ``digits`` decimal places, or a dash for None."""
    return NONE if value is None else f"{scale * value:.{digits}f}"


def _heading(summary: dict[str, Any]) -> str:
    rules = summary["rules"]
    cut = [
        f"{value:g}" for value in ([rules["min_score"]] if rules["min_score"] is not None else rules["model_threshold"])
    ]
    own = "" if rules["min_score"] is not None else " (the model's own)"
    mpp = ", ".join(sorted({f"{x:.4g}" if abs(x - y) < 1e-4 else f"{x:.4g} x {y:.4g}" for x, y in rules["mpp"]}))
    n_slides, n_patients = summary["n_slides"], summary["n_patients"]
    few = f", fewer than {MIN_PATIENTS}: too few to rely on" if n_patients < MIN_PATIENTS else ""
    intervals = f"bootstrap over {n_patients} patients{few}" if n_patients > 1 else "none, as there is one patient"
    return "\n".join(
        [
            f"{count_noun(n_slides, 'slide')}, model {', '.join(summary['models'])}: "
            f"{count_noun(summary['n_found'], 'nucleus', 'nuclei')} found, {summary['n_true']:,} true",
            f"match: one to one by descending score, within {rules['radius_um']:g} um; mpp {mpp}; "
            f"score cut {', '.join(cut) or 'unknown'}{own}",
            f"95 % intervals: {intervals} ({rules['patient']})",
        ]
    )


def _f1_table(summary: dict[str, Any]) -> str:
    named = {"detection": summary["detection"], **(summary["by_class"] or {})}
    rows = [
        [
            name,
            format_number(row["f1"]),
            format_interval(row["f1_interval"]),
            format_number(row["precision"]),
            format_number(row["recall"]),
            *(f"{row[key]:,}" for key in ("true_positives", "false_positives", "false_negatives")),
        ]
        for name, row in named.items()
    ]
    if mean := summary["mean_class"]:
        rows.append(["mean class", format_number(mean["f1"]), format_interval(mean["f1_interval"]), *[""] * 5])
    title = f"at {summary['rules']['radius_um']:g} um, %"
    return render_table([title, "F1", "interval", "precision", "recall", "hits", "false", "missed"], rows)


def _confusion(summary: dict[str, Any]) -> str | None:
    confusion = summary["confusion"]
    if confusion is None:
        return None
    rows = [
        [name, *(f"{n:,}" for n in counts)] for name, counts in zip(confusion["rows"], confusion["counts"], strict=True)
    ]
    rows[-1][-1] = ""
    return render_table(["true \\ found", *confusion["columns"]], rows)


def _calibration_table(summary: dict[str, Any]) -> str | None:
    calibration = summary["calibration"]
    if calibration is None:
        return None
    rows = [
        [
            name,
            format_number(row["confidence"], 100),
            format_number(row["accuracy"], 100),
            format_number(row["error"], 100),
            format_interval(row["error_interval"], 100),
            f"{row['n']:,}",
        ]
        for name, row in {"all": calibration, **(calibration["by_site"] or {})}.items()
    ]
    header = ["class probability, %", "given", "right", "calibration error", "interval", "matched nuclei"]
    return render_table(header, rows)


def _outline_table(summary: dict[str, Any]) -> str | None:
    outlines = summary["outlines"]
    if outlines is None:
        return None
    named = {"any class (bPQ)": outlines["any_class"], **(outlines["by_class"] or {})}
    rows = [
        [
            name,
            format_number(row["pq"], 100),
            format_interval(row["pq_interval"], 100),
            *(format_number(row[key], 100) for key in ("sq", "dq")),
        ]
        for name, row in named.items()
    ]
    if mean := outlines["mean_class"]:
        rows.append(
            ["mean class (mPQ)", format_number(mean["pq"], 100), format_interval(mean["pq_interval"], 100), "", ""]
        )
    rows.append(["AJI", format_number(outlines["aji"], 100), format_interval(outlines["aji_interval"], 100), "", ""])
    slides = "" if outlines["n_slides"] == summary["n_slides"] else f" ({count_noun(outlines['n_slides'], 'slide')})"
    return render_table([f"outlines{slides}, %", "PQ", "interval", "SQ", "DQ"], rows)


def _slide_table(summary: dict[str, Any]) -> str | None:
    if summary["n_slides"] == 1:
        return None
    rows = [
        [
            slide["slide_id"],
            slide["patient"],
            f"{slide['n_found']:,}",
            f"{slide['n_true']:,}",
            format_number(slide["f1"]["detection"]),
            format_number(slide["f1"]["mean class"] if summary["mean_class"] else None),
        ]
        for slide in summary["slides"]
    ]
    return render_table(["slide", "patient", "found", "true", "detection F1", "mean class F1"], rows)


def _remarks(summary: dict[str, Any]) -> Iterator[str]:
    aside, missing = summary["set_aside"], summary["not_scored"]
    if aside["slides_with_region"]:
        area = sum(slide["region_mm2"] or 0 for slide in summary["slides"])
        yield (
            f"{count_noun(len(aside['slides_with_region']), 'slide')} scored within annotated regions "
            f"({area:.3g} mm2): outside them "
            f"{count_noun(aside['found_outside_region'], 'found nucleus', 'found nuclei')} and "
            f"{aside['true_outside_region']:,} true set aside, neither right nor wrong"
        )
    for slide in summary["slides"]:
        yield from _doubts(slide)
    named = summary["truth_names_classes"]
    if summary["by_class"] is None and (named or summary["n_true"]):
        whose = "no true nucleus that counts has a class" if named else "the truth names no classes"
        yield f"{whose}: only detection is scored"
    elif n := summary["n_true_of_unknown_class"]:
        yield f"{count_noun(n, 'true nucleus has', 'true nuclei have')} no class: counted for detection alone"
    for slide in summary["slides"]:
        if outside := slide["true_outside_slide"]:
            x, y = outside[0]
            yield (
                f"{slide['slide_id']}: {count_noun(len(outside), 'true nucleus lies', 'true nuclei lie')} outside the "
                f"slide (first at x {x:.0f}, y {y:.0f}) and not counted: is the truth in level-0 pixels of this slide?"
            )
    if unchecked := [slide["slide_id"] for slide in summary["slides"] if not slide["checked_against_slide"]]:
        yield f"no slide.json beside the nuclei, so truth outside the slide goes unnoticed: {', '.join(unchecked)}"
    if len(summary["models"]) > 1:
        yield f"the slides were not detected by one model: {', '.join(summary['models'])}"
    for key, words in (
        ("without_truth", "not scored, no truth"),
        ("without_result", "not scored, no result"),
        ("beyond_sheet", "not scored, not in the sheet"),
    ):
        if missing[key]:
            yield f"{words}: {', '.join(missing[key])}"


def _doubts(slide: dict[str, Any]) -> Iterator[str]:
    """Possible faults of the truth rather than the model: ambiguous positions, parts left out."""
    hits, false, missed = slide["counts"][0]
    n_true, in_tissue = hits + missed, slide["true_in_tissue"]
    astray = in_tissue is not None and 2 * in_tissue < n_true
    if not (n_true or slide["true_outside_region"] or slide["true_outside_slide"]):
        yield f"{slide['slide_id']}: the truth has no nucleus; is it the right file?"
    elif slide["roi"] and slide["region_mm2"] is None:
        yield (
            f"{slide['slide_id']}: nuclei were sought within {slide['roi']} alone: give that as --region, or true "
            "nuclei outside of it count as missed"
        )
    elif astray or hits < 0.2 * n_true:
        where, n = ("in the searched tissue", in_tissue) if astray else ("found", hits)
        yield f"{slide['slide_id']}: true nuclei {where}: {n:,} of {n_true:,}; are they in level-0 pixels, x before y?"
    elif slide["region_mm2"] is None and hits > 0.5 * n_true and 2 * slide["found_far_from_true"] > hits + false:
        yield (
            f"{slide['slide_id']}: {slide['found_far_from_true']:,} of {hits + false:,} found nuclei lie farther than "
            f"{FAR_UM:g} um from every true one and count as false: if the truth is complete in a part of the slide "
            "only, give that as --region"
        )

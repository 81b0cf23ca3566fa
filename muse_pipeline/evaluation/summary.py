"""The scores of a cohort, as a dictionary for JSON and as text, computed from counts summed over
slides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from muse_pipeline.core.errors import NucleiError
from muse_pipeline.core.text import count_noun, some_of
from muse_pipeline.evaluation.bootstrap import MIN_PATIENTS, percentile_interval, resample_sums
from muse_pipeline.evaluation.detection import (
    MIN_IOU,
    DetectionCounts,
    PanopticCounts,
    jaccard_ratio,
)
from muse_pipeline.evaluation.reliability import CalibrationCounts
from muse_pipeline.evaluation.score import FAR_UM, Rules, SlideScore
from muse_pipeline.evaluation.truth import Pairing

NOT_SCORED = {
    "without_truth": "no truth",
    "without_result": "no result",
    "beyond_sheet": "not in the sheet",
}


def summarise_scores(
    scores: Sequence[SlideScore], pairing: Pairing, rules: Rules, repeats: int
) -> dict[str, Any]:
    """The result of ``muse evaluate``, as a dictionary for JSON."""
    classes = scores[0].run.class_names
    for score in scores:
        if (others := score.run.class_names) != classes:
            raise NucleiError(
                f"slide '{score.pair.slide_id}' has the classes {', '.join(others)},"
                f" '{scores[0].pair.slide_id}' has {', '.join(classes)}; evaluate results of"
                " different models separately"
            )
    patients = [score.pair.patient for score in scores]
    summary = {
        "rules": {
            "radius_um": rules.radius_um,
            "min_score": rules.min_score,
            "model_threshold": sorted(
                {score.run.threshold for score in scores if score.run.threshold is not None}
            ),
            "mpp": sorted({score.run.slide_mpp for score in scores}),
            "min_iou": MIN_IOU,
            "interval": f"95 %, bootstrap over patients, {repeats} draws",
            "patient": pairing.grouping,
            "class_map": rules.class_map,
        },
        "models": sorted({score.run.model.name for score in scores}),
        "classes": list(classes),
        "n_slides": len(scores),
        "n_patients": len(set(patients)),
        "n_found": sum(score.n_found for score in scores),
        "n_left_out": sum(score.run.n_left_out for score in scores),
        "n_true": sum(score.n_true for score in scores),
        "n_true_of_unknown_class": sum(score.n_unknown for score in scores),
        "truth_names_classes": any(score.names_classes for score in scores),
        **_detection(scores, patients, repeats),
        "calibration": _calibration(scores, repeats),
        "outlines": _outlines(scores, repeats),
        "set_aside": {
            "found_outside_region": sum(score.matches.n_set_aside for score in scores),
            "true_outside_region": sum(score.outside_region for score in scores),
            "true_outside_slide": sum(len(score.outside_slide) for score in scores),
            "slides_with_region": [
                score.pair.slide_id for score in scores if score.region_mm2 is not None
            ],
        },
        "not_scored": {name: list(getattr(pairing, name)) for name in NOT_SCORED},
        "slides": [_slide(score) for score in scores],
    }
    return _without_nan(summary)


def _detection(scores: Sequence[SlideScore], patients: list[str], repeats: int) -> dict[str, Any]:
    """Detection scores and, if true nuclei have classes, scores of the classes, their mean and the
    confusion matrix.
    """
    classes = scores[0].run.class_names
    by_slide = np.stack([score.matches.counts.values for score in scores])
    total = DetectionCounts(by_slide.sum(0))
    drawn = DetectionCounts(resample_sums(by_slide, patients, repeats))

    def row(index: int) -> dict[str, Any]:
        tp, fp, fn = total.values[index].tolist()
        return {
            **{name: float(getattr(total, name)[index]) for name in ("f1", "precision", "recall")},
            "f1_interval": percentile_interval(drawn.f1[:, index], patients),
            "true_positives": tp,
            "false_positives": fp,
            "false_negatives": fn,
        }

    if not any(score.n_true > score.n_unknown for score in scores):
        return {"detection": row(0), "by_class": None, "mean_class": None, "confusion": None}
    return {
        "detection": row(0),
        "by_class": {name: row(index) for index, name in enumerate(classes, 1)},
        "mean_class": {
            "f1": float(total.mean_class_f1),
            "f1_interval": percentile_interval(drawn.mean_class_f1, patients),
        },
        "confusion": {
            "rows": [*classes, "spurious"],
            "columns": [*classes, "missed"],
            "counts": sum(score.matches.confusion for score in scores).tolist(),
        },
    }


def _calibration(scores: Sequence[SlideScore], repeats: int) -> dict[str, Any] | None:
    """Reliability of class probabilities; None if no match has a known class."""
    counted = [score for score in scores if score.calibration is not None and score.calibration.n]
    if not counted:
        return None
    by_slide = np.stack([score.calibration.values for score in counted])
    patients = [score.pair.patient for score in counted]
    return CalibrationCounts(by_slide.sum(0)).describe(by_slide, patients, repeats)


def _outlines(scores: Sequence[SlideScore], repeats: int) -> dict[str, Any] | None:
    """PQ and AJI over slides whose truth has outlines or no nuclei; None if no slide has a true
    outline.
    """
    outlined = [score for score in scores if score.panoptic is not None]
    if not any(score.n_true for score in outlined):
        return None
    patients = [score.pair.patient for score in outlined]
    values = np.stack([score.panoptic.values for score in outlined])
    areas = np.stack([score.jaccard for score in outlined])
    total = PanopticCounts(values.sum(0))
    drawn = PanopticCounts(resample_sums(values, patients, repeats))

    def measured(of: Callable[[PanopticCounts], np.ndarray]) -> dict[str, Any]:
        return {"pq": float(of(total)), "pq_interval": percentile_interval(of(drawn), patients)}

    def row(index: int) -> dict[str, Any]:
        return {
            **measured(lambda counts: counts.quality[..., index]),
            "sq": float(total.segmentation_quality[index]),
            "dq": float(total.detection_quality[index]),
        }

    classed = any(score.n_true > score.n_unknown for score in outlined)
    return {
        "n_slides": len(outlined),
        "any_class": row(0),
        "by_class": (
            {name: row(index) for index, name in enumerate(scores[0].run.class_names, 1)}
            if classed
            else None
        ),
        "mean_class": measured(lambda counts: counts.mean_class_quality) if classed else None,
        "aji": float(jaccard_ratio(areas.sum(0))),
        "aji_interval": percentile_interval(
            jaccard_ratio(resample_sums(areas, patients, repeats)), patients
        ),
    }


def _slide(score: SlideScore) -> dict[str, Any]:
    counts = score.matches.counts
    return {
        "slide_id": score.pair.slide_id,
        "patient": score.pair.patient,
        "model": score.run.model.name,
        "mpp": score.run.slide_mpp,
        "n_found": score.n_found,
        "n_true": score.n_true,
        "true_in_tissue": score.true_in_tissue,
        "roi": score.run.roi.name if score.run.roi else None,
        "region_mm2": score.region_mm2,
        "found_far_from_true": score.found_far,
        "f1": counts.scores(score.run.class_names),
        "counts": counts.values.tolist(),
        "found_outside_region": score.matches.n_set_aside,
        "true_outside_region": score.outside_region,
        "true_outside_slide": score.outside_slide.tolist(),
        "outlines": score.panoptic is not None,
    }


def _without_nan(value: Any) -> Any:
    """Replace NaN, the value of undefined scores, with None, because JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _without_nan(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(member) for member in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value


NONE = "-"


def render_summary(summary: dict[str, Any]) -> str:
    """Render a result of ``summarise_scores`` as tables, with remarks on doubts, nuclei and slides
    left out.
    """
    parts = [_heading(summary), _f1_table(summary)]
    tables = (
        _confusion(summary),
        _calibration_table(summary),
        _outline_table(summary),
        _slide_table(summary),
    )
    parts += [part for part in tables if part]
    remarks = list(_remarks(summary))
    return "\n\n".join([*parts, *(["\n".join(remarks)] if remarks else [])])


def render_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Render a table with the first column aligned to the left and the rest to the right."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    aligned = ([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])] for line in lines)
    return "\n".join("  ".join(cells).rstrip() for cells in aligned)


def format_number(value: float | None, scale: float = 1.0) -> str:
    """A number with one decimal place, or a dash for None."""
    return NONE if value is None else f"{scale * value:.1f}"


def _score(row: dict[str, Any], name: str, scale: float = 1.0) -> list[str]:
    """The cells of a score and its interval, such as "84.0 to 88.1", or a dash for None."""
    interval = row[f"{name}_interval"]
    ends = NONE if interval is None else " to ".join(format_number(end, scale) for end in interval)
    return [format_number(row[name], scale), ends]


def _heading(summary: dict[str, Any]) -> str:
    rules = summary["rules"]
    is_own = rules["min_score"] is None
    cut = [f"{value:g}" for value in (rules["model_threshold"] if is_own else [rules["min_score"]])]
    own = " (the model's own)" if is_own else ""
    mpp = ", ".join(
        sorted({f"{x:.4g}" if abs(x - y) < 1e-4 else f"{x:.4g} x {y:.4g}" for x, y in rules["mpp"]})
    )
    n_slides, n_patients = summary["n_slides"], summary["n_patients"]
    few = f", fewer than {MIN_PATIENTS}: too few to rely on" if n_patients < MIN_PATIENTS else ""
    n_left_out = summary["n_left_out"]
    uncounted = (
        f" ({n_left_out:,} of them in artefacts, which the report does not count)"
        if n_left_out
        else ""
    )
    intervals = (
        f"bootstrap over {n_patients} patients{few}"
        if n_patients > 1
        else "none, as there is one patient"
    )
    return "\n".join(
        [
            (
                f"{count_noun(n_slides, 'slide')}, model {', '.join(summary['models'])}:"
                f" {count_noun(summary['n_found'], 'nucleus', 'nuclei')} found{uncounted},"
                f" {summary['n_true']:,} true"
            ),
            (
                f"match: one to one by descending score, within {rules['radius_um']:g} um; mpp"
                f" {mpp}; score cut {', '.join(cut) or 'unknown'}{own}"
            ),
            f"95 % intervals: {intervals} ({rules['patient']})",
        ]
    )


def _f1_table(summary: dict[str, Any]) -> str:
    named = {"detection": summary["detection"], **(summary["by_class"] or {})}
    counts = "true_positives", "false_positives", "false_negatives"
    rows = []
    for name, row in named.items():
        rates = [format_number(row[key]) for key in ("precision", "recall")]
        rows.append([name, *_score(row, "f1"), *rates, *(f"{row[key]:,}" for key in counts)])
    if mean := summary["mean_class"]:
        rows.append(["mean class", *_score(mean, "f1"), *[""] * 5])
    title = f"at {summary['rules']['radius_um']:g} um, %"
    return render_table(
        [title, "F1", "interval", "precision", "recall", "hits", "false", "missed"], rows
    )


def _confusion(summary: dict[str, Any]) -> str | None:
    confusion = summary["confusion"]
    if confusion is None:
        return None
    rows = [
        [name, *(f"{n:,}" for n in counts)]
        for name, counts in zip(confusion["rows"], confusion["counts"], strict=True)
    ]
    rows[-1][-1] = ""
    return render_table(["true \\ found", *confusion["columns"]], rows)


def _calibration_table(summary: dict[str, Any]) -> str | None:
    calibration = summary["calibration"]
    if calibration is None:
        return None
    given = [format_number(calibration[key], 100) for key in ("confidence", "accuracy")]
    row = ["all", *given, *_score(calibration, "error", 100), f"{calibration['n']:,}"]
    header = [
        "class probability, %",
        "given",
        "right",
        "calibration error",
        "interval",
        "matched nuclei",
    ]
    return render_table(header, [row])


def _outline_table(summary: dict[str, Any]) -> str | None:
    outlines = summary["outlines"]
    if outlines is None:
        return None
    named = {"any class (bPQ)": outlines["any_class"], **(outlines["by_class"] or {})}
    rows = []
    for name, row in named.items():
        parts = [format_number(row[key], 100) for key in ("sq", "dq")]
        rows.append([name, *_score(row, "pq", 100), *parts])
    if mean := outlines["mean_class"]:
        rows.append(["mean class (mPQ)", *_score(mean, "pq", 100), "", ""])
    rows.append(["AJI", *_score(outlines, "aji", 100), "", ""])
    slides = (
        ""
        if outlines["n_slides"] == summary["n_slides"]
        else f" ({count_noun(outlines['n_slides'], 'slide')})"
    )
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
    return render_table(
        ["slide", "patient", "found", "true", "detection F1", "mean class F1"], rows
    )


def _remarks(summary: dict[str, Any]) -> Iterator[str]:
    aside, missing = summary["set_aside"], summary["not_scored"]
    if aside["slides_with_region"]:
        area = sum(slide["region_mm2"] or 0 for slide in summary["slides"])
        yield (
            f"{count_noun(len(aside['slides_with_region']), 'slide')} scored within annotated"
            f" regions ({area:.3g} mm2); outside them,"
            f" {count_noun(aside['found_outside_region'], 'found nucleus', 'found nuclei')} and"
            f" {aside['true_outside_region']:,} true nuclei are set aside, neither right nor wrong"
        )
    for slide in summary["slides"]:
        yield from _doubts(slide)
    named = summary["truth_names_classes"]
    if summary["by_class"] is None and (named or summary["n_true"]):
        whose = "no true nucleus that counts has a class" if named else "the truth names no classes"
        yield f"{whose}: only detection is scored"
    elif n := summary["n_true_of_unknown_class"]:
        yield (
            f"{count_noun(n, 'true nucleus has', 'true nuclei have')} no class: counted only for"
            " detection"
        )
    for slide in summary["slides"]:
        if outside := slide["true_outside_slide"]:
            x, y = outside[0]
            yield (
                f"{slide['slide_id']}:"
                f" {count_noun(len(outside), 'true nucleus lies', 'true nuclei lie')} outside the"
                f" slide (first at x {x:.0f}, y {y:.0f}) and not counted: is the truth in level-0"
                " pixels of this slide?"
            )
    if len(summary["models"]) > 1:
        yield f"the slides were not detected by a single model: {', '.join(summary['models'])}"
    for key, why in NOT_SCORED.items():
        if missing[key]:
            n_slides = count_noun(len(missing[key]), "slide")
            names = f" ({some_of(missing[key])})" if key == "without_result" else ""
            yield f"not scored, {why}: {n_slides}{names}"


# Fractions that raise a doubt: fewer than FEW true nuclei are found, fewer than HALF of them lie in
# tissue, or more than HALF of the found nuclei lie far from true ones.
FEW, HALF = 0.2, 0.5


def _doubts(slide: dict[str, Any]) -> Iterator[str]:
    """Yield signs that the truth, not the model, is wrong: misplaced nuclei, or parts without
    annotation.
    """
    hits, false, missed = slide["counts"][0]
    n_true, in_tissue = hits + missed, slide["true_in_tissue"]
    astray = in_tissue is not None and in_tissue < HALF * n_true
    if not (n_true or slide["true_outside_region"] or slide["true_outside_slide"]):
        yield f"{slide['slide_id']}: the truth has no nucleus; is it the right file?"
    elif slide["roi"] and slide["region_mm2"] is None:
        yield (
            f"{slide['slide_id']}: nuclei were detected only within {slide['roi']}: give that as"
            " --region, otherwise true nuclei outside it count as missed"
        )
    elif astray or hits < FEW * n_true:
        where, n = ("in the searched tissue", in_tissue) if astray else ("found", hits)
        yield (
            f"{slide['slide_id']}: true nuclei {where}: {n:,} of {n_true:,}; are they in level-0"
            " pixels, x before y?"
        )
    elif (
        slide["region_mm2"] is None
        and hits > HALF * n_true
        and slide["found_far_from_true"] > HALF * (hits + false)
    ):
        yield (
            f"{slide['slide_id']}: {slide['found_far_from_true']:,} of {hits + false:,} found"
            f" nuclei lie farther than {FAR_UM:g} um from every true nucleus and count as false: if"
            " the truth is complete only in a part of the slide, give that as --region"
        )

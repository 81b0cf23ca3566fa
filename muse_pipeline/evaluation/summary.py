"""The scores of a cohort, as a dictionary for JSON: counts are summed over slides and then scored."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from muse_pipeline.cohort.patients import match_patient
from muse_pipeline.core.errors import NucleiError
from muse_pipeline.evaluation.bootstrap import REPEATS, percentile_interval, resample_sums
from muse_pipeline.evaluation.detection import DetectionCounts
from muse_pipeline.evaluation.overlaps import MIN_IOU, PanopticCounts, jaccard_ratio
from muse_pipeline.evaluation.pairing import Pairing
from muse_pipeline.evaluation.reliability import CalibrationCounts
from muse_pipeline.evaluation.score import Rules, SlideScore


def summarise(
    scores: Sequence[SlideScore], pairing: Pairing, rules: Rules, repeats: int = REPEATS, site: str | None = None
) -> dict[str, Any]:
    """Result of ``muse evaluate``.

    Args:
        scores: scores of the slides.
        pairing: slides with and without a score.
        rules: rules of scoring.
        repeats: number of draws of the bootstrap.
        site: regular expression that finds a slide's site in its name, for calibration by site.

    Raises:
        ConfigError: the expression is invalid, or matches nothing in a name.
        NucleiError: the slides were not detected with the same classes.
    """
    classes = scores[0].classes
    for score in scores:
        if score.classes != classes:
            raise NucleiError(
                f"slide '{score.slide_id}' has the classes {', '.join(score.classes)}, '{scores[0].slide_id}' has "
                f"{', '.join(classes)}; evaluate results of different models apart"
            )
    patients = [score.patient for score in scores]
    summary = {
        "rules": {
            "radius_um": rules.radius_um,
            "min_score": rules.min_score,
            "model_threshold": sorted({score.threshold for score in scores if score.threshold is not None}),
            "mpp": sorted({score.mpp for score in scores}),
            "min_iou": MIN_IOU,
            "interval": f"95 %, bootstrap over patients, {repeats} draws",
            "patient": pairing.grouping,
            "class_map": rules.class_map,
        },
        "models": sorted({score.model for score in scores}),
        "classes": list(classes),
        "n_slides": len(scores),
        "n_patients": len(set(patients)),
        "n_found": sum(score.n_found for score in scores),
        "n_true": sum(score.n_true for score in scores),
        "n_true_of_unknown_class": sum(score.n_unknown for score in scores),
        "truth_names_classes": any(score.names_classes for score in scores),
        **_detection(scores, patients, repeats),
        "calibration": _calibration(scores, repeats, site),
        "outlines": _outlines(scores, repeats),
        "set_aside": {
            "found_outside_region": sum(score.matches.n_set_aside for score in scores),
            "true_outside_region": sum(score.outside_region for score in scores),
            "true_outside_slide": sum(len(score.outside_slide) for score in scores),
            "slides_with_region": [score.slide_id for score in scores if score.region_mm2 is not None],
        },
        "not_scored": {
            "without_truth": list(pairing.without_truth),
            "without_result": list(pairing.without_result),
            "beyond_sheet": list(pairing.beyond_sheet),
        },
        "slides": [_slide(score) for score in scores],
    }
    return _without_nan(summary)


def _detection(scores: Sequence[SlideScore], patients: list[str], repeats: int) -> dict[str, Any]:
    """Scores of detection; if any true nucleus has a class, also of classes, their mean and the confusion matrix."""
    classes = scores[0].classes
    by_slide = np.stack([score.matches.counts.values for score in scores])
    total, drawn = DetectionCounts(by_slide.sum(0)), DetectionCounts(resample_sums(by_slide, patients, repeats))

    def row(index: int) -> dict[str, Any]:
        tp, fp, fn = total.values[index].tolist()
        return {
            "f1": float(total.f1[index]),
            "f1_interval": percentile_interval(drawn.f1[:, index], patients),
            "precision": float(total.precision[index]),
            "recall": float(total.recall[index]),
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


def _calibration(scores: Sequence[SlideScore], repeats: int, site: str | None) -> dict[str, Any] | None:
    """Reliability of class probabilities, over all slides and by site; None without classes or pairs."""
    counted = [score for score in scores if score.calibration is not None and score.calibration.n]
    if not counted:
        return None

    def row(chosen: Sequence[SlideScore]) -> dict[str, Any]:
        by_slide = np.stack([score.calibration.values for score in chosen])
        return CalibrationCounts(by_slide.sum(0)).describe(by_slide, [score.patient for score in chosen], repeats)

    sites = [match_patient(score.slide_id, site, "--site") for score in counted] if site else []
    by_site = {
        name: row([score for score, its in zip(counted, sites, strict=True) if its == name])
        for name in sorted(set(sites))
    }
    return {**row(counted), "by_site": by_site or None}


def _outlines(scores: Sequence[SlideScore], repeats: int) -> dict[str, Any] | None:
    """PQ and AJI over the slides whose truth has outlines or no nuclei; None if there is no true outline at all."""
    outlined = [score for score in scores if score.panoptic is not None]
    if not any(score.n_true for score in outlined):
        return None
    patients = [score.patient for score in outlined]
    values = np.stack([score.panoptic.values for score in outlined])
    areas = np.stack([score.jaccard for score in outlined])
    total, drawn = PanopticCounts(values.sum(0)), PanopticCounts(resample_sums(values, patients, repeats))

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
        "by_class": {name: row(index) for index, name in enumerate(scores[0].classes, 1)} if classed else None,
        "mean_class": measured(lambda counts: counts.mean_class_quality) if classed else None,
        "aji": float(jaccard_ratio(areas.sum(0))),
        "aji_interval": percentile_interval(jaccard_ratio(resample_sums(areas, patients, repeats)), patients),
    }


def _slide(score: SlideScore) -> dict[str, Any]:
    counts = score.matches.counts
    return {
        "slide_id": score.slide_id,
        "patient": score.patient,
        "model": score.model,
        "mpp": score.mpp,
        "n_found": score.n_found,
        "n_true": score.n_true,
        "true_in_tissue": score.true_in_tissue,
        "roi": score.roi,
        "found_far_from_true": score.found_far,
        "f1": counts.scores(score.classes),
        "counts": counts.values.tolist(),
        "region_mm2": score.region_mm2,
        "found_outside_region": score.matches.n_set_aside,
        "true_outside_region": score.outside_region,
        "true_outside_slide": score.outside_slide.tolist(),
        "checked_against_slide": score.checked_against_slide,
        "outlines": score.panoptic is not None,
    }


def _without_nan(value: Any) -> Any:
    """Replace NaN, which JSON lacks, by null: the score does not exist."""
    if isinstance(value, dict):
        return {key: _without_nan(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(one) for one in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value

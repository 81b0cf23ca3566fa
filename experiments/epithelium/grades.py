"""Do the nuclei that `compact` finds show the grades of EBHI-Seg?

    python -m experiments.epithelium.grades --data DATA     # fits and scores what is not recorded
    python -m experiments.epithelium.grades --table         # prints the table

A logistic regression predicts the grade of a picture. It is fitted to the accessions that `compact`
was trained on, and scored on the others. "classes" are the share, the density and the mean
probability of each class of nuclei. "shapes" adds the mean and standard deviation of each feature
of shape, over all nuclei and over epithelial ones; "neighbours" adds those of the features of
neighbours. "colours", without nuclei, shows how far the stain alone predicts the grade. Pictures of
an accession that have the same grade are one case, whose score is their mean probability. Intervals
are bootstrapped over accessions. DATA contains `prepared/`, written by `python -m
experiments.areas.prepare DATA`.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import cv2
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from experiments.common.areas import EBHI_MPP, EPITHELIAL, ebhi_pictures
from experiments.common.runs import run_arms, runs_of
from muse_pipeline.core.pictures import read_rgb
from muse_pipeline.evaluation.bootstrap import REPEATS, area_under_curve, percentile_interval
from muse_pipeline.features.measure import measure_form
from muse_pipeline.features.neighbours import measure_neighbours
from muse_pipeline.inference.detect import detect_picture
from muse_pipeline.inference.model import find_model
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.nuclei.rays import rays_to_rings
from muse_pipeline.nuclei.shape import measure_shapes
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.tissue.stain import fit_macenko

ARM = "grades"
GRADES = ("normal", "polyp", "low-grade-in", "high-grade-in", "serrated-adenoma", "adenocarcinoma")
SETS = {
    "colours": ("colours",),
    "classes": ("classes",),
    "shapes": ("classes", "shapes"),
    "neighbours": ("classes", "shapes", "neighbours"),
}
FOLDS = 5


def run_arm(arm: str, seed: int, args: argparse.Namespace) -> dict:
    """Score every set of features."""
    cv2.setNumThreads(1)
    with (args.data / "ebhi-seg-colon/manifest.csv").open(encoding="utf-8", newline="") as file:
        grades = {row["image"]: GRADES.index(row["class"]) for row in csv.DictReader(file)}
    predictor = Predictor(find_model("compact"))
    halves = []
    for pictures in (ebhi_pictures(args.data, odd=False), ebhi_pictures(args.data, odd=True)):
        described = [describe(predictor, picture) for picture, _, _ in pictures]
        cases = np.array([(patient, grades[picture.stem]) for picture, _, patient in pictures])
        halves.append((described, cases[:, 0], cases[:, 1].astype(int)))
    return {"sets": {name: fit(halves, parts) for name, parts in SETS.items()}}


def describe(predictor: Predictor, picture: Path) -> dict[str, np.ndarray]:
    """The columns of each part of ``SETS`` for a picture."""
    pixels = read_rgb(picture)
    nuclei = detect_picture(predictor, pixels, EBHI_MPP, fit_macenko(pixels.reshape(-1, 3)))
    count = np.bincount(nuclei.label, minlength=len(predictor.card.classes))
    area_mm2 = pixels.shape[0] * pixels.shape[1] * EBHI_MPP**2 / 1e6
    colours = pixels.reshape(-1, 3).astype(float)
    return {
        "colours": np.concatenate([colours.mean(0), colours.std(0)]),
        "classes": np.concatenate([count / count.sum(), count / area_mm2, nuclei.prob.mean(0)]),
        "shapes": summarise(shapes_of(nuclei), nuclei.label),
        "neighbours": summarise(
            neighbours_of(nuclei, [each.name for each in predictor.card.classes]), nuclei.label
        ),
    }


def shapes_of(nuclei: Nuclei) -> dict[str, np.ndarray]:
    """The features of shape that do not depend on the orientation of the picture."""
    mpp = (EBHI_MPP, EBHI_MPP)
    rings = rays_to_rings(nuclei.xy, nuclei.rays, mpp)
    shapes = measure_shapes(rings, mpp)
    form = measure_form(rings, mpp, shapes)
    return {name: values for name, values in (shapes | form).items() if name != "shape_orientation"}


def neighbours_of(nuclei: Nuclei, classes: list[str]) -> dict[str, np.ndarray]:
    """The features of neighbours."""
    none = nuclei[:0]
    return measure_neighbours(nuclei.xy * EBHI_MPP, nuclei.label, none.xy, none.label, classes)


def summarise(columns: dict[str, np.ndarray], label: np.ndarray) -> np.ndarray:
    """Mean and standard deviation of each column over all nuclei and over epithelial ones; NaN
    without nuclei.
    """
    found = []
    for chosen in (np.ones(len(label), bool), label == EPITHELIAL):
        for values in columns.values():
            known = values[chosen & np.isfinite(values)]
            found += [known.mean(), known.std()] if len(known) else [np.nan, np.nan]
    return np.array(found)


def fit(halves: list[tuple], parts: tuple[str, ...]) -> dict:
    """Cases of the second half with their scores, and the mean area under the curve inside the
    first half.
    """
    (values, patients, grades), (other_values, other_patients, other_grades) = (
        (
            np.array([np.concatenate([one[part] for part in parts]) for one in described]),
            patients,
            grades,
        )
        for described, patients, grades in halves
    )
    middle = np.nanmedian(values, 0)
    values, other_values = (
        np.where(np.isfinite(each), each, middle) for each in (values, other_values)
    )
    model = make_pipeline(
        StandardScaler(), LogisticRegression(max_iter=1000, class_weight="balanced")
    )
    folds = GroupKFold(FOLDS)
    inside = cross_val_predict(
        model, values, grades, groups=patients, cv=folds, method="predict_proba"
    )
    probabilities = model.fit(values, grades).predict_proba(other_values)
    return {
        "columns": values.shape[1],
        "inside": float(areas(*average_cases(inside, patients, grades)[1:]).mean()),
        "cases": [
            [patient, grade, *np.round(scores, 4).tolist()]
            for patient, grade, scores in zip(
                *average_cases(probabilities, other_patients, other_grades), strict=True
            )
        ],
    }


def average_cases(
    scores: np.ndarray, patients: np.ndarray, grades: np.ndarray
) -> tuple[list, list, list]:
    """Patient, grade and mean scores of each case."""
    cases = sorted(set(zip(patients.tolist(), grades.tolist(), strict=True)))
    means = [scores[(patients == patient) & (grades == grade)].mean(0) for patient, grade in cases]
    return [patient for patient, _ in cases], [grade for _, grade in cases], means


def areas(grades: list | np.ndarray, scores: list | np.ndarray) -> np.ndarray:
    """Area under the ROC curve of each grade against all others."""
    grades, scores = np.asarray(grades), np.asarray(scores)
    return np.array(
        [area_under_curve(scores[:, grade], grades == grade) for grade in range(len(GRADES))]
    )


def render(recorded: list[dict]) -> str:
    """Areas under the curve of each set of features, with intervals for the mean."""
    lines = [
        (
            "| features | columns | mean, cross-validated inside the first half | mean (95 %) |"
            f" {' | '.join(GRADES)} |"
        ),
        "|---" * (4 + len(GRADES)) + "|",
    ]
    for run in (run for run in recorded if run["arm"] == ARM):
        for name, entry in run["sets"].items():
            patients, grades, *scores = zip(*entry["cases"], strict=True)
            grades, scores = np.array(grades), np.array(scores).T
            names, member = np.unique(patients, return_inverse=True)
            draws, generator = [], np.random.default_rng(0)
            for _ in range(REPEATS):
                drawn = np.bincount(
                    generator.integers(len(names), size=len(names)), minlength=len(names)
                )
                index = np.repeat(np.arange(len(grades)), drawn[member])
                draws.append(areas(grades[index], scores[index]).mean())
            low, high = percentile_interval(np.array(draws), patients)
            found = areas(grades, scores)
            cells = [name, str(entry["columns"]), f"{entry['inside']:.3f}"]
            cells += [
                f"{found.mean():.3f} ({low:.3f} to {high:.3f})",
                *(f"{area:.2f}" for area in found),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    run_arms(__doc__, runs_of(__file__), (ARM,), run_arm, render, reads_data=True, seeds=(0,))

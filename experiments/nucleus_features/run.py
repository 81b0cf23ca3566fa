"""How well features predict the classes of BRCA-M2C at a site that the linear model was not fitted
to.

    python -m experiments.nucleus_features.run --data DATA  # measures and fits what is not recorded
    python -m experiments.nucleus_features.run --table           # prints the table

Outlines are those of `compact`. Its classes are not used, but it was trained on these pictures, so
outlines may fit better than elsewhere. A labelled point belongs to the outline that is matched to
it within 3 um. For each of the sites A7, A8 and AC, a logistic regression is fitted to the
standardised features of the nuclei of the other two. Embeddings are those of `label_free`, which
was trained on the pixels of these pictures without labels; those of `compact`, which was trained on
these labels, would not be a test. Intervals are bootstrapped over patients. DATA is a folder with
brca-m2c/.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from experiments.common.features import CLASSES, EMBEDDING, MPP, measure_nuclei
from experiments.common.runs import add_run, is_recorded, read_runs, runs_of
from muse_pipeline.cohort.patients import patient_in_name
from muse_pipeline.evaluation.bootstrap import percentile_interval, resample_sums
from muse_pipeline.evaluation.detection import match_points
from muse_pipeline.features.catalogue import FIRST_COLUMNS, features_of
from muse_pipeline.inference.embed import Embedder
from muse_pipeline.inference.model import find_model
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.labels.label_sources import read_labelled_images
from muse_pipeline.labels.labelled_image import LabelledImage
from muse_pipeline.labels.picture_source import PictureSource

RUNS = runs_of(__file__)
RADIUS_UM = 3.0
SITES = ("A7", "A8", "AC")
NOT_WITHOUT_CLASSES = "neighbours_fraction", "neighbours_same"  # these use the classes of `compact`
SHAPE = tuple(
    each.name for each in (*FIRST_COLUMNS, *features_of("basic", CLASSES)) if each.group == "shape"
)
ALL = tuple(
    each.name
    for each in (*FIRST_COLUMNS, *features_of("all", CLASSES))
    if not each.name.startswith((*NOT_WITHOUT_CLASSES, "neighbours_tissue"))
)
SETS = {
    "shape": SHAPE,
    "basic": tuple(name for name in ALL if not name.startswith(("texture", "neighbours"))),
    "all": ALL,
    "embedding": EMBEDDING,
    "both": (*ALL, *EMBEDDING),
}
COLUMNS = (*ALL, *EMBEDDING)


def measure_picture(
    image: LabelledImage, predictor: Predictor, embedder: Embedder
) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, len(COLUMNS)) and labels (N,) of the labelled nuclei that were detected."""
    found, columns = measure_nuclei(image.pixels, predictor, embedder)
    taken = match_points(found.xy * MPP, found.score, image.nuclei.xy * MPP, RADIUS_UM)
    known = np.flatnonzero((taken >= 0) & (image.nuclei.label[taken] >= 0))
    return np.stack([columns[name][known] for name in COLUMNS], 1), image.nuclei.label[taken[known]]


def measure(data: Path) -> dict[str, np.ndarray]:
    """Features, labels, patients and sites of the detected labelled nuclei, and the number of
    all labelled nuclei.
    """
    folder = data / "brca-m2c"
    words = {str(number): name for number, name in enumerate(CLASSES, 1)}
    how = {"format": "row column class", "mpp": MPP, "class_map": words}
    source = PictureSource(images=folder / "images", labels=folder / "labels", **how)
    predictor, embedder = Predictor(find_model("compact")), Embedder(find_model("label_free"))
    parts, n_labelled = [], 0
    for image in read_labelled_images([source], CLASSES, MPP, predictor.card.n_rays):
        values, label = measure_picture(image, predictor, embedder)
        n_labelled += len(image.nuclei)
        parts.append((values, label, [patient_in_name(image.name)] * len(label)))
    values, label, patients = (np.concatenate(each) for each in zip(*parts, strict=True))
    sites = np.array([patient.split("-")[1] for patient in patients])
    return {
        "values": values,
        "label": label,
        "patients": patients,
        "sites": sites,
        "n_labelled": n_labelled,
    }


def confusion_by_patient(
    measured: dict[str, np.ndarray], names: tuple[str, ...]
) -> dict[str, np.ndarray]:
    """For each left-out site, counts (patients, 3, 3) by true and predicted class."""
    values = measured["values"][:, [COLUMNS.index(name) for name in names]]
    values = np.where(np.isfinite(values), values, np.nanmedian(values, 0))
    found = {}
    for site in SITES:
        test = measured["sites"] == site
        model = make_pipeline(
            StandardScaler(), LogisticRegression(max_iter=2000, class_weight="balanced")
        )
        model.fit(values[~test], measured["label"][~test])
        predicted, label = model.predict(values[test]), measured["label"][test]
        names_of_patients, member = np.unique(measured["patients"][test], return_inverse=True)
        counts = np.zeros((len(names_of_patients), 3, 3), int)
        np.add.at(counts, (member, label, predicted), 1)
        found[site] = counts
    return found


def macro_f1(counts: np.ndarray) -> np.ndarray:
    """Mean F1 over classes in percent, from counts (..., 3, 3) by true and predicted class."""
    hits = np.einsum("...ii->...i", counts)
    return 100 * (2 * hits / np.maximum(counts.sum(-1) + counts.sum(-2), 1)).mean(-1)


def run(data: Path) -> None:
    """Measure, fit and record every set of features."""
    missing = {
        name: columns for name, columns in SETS.items() if not is_recorded(RUNS, features_of=name)
    }
    if not missing:
        return
    measured = measure(data)
    for name, columns in missing.items():
        found = confusion_by_patient(measured, columns)
        entry = {
            "features_of": name,
            "features": list(columns),
            "n_labelled": int(measured["n_labelled"]),
            "sites": {},
        }
        entry["sites"] = {site: counts.tolist() for site, counts in found.items()}
        add_run(RUNS, entry)


def print_table() -> None:
    """Print the table."""
    print(
        "| features | columns | A7 | A8 | AC | all | against shape |\n|---|---|---|---|---|---|---|"
    )
    before, recorded = None, {run["features_of"]: run for run in read_runs(RUNS)}
    for name in SETS:
        entry = recorded[name]
        by_site = {site: np.array(counts) for site, counts in entry["sites"].items()}
        counts = np.concatenate(list(by_site.values()))
        groups = [str(number) for number in range(len(counts))]
        draws = macro_f1(resample_sums(counts, groups))
        low, high = percentile_interval(draws, groups)
        cells = [f"{macro_f1(each.sum(0)):.1f}" for each in by_site.values()]
        score, change = macro_f1(counts.sum(0)), ""
        if before is None:
            before = score, draws
        else:
            ends = percentile_interval(draws - before[1], groups)
            change = f"{score - before[0]:+.1f} ({ends[0]:+.1f} to {ends[1]:+.1f})"
        total = f"{score:.1f} ({low:.1f} to {high:.1f})"
        print(f"| `{name}` | {len(entry['features'])} | {' | '.join(cells)} | {total} | {change} |")
    n = int(counts.sum())
    print(f"\n{n:,} of {entry['n_labelled']:,} labelled nuclei of {len(counts)} patients.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    if args.data:
        run(args.data)
    if args.table:
        print_table()

"""Does a logistic regression fitted on a few marked nuclei classify those of other patients better
than `compact`?

    python -m experiments.classify.run --data DATA       # measures and fits what is not recorded
    python -m experiments.classify.run --table           # prints the tables

Nuclei are found by `compact` and measured as `muse run` does with `features: all` and `embedding`.
In each of ten draws, half of the patients are marked and the others are scored. Pictures are marked
in random order until every class has 20 or 100 nuclei, with an upper limit per picture. The
strength of the regularisation is the best in a cross-validation by picture within the marked
nuclei. DATA contains nucls-cc0/, brca-m2c/, ebhi-seg-colon/ and `prepared/`, which `python -m
experiments.areas.prepare DATA` writes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from experiments.classify.labelled import PROBABILITIES, measure
from experiments.common.features import CLASSES, EMBEDDING
from experiments.common.runs import add_run, is_recorded, read_runs, runs_of
from muse_pipeline.evaluation.bootstrap import compare_scores, percentile_interval, resample_sums
from muse_pipeline.features.catalogue import FIRST_COLUMNS, features_of

RUNS = runs_of(__file__)
N_DRAWS, FOLDS = 10, 4
STRENGTHS = (0.001, 0.01, 0.1, 1.0)  # scikit-learn's C
SIZES = {
    "20": (20, 5),
    "100": (100, 25),
    "100, spread": (100, 5),
}  # marked nuclei of a class: all, in one picture
# not measured, because the edge of a crop is not that of the tissue
EDGE = "neighbours_tissue_edge_um"
FEATURES = tuple(
    each.name for each in (*FIRST_COLUMNS, *features_of("all", CLASSES)) if each.name != EDGE
)
ALL = (*PROBABILITIES, *FEATURES, *EMBEDDING)
BEST, ALONE, WEIGHT = (
    "weighted",
    "alone",
    5.0,
)  # factor of the standardised probabilities in these two arms
ARMS = {
    "probabilities": PROBABILITIES,
    "features": FEATURES,
    "embedding": EMBEDDING,
    "all": ALL,
    BEST: ALL,
}
ARMS[ALONE] = tuple(name for name in ALL if not name.startswith("neighbours"))


@dataclass(frozen=True)
class Task:
    """Classes to tell apart.

    Attributes:
        title: name in the tables.
        data: set of labelled nuclei.
        names: names of the classes.
        classes: class of each label of the set; -1 to leave its nuclei out.
        compact: class that each class of `compact` stands for.
        sizes: keys of ``SIZES``.
    """

    title: str
    data: str
    names: tuple[str, ...]
    classes: tuple[int, ...]
    compact: tuple[int, int, int]
    sizes: tuple[str, ...] = tuple(SIZES)


NEW, TUMOUR = "other nucleus", ("other", "benign", "malignant")
TASKS = {
    "breast": Task("breast, same classes", "brca", CLASSES, (0, 1, 2), (0, 1, 2)),
    "nucls": Task("NuCLS, same classes", "nucls", CLASSES, (0, 1, 2, -1), (0, 1, 2), ("20",)),
    "nucls other": Task(
        "NuCLS, and other nucleus", "nucls", (*CLASSES, NEW), (0, 1, 2, 3), (0, 1, 2), ("20",)
    ),
    "colon": Task(
        "colon, epithelium or not", "ebhi", ("other", "epithelium"), (0, 1, 1), (0, 1, 0)
    ),
    "colon tumour": Task(
        "colon, benign or malignant epithelium, or other", "ebhi", TUMOUR, (0, 1, 2), (0, 2, 0)
    ),
}


def mark(
    label: np.ndarray, picture: np.ndarray, size: str, generator: np.random.Generator
) -> np.ndarray:
    """Indices of marked nuclei."""
    n, most = SIZES[size]
    marked, room = [], dict.fromkeys(np.unique(label), n)
    for number in generator.permutation(np.unique(picture)):
        for name in room:
            mine = generator.permutation(np.flatnonzero((picture == number) & (label == name)))
            marked.append(mine[: min(most, room[name])])
            room[name] -= len(marked[-1])
    return np.concatenate(marked)


def fit(
    arm: str, values: np.ndarray, label: np.ndarray, picture: np.ndarray
) -> tuple[Pipeline, np.ndarray]:
    """The fitted regression, and the classes that it predicts in the cross-validation by
    picture.
    """
    weight = np.where(np.isin(ARMS[arm], PROBABILITIES) & (arm in (BEST, ALONE)), WEIGHT, 1.0)
    candidates = []
    for strength in STRENGTHS:
        model = make_pipeline(
            SimpleImputer(strategy="median", keep_empty_features=True),
            StandardScaler(),
            FunctionTransformer(weight.__mul__),
            LogisticRegression(C=strength, class_weight="balanced", max_iter=2000),
        )
        predicted = cross_val_predict(model, values, label, cv=GroupKFold(FOLDS), groups=picture)
        candidates.append((balanced_accuracy(confusion(label, predicted)), model, predicted))
    _, model, predicted = max(candidates, key=lambda each: each[0])
    return model.fit(values, label), predicted


def run(name: str, size: str, measured: dict[str, np.ndarray]) -> dict:
    """Scores of `compact` and of every arm."""
    task = TASKS[name]
    label = np.array(task.classes)[measured["label"]]
    of_task = {key: column[label >= 0] for key, column in measured.items()}
    label, as_it_is = label[label >= 0], np.array(task.compact)[of_task["predicted"]]
    picture, (patients, member) = (
        of_task["picture"],
        np.unique(of_task["patient"], return_inverse=True),
    )
    values = {
        arm: np.stack([of_task[key].astype(float) for key in keys], 1) for arm, keys in ARMS.items()
    }
    n_classes, n_marked, checks = len(task.names), [], []
    counts = {
        arm: np.zeros((len(patients), N_DRAWS, n_classes, n_classes), int)
        for arm in ("compact", *ARMS)
    }
    for draw in range(N_DRAWS):
        generator = np.random.default_rng(draw)
        is_known = np.isin(member, generator.permutation(len(patients))[: len(patients) // 2])
        own, test = np.flatnonzero(is_known), ~is_known
        own = own[mark(label[own], picture[own], size, generator)]
        predictions, check = {"compact": as_it_is[test]}, {"compact": as_it_is[own]}
        for arm in ARMS:
            model, check[arm] = fit(arm, values[arm][own], label[own], picture[own])
            predictions[arm] = model.predict(values[arm][test])
        for arm, predicted in predictions.items():
            np.add.at(counts[arm], (member[test], draw, label[test], predicted), 1)
        n_marked.append(
            [*np.bincount(label[own], minlength=n_classes), len(np.unique(picture[own]))]
        )
        checks.append(
            {
                a: round(float(balanced_accuracy(confusion(label[own], p))), 1)
                for a, p in check.items()
            }
        )
    facts = {
        "patients": len(patients),
        "pictures": len(np.unique(picture)),
        "nuclei": np.bincount(label).tolist(),
    }
    scores = {
        title: summarise(counts, patients, measure_of) for title, measure_of in MEASURES.items()
    }
    of_class = {
        arm: np.nanmean(f1(found.sum(0)), 0).round(1).tolist() for arm, found in counts.items()
    }
    marked = np.mean(n_marked, 0).tolist()
    return {
        "task": name,
        "size": size,
        **facts,
        "marked": marked,
        "checks": checks,
        "class F1": of_class,
        **scores,
    }


def confusion(true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Counts (C, C) by true and predicted class."""
    counts = np.zeros((1 + max(true.max(), predicted.max()),) * 2, int)
    np.add.at(counts, (true, predicted), 1)
    return counts


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """A ratio in percent; NaN where it is not defined."""
    return 100 * part / np.where(whole > 0, whole, np.nan)


def f1(counts: np.ndarray) -> np.ndarray:
    """F1 of classes in percent, (..., C), from counts (..., C, C) by true and predicted class."""
    return ratio(2 * np.einsum("...ii->...i", counts), counts.sum(-1) + counts.sum(-2))


def balanced_accuracy(counts: np.ndarray) -> np.ndarray:
    """Mean recall in percent of the classes that are present, (...), from counts as in ``f1``."""
    return mean_of_defined(ratio(np.einsum("...ii->...i", counts), counts.sum(-1)))


def mean_of_defined(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis without NaN; NaN if there are no other values."""
    n_defined = np.isfinite(values).sum(-1)
    return np.nansum(values, -1) / np.where(n_defined, n_defined, np.nan)


MEASURES = {
    "balanced accuracy": balanced_accuracy,
    "mean class F1": lambda counts: mean_of_defined(f1(counts)),
}


def summarise(
    counts: dict[str, np.ndarray], patients: np.ndarray, measure_of: Callable
) -> dict[str, dict]:
    """For each arm, a measure in each draw, and its mean and its gain over `compact` with intervals
    over patients.
    """

    def mean(sums: np.ndarray) -> np.ndarray:
        return mean_of_defined(measure_of(sums))

    scores = {}
    for arm, values in counts.items():
        interval = percentile_interval(mean(resample_sums(values, patients)), patients)
        gain = compare_scores(counts["compact"], values, patients, mean)
        parts = {"interval": interval, "gain": (gain["difference"], *gain["interval"])}
        parts["draws"] = measure_of(values.sum(0))
        scores[arm] = {key: np.round(part, 2).tolist() for key, part in parts.items()}
    return scores


def render(runs: list[dict]) -> str:
    """A table of the scores, and one of the cross-validation."""
    scores = [f"| classes | marked | chance | `compact` | {' | '.join(ARMS)} | gain of {BEST} |"]
    scores.append("|---" * (5 + len(ARMS)) + "|")
    checks = [
        "| draws of 10 | marked | better | predicted | right | predicted by 5 points | right |",
        "|---" * 7 + "|",
    ]
    for run in runs:
        start = f"| {TASKS[run['task']].title} | {run['size']} |"
        cells = []
        for arm in ("compact", *ARMS):
            means = [mean_of_defined(np.array(run[title][arm]["draws"])) for title in MEASURES]
            cells.append(", ".join(f"{mean:.1f}" for mean in means))
        gains = [
            "{:+.1f} ({:+.1f} to {:+.1f})".format(*run[title][BEST]["gain"]) for title in MEASURES
        ]
        scores.append(
            f"{start} {100 / len(run['nuclei']):.0f} | {' | '.join(cells)} | {', '.join(gains)} |"
        )
        draws = run["balanced accuracy"]
        is_better = np.array(draws[BEST]["draws"]) > np.array(draws["compact"]["draws"])
        predicted = np.array([check[BEST] - check["compact"] for check in run["checks"]])
        counts = [
            (chosen.sum(), (chosen & is_better).sum()) for chosen in (predicted > 0, predicted >= 5)
        ]
        checks.append(
            f"{start} {is_better.sum()} | {' | '.join(str(n) for pair in counts for n in pair)} |"
        )
    return "\n\n".join("\n".join(rows) for rows in (scores, checks))


def main() -> None:
    """Measure, fit and record, or print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument(
        "--work", type=Path, default=Path("runs/classify"), help="folder of measured nuclei"
    )
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    for name, task in TASKS.items() if args.data else ():
        for size in task.sizes:
            if not is_recorded(RUNS, task=name, size=size):
                add_run(RUNS, run(name, size, measure(task.data, args.data, args.work)))
    if args.table:
        print(render(read_runs(RUNS)))


if __name__ == "__main__":
    main()

"""Whether a detector with 2 or 8 labelled crops is better if UNIT pretrained its backbone without
labels.

    python -m experiments.unit_few_labels.run --data DATA    # trains what is not recorded
    python -m experiments.unit_few_labels.run --table        # prints the tables

Detectors like `compact` are fine-tuned with the same settings from random weights, from MUSE
(experiment muse_proof, without site A7, with the same seed), from UNIT's backbone and from UNIT's
whole detector (experiment unit_real, one run for all seeds). Those runs are in the folders
muse_proof/ and unit_real/ next to --work. Random weights are the control for pretraining, MUSE for
the masks, UNIT's backbone for its instance head, and UNIT's detector without fine-tuning for the
labels.

`tnbc`: the seed shuffles the 7 patients of TNBC; labelled crops come from the first three, and all
crops of the other four are scored, at the threshold with the best AJI on the labelled crops. `a7`:
labelled pictures come from the sites A8 and AC of BRCA-M2C, and all pictures of A7 are scored, at a
threshold of 0.4. UNIT was trained on the pixels of A7, MUSE was not. DATA is a folder with
tnbc-nuclei/ and brca-m2c/.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from experiments.common.breast import (
    SCORES,
    SETTINGS,
    load_breast,
    read_site,
    score,
    scorer_of,
    without,
)
from experiments.common.crops import (
    MPP,
    aji,
    compare,
    detection_f1,
    network_finder,
    overlap_labels,
    read_tnbc,
)
from experiments.common.runs import run_arms, runs_of
from experiments.common.training import finetune
from muse_pipeline.evaluation.bootstrap import compare_scores
from muse_pipeline.evaluation.detection import DetectionCounts, jaccard_areas, jaccard_ratio
from muse_pipeline.inference.card import NucleusClass
from muse_pipeline.labels.base_source import LabelSource
from muse_pipeline.methods.detector.config import DetectorConfig
from muse_pipeline.methods.detector.validation import NetworkPredictor
from muse_pipeline.methods.psm.run import label_source
from muse_pipeline.nuclei.masks import write_instances
from muse_pipeline.training.checkpoint import load_checkpoint, save_checkpoint
from muse_pipeline.training.run import Options

RUNS = runs_of(__file__)
STARTS = {
    "random": "random weights",
    "muse": "MUSE",
    "unit": "UNIT, backbone",
    "unit-detector": "UNIT, backbone and instance head",
}
STEPS = "schedule.steps=150"
BASELINE, JUDGED = "random", "A7"
N_LABELLED, N_PATIENTS = (2, 8), 3
THRESHOLDS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
NUCLEUS = NucleusClass("Nucleus", (128, 64, 192))  # the class of UNIT's detector
ARMS = (
    "tnbc-0-unit-detector",
    *(f"tnbc-{n}-{start}" for n in N_LABELLED for start in STARTS),
    *(
        f"a7-{n}-{start}" for n in N_LABELLED for start in STARTS if start != "unit-detector"
    ),  # UNIT has one class
)
Crop = tuple[str, str, np.ndarray, np.ndarray]  # name, patient, pixels and instances


def main() -> None:
    """Train and score the runs that are not recorded, or print the tables."""
    cv2.setNumThreads(1)
    run_arms(__doc__, RUNS, ARMS, run_arm, render_tables, reads_data=True)


def run_arm(arm: str, seed: int, args: argparse.Namespace) -> dict:
    """Counts of a fine-tuned detector for the pictures of the scored patients."""
    data, work = args.data.resolve(), args.work.resolve()
    task, n, start = arm.split("-", 2)
    config = load_breast(data, *SETTINGS, STEPS, f"seed={seed}")
    config = dataclasses.replace(config, checkpoint=find_start(start, seed, work))
    run = {"tnbc": run_crops, "a7": run_breast}[task]
    return run(config, data, int(n), work / f"{arm}-{seed}")


def find_start(start: str, seed: int, work: Path) -> Path | None:
    """The checkpoint that a run starts from; for UNIT's backbone, it is written without the
    instance head.
    """
    if start == "random":
        return None
    if start == "muse":
        return work.with_name("muse_proof") / f"full-A7-{seed}" / "checkpoint.pt"
    whole = work.with_name("unit_real") / "unit-0/stages/3-reader/checkpoint.pt"
    if start == "unit-detector":
        return whole
    backbone = work / "unit-backbone.pt"
    work.mkdir(parents=True, exist_ok=True)
    save_checkpoint(backbone, dataclasses.replace(load_checkpoint(whole), head={}, networks={}))
    return backbone


def run_crops(config: DetectorConfig, data: Path, n: int, folder: Path) -> dict:
    """Fine-tune on ``n`` crops of TNBC, and return the counts of ``compare`` for each scored
    crop.
    """
    crops = {crop[0]: crop for crop in read_tnbc(data)}
    names = divide_crops({name: crop[1] for name, crop in crops.items()}, n, config.seed)
    labelled, judged = ([crops[name] for name in part] for part in names)
    config = dataclasses.replace(
        config,
        classes=(NUCLEUS,),
        sources=(write_source(labelled, folder / "labelled"),),
        export=dataclasses.replace(config.export, threshold=min(THRESHOLDS)),
    )
    if n:
        predictor = make_predictor(finetune(config, folder / "run", Options(accelerator="cpu")))
        threshold = choose_threshold(predictor, labelled)
    else:
        predictor = make_predictor(config.checkpoint)
        threshold = predictor.card.threshold
    find = network_finder(predictor, threshold)
    return {
        "labelled": names[0],
        "threshold": threshold,
        "patients": [crop[1] for crop in judged],
        "counts": [compare(find(pixels), true) for _, _, pixels, true in judged],
    }


def make_predictor(checkpoint: Path) -> NetworkPredictor:
    """A detector that normalises stains as after its export."""
    scorer, _ = scorer_of(checkpoint)
    scorer.predictor.card = dataclasses.replace(scorer.predictor.card, colour=scorer.reference)
    return scorer.predictor


def choose_threshold(predictor: NetworkPredictor, crops: Sequence[Crop]) -> float:
    """The threshold, one of ``THRESHOLDS``, with the best AJI on ``crops``."""

    def areas(threshold: float) -> np.ndarray:
        find = network_finder(predictor, threshold)
        return np.sum(
            [jaccard_areas(overlap_labels(find(pixels), true)) for _, _, pixels, true in crops], 0
        )

    return max(THRESHOLDS, key=lambda threshold: jaccard_ratio(areas(threshold)))


def divide_crops(patients: dict[str, str], n: int, seed: int) -> tuple[list[str], list[str]]:
    """Names of ``n`` labelled crops of the first patients, and of all crops of the others.

    Args:
        patients: patient of each crop, by name.
        n: number of labelled crops; a larger number includes the crops of a smaller one.
        seed: seed of the order of patients and of their crops.
    """
    random = np.random.default_rng(seed)
    first = random.permutation(sorted(set(patients.values())))[:N_PATIENTS].tolist()
    of_first = random.permutation(
        [name for name, patient in patients.items() if patient in first]
    ).tolist()
    return of_first[:n], [name for name, patient in patients.items() if patient not in first]


def write_source(crops: Sequence[Crop], folder: Path) -> LabelSource:
    """Write crops as pictures, instances and classes, and return them as a source with ``format:
    instances``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, _, pixels, labels in crops:
        n_nuclei = len(np.unique(labels[labels > 0]))
        write_instances(folder, name, pixels, labels, [NUCLEUS.name] * n_nuclei)
    return dataclasses.replace(label_source(folder, MPP), patient=2)


def run_breast(config: DetectorConfig, data: Path, n: int, folder: Path) -> dict:
    """Fine-tune on ``n`` pictures of BRCA-M2C, and return the counts for each picture of the scored
    site.

    Counts are true positives, false positives and false negatives for any class and for each class.
    """
    names = [sample.name for sample in config.sources[0].choose()]
    others = sorted(name for name in names if f"TCGA-{JUDGED}-" not in name)
    labelled = np.random.default_rng(config.seed).permutation(others)[:n].tolist()
    config = without(config, [name for name in names if name not in labelled])
    tuned = finetune(config, folder, Options(accelerator="cpu"))
    judged = read_site(data, JUDGED)
    return {
        "labelled": labelled,
        "patients": [picture.patient for picture in judged],
        "counts": score(tuned, judged),
    }


def render_tables(runs: list[dict]) -> str:
    """Scores of both tasks over the seeds, and differences from random weights, paired by seed and
    patient.
    """
    percent = {
        name: lambda counts, of=of: of(DetectionCounts(counts)) for name, of in SCORES.items()
    }
    tables = {
        "tnbc": ("TNBC", {"AJI": aji, "detection F1": detection_f1}, ".3f"),
        "a7": (f"BRCA-M2C, site {JUDGED}", percent, ".1f"),
    }
    return "\n\n".join(render_table(task, runs, *table) for task, table in tables.items())


def render_table(
    task: str, runs: Sequence[dict], title: str, measures: dict[str, Callable], digits: str
) -> str:
    """The table of one task, with 95 % intervals bootstrapped over patients."""
    heads = [f"{name} | less random weights (95 %)" for name in measures]
    rows = [
        f"| {title}, labelled | start | runs | {' | '.join(heads)} |",
        "|---" * (3 + 2 * len(heads)) + "|",
    ]
    for arm in [arm for arm in ARMS if arm.startswith(f"{task}-")]:
        _, n, start = arm.split("-", 2)
        # random weights need at least some labels
        beside = f"{task}-{max(int(n), min(N_LABELLED))}-{BASELINE}"
        own, base = (
            {run["seed"]: run for run in runs if run["arm"] == one} for one in (arm, beside)
        )
        seeds = sorted(own.keys() & base.keys())
        if not seeds:
            continue
        cells = []
        for measure in measures.values():
            found = compare_runs(
                [base[seed] for seed in seeds], [own[seed] for seed in seeds], measure
            )
            low, high = found["interval"]
            change = f"{found['difference']:+{digits}} ({low:+{digits}} to {high:+{digits}})"
            cells += [f"{found['after']:{digits}}", "" if start == BASELINE else change]
        rows.append(f"| {n} | {STARTS[start]} | {len(seeds)} | {' | '.join(cells)} |")
    return "\n".join(rows)


def compare_runs(before: Sequence[dict], after: Sequence[dict], measure: Callable) -> dict:
    """Compare two arms with the same seeds by the mean over seeds of a measure; the bootstrap
    samples patients.
    """
    patients = sorted({patient for run in before for patient in run["patients"]})
    shape = np.shape(before[0]["counts"][0])
    sums = np.zeros((2, len(patients), len(before), *shape))
    for side, runs in enumerate((before, after)):
        for seed, run in enumerate(runs):
            for patient, counts in zip(run["patients"], run["counts"], strict=True):
                sums[side, patients.index(patient), seed] += counts

    def mean_of_seeds(summed: np.ndarray) -> np.ndarray:
        is_drawn = summed.any(
            axis=tuple(range(-len(shape), 0))
        )  # a seed scores only some of the patients
        with np.errstate(invalid="ignore"):
            return np.where(is_drawn, measure(summed), np.nan).mean(-1)

    return compare_scores(*sums, patients, mean_of_seeds)


if __name__ == "__main__":
    main()

"""Nucleus-guided pretraining, and runs that differ in one respect, scored at the nuclei of a
left-out site.

    python -m experiments.muse_proof.run --data ../shared/data  # trains what is not recorded, ten \
        minutes each
    python -m experiments.muse_proof.run --table                  # prints the table

Backbones are trained by `config/train/muse_pretrain.yaml` on the unlabelled pixels of CAMELYON16
and of BRCA-M2C (train and val) without the left-out site. Frozen features at the true nuclei of
this site are classified from those at the nuclei of the other sites, by the 20 nearest neighbours
and by a linear layer: with both at 0.5 um/px, with both at 1.0, and with labels at 0.5 and left-out
nuclei at 1.0. The recipe was chosen on A8. A stopped run continues. DATA is a folder with brca-m2c/
and camelyon16-patches/.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.spatial import cKDTree

from experiments.common.breast import (
    CLASSES,
    breast_labels,
    load_pretraining,
    run_pretraining,
    word_of,
)
from experiments.common.frozen_features import (
    confusion_by_patient,
    load_frozen,
    positions,
    read_points,
    train_linear_probe,
)
from experiments.common.runs import by_arm_and_seed, run_arms, runs_of
from experiments.muse_proof.controls import (
    ENCODER,
    EndsShuffledStage,
    EndsStage,
    RandomPointsStage,
    ShuffledStage,
    register_encoder,
)
from muse_pipeline.evaluation.bootstrap import compare_scores
from muse_pipeline.inference.card import ColourReference
from muse_pipeline.labels.base_source import LabelSource
from muse_pipeline.labels.label_sources import read_labelled_images
from muse_pipeline.methods.muse.config import MuseConfig
from muse_pipeline.methods.muse.run import MuseStage
from muse_pipeline.methods.muse.validation import PointSet, classify_by_neighbours
from muse_pipeline.models.base import Backbone

RUNS = runs_of(__file__)
SITES = ("A7", "AC", "A8")
FINE, COARSE, K = 0.5, 1.0, 20
ARMS = {  # title, and settings that differ from the recipe
    "full": ("MUSE: nuclei and views, mixed scales", ()),
    "views": ("views alone (DINO)", ("distillation.nucleus_weight=0",)),
    "random": ("random points in place of nuclei", ()),
    "shuffled": ("identities of nuclei shuffled", ()),
    "fine": ("0.5 um/px alone", ("views.mpp=[0.5, 0.5]",)),
    "ends": ("global views at the ends of the scales", ()),
    "ends_shuffled": ("likewise, identities shuffled", ()),
    "encoder": ("no decoder", (f"backbone={ENCODER}",)),
    "untrained": ("random weights", ()),
}
STAGES = {  # stages of the arms that do not use MuseStage
    "random": RandomPointsStage,
    "shuffled": ShuffledStage,
    "ends": EndsStage,
    "ends_shuffled": EndsShuffledStage,
}
SCALES = {
    "at 0.5": (FINE, FINE),
    "at 1.0": (COARSE, COARSE),
    "across": (FINE, COARSE),
}  # um/px of labels, of queries
PROTOCOLS = tuple(f"{protocol} {scales}" for protocol in ("kNN", "linear") for scales in SCALES)


def run_arm(arm: str, site: str, seed: int, data: Path, work: Path) -> dict:
    """Pretrain an arm without a site, and classify the nuclei of this site."""
    labels = breast_labels(data)
    known = dataclasses.replace(labels, exclude=(word_of(site),))
    judged = dataclasses.replace(
        labels, exclude=tuple(word_of(one) for one in SITES if one != site)
    )
    if arm == "encoder":
        register_encoder()
    config = load_pretraining(site, seed, data, ARMS[arm][1])
    checkpoint = None if arm == "untrained" else pretrain_arm(arm, site, config, work)
    images = read_labelled_images([known], CLASSES, FINE, n_rays=3)
    backbone, reference = load_frozen(config.backbone, checkpoint, images, seed)
    return {"steps": config.schedule.steps, **classify(backbone, reference, known, judged)}


def pretrain_arm(arm: str, site: str, config: MuseConfig, work: Path) -> Path:
    """The checkpoint of an arm, trained unless it exists."""
    seed = config.seed
    return run_pretraining(STAGES.get(arm, MuseStage)(config, work / f"{arm}-{site}-{seed}"), site)


def classify(
    backbone: Backbone, reference: ColourReference, known: LabelSource, judged: LabelSource
) -> dict:
    """Counts of the nuclei of each patient of the left-out site by true and predicted class.

    Returns:
        ``patients``: their P names, and ``counts``: for each protocol, (P, C * C) counts.
    """
    bank, query = (
        {mpp: read(backbone, source, mpp, reference) for mpp in (FINE, COARSE)}
        for source in (known, judged)
    )
    fine, coarse = same_nuclei(query[FINE][1], query[COARSE][1])
    asked = {FINE: query[FINE][0][fine], COARSE: query[COARSE][0][coarse]}
    truth, patient = query[FINE][1].label[fine].numpy(), query[FINE][1].patient[fine]
    linear = {
        mpp: train_linear_probe(found, points.label, len(CLASSES), seed=0)
        for mpp, (found, points) in bank.items()
    }
    counts = {}
    for scales, (of_labels, of_judged) in SCALES.items():
        features, points = bank[of_labels]
        predicted = {
            "kNN": classify_by_neighbours(
                features, points.label, asked[of_judged], len(CLASSES), K
            ),
            "linear": linear[of_labels].classify(asked[of_judged])[-1],
        }
        for protocol, classes in predicted.items():
            patients, found = confusion_by_patient(truth, classes.numpy(), patient, len(CLASSES))
            counts[f"{protocol} {scales}"] = found.reshape(len(patients), -1).tolist()
    return {"patients": list(patients), "counts": counts}


def read(
    backbone: Backbone, source: LabelSource, mpp: float, reference: ColourReference
) -> tuple[torch.Tensor, PointSet]:
    """Features (N, D) of the nuclei of a source at ``mpp``, and these nuclei."""
    return read_points(backbone, read_labelled_images([source], CLASSES, mpp, n_rays=3), reference)


def same_nuclei(fine: PointSet, coarse: PointSet) -> tuple[np.ndarray, np.ndarray]:
    """Indices, in each set, of the nuclei that are in both sets; their order in the two sets
    differs.
    """
    keys = []
    for points, mpp in ((fine, FINE), (coarse, COARSE)):
        picture, xy = positions(points)
        keys.append(np.column_stack([picture * 1e5, xy * mpp]))
    distance_um, nearest = cKDTree(keys[1]).query(keys[0])
    kept = distance_um < 1.0
    return np.flatnonzero(kept), nearest[kept]


def accuracy(counts: np.ndarray) -> np.ndarray:
    """Mean accuracy (...) in % over S seeds, from counts (..., S, C * C) by true and predicted
    class.
    """
    right = counts[..., :: len(CLASSES) + 1].sum(-1)
    return 100 * (right / counts.sum(-1)).mean(-1)


def render(recorded: list[dict]) -> str:
    """A table per site: accuracies by neighbours, and the difference "full" - arm with its
    bootstrapped interval.
    """
    runs = by_arm_and_seed(recorded)
    return "\n\n".join(
        render_site(runs, site) for site in SITES if any(arm.endswith(site) for arm, _ in runs)
    )


def render_site(runs: Mapping[tuple[str, int], dict], site: str) -> str:
    """The table of one site."""
    n_patients = len(next(run["patients"] for (arm, _), run in runs.items() if arm.endswith(site)))
    protocols = [protocol for protocol in PROTOCOLS if protocol.startswith("kNN")]
    header = [f"{site}, {n_patients} patients", "seeds", *protocols]
    rows = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for arm, (title, _) in ARMS.items():
        seeds = [seed for one, seed in runs if one == f"{arm}-{site}"]
        if not seeds:
            continue
        both = [seed for seed in seeds if (f"full-{site}", seed) in runs]
        cells = []
        for protocol in protocols:
            counts = stack(runs, f"{arm}-{site}", seeds, protocol)
            cell = f"{accuracy(counts.sum(0)):.1f}"
            if arm != "full" and both:
                of_both = (stack(runs, f"{one}-{site}", both, protocol) for one in (arm, "full"))
                found = compare_scores(
                    *of_both, runs[f"full-{site}", both[0]]["patients"], accuracy
                )
                low, high = found["interval"]
                cell += f" ({found['difference']:+.1f}; {low:.1f} to {high:.1f})"
            cells.append(cell)
        rows.append(f"| {title} | {len(seeds)} | {' | '.join(cells)} |")
    return "\n".join(rows)


def stack(
    runs: Mapping[tuple[str, int], dict], arm: str, seeds: Sequence[int], protocol: str
) -> np.ndarray:
    """Counts (P, S, C * C) of the runs of an arm."""
    return np.stack([np.array(runs[arm, seed]["counts"][protocol]) for seed in seeds], 1)


if __name__ == "__main__":
    run_arms(
        __doc__,
        RUNS,
        [f"{arm}-{site}" for site in SITES for arm in ARMS],
        lambda arm, seed, args: run_arm(
            *arm.split("-"), seed, args.data.resolve(), args.work.resolve()
        ),
        render,
        reads_data=True,
    )

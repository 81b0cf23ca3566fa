"""Training on labels of small squares, in plain windows and with a large field of view (LFoV).

    python -m experiments.lfov.run --data ../shared/data  # trains what is not recorded, minutes \
        each
    python -m experiments.lfov.run --table                  # prints the table

BRCA-M2C is labelled everywhere, so only the labels in a random square of 224 px are kept in every
training picture, the same in all arms; with 25 % of the labels, a quarter of the pictures is
trained on. "plain" is trained on windows of the size of this square, and "lfov" on windows of twice
its side, with the square anywhere inside. Detectors have the point head and start from the backbone
of `muse_proof` for the same left-out site and seed, which is trained first if it does not exist. A
stopped run resumes. DATA is a folder with brca-m2c/ and camelyon16-patches/.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from experiments.common.breast import pretrain
from experiments.common.runs import TOP, by_arm_and_seed, run_arms, runs_of
from experiments.common.sites import (
    THRESHOLDS,
    export_fold,
    score_picture,
    split_sources,
    train_fold,
)
from muse_pipeline.evaluation.bootstrap import compare_scores
from muse_pipeline.evaluation.detection import DetectionCounts
from muse_pipeline.inference.detect import detect_image
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.inference.stains import colour_of_fit
from muse_pipeline.labels.label_sources import read_labelled_images
from muse_pipeline.labels.labelled_image import LabelledImage
from muse_pipeline.methods.detector.config import DetectorConfig
from muse_pipeline.methods.detector.data import DetectorData, read_detector_data
from muse_pipeline.methods.detector.run import DetectorStage, load_detector_config
from muse_pipeline.training.run import Log

REGION_PX = 224


def hide_labels(image: LabelledImage, region_px: int, seed: int) -> LabelledImage:
    """The picture with only the labels in a random square, which is determined by the seed and the
    picture's name.

    Args:
        image: labelled picture at the model's mpp.
        region_px: side of the square; a smaller picture is used whole.
        seed: seed of the run.
    """
    generator = np.random.default_rng([seed, zlib.crc32(image.name.encode())])
    size = np.array(image.pixels.shape[1::-1])
    corner = np.floor(generator.random(2) * (np.maximum(size - region_px, 0) + 1)).astype(int)
    region = np.zeros(image.pixels.shape[:2], bool)
    region[corner[1] : corner[1] + region_px, corner[0] : corner[0] + region_px] = True
    visible = ((image.nuclei.xy >= corner) & (image.nuclei.xy < corner + region_px)).all(1)
    if image.region is not None:
        region &= image.region
        column, row = np.clip(image.nuclei.xy.astype(int), 0, size - 1).T
        visible &= image.region[row, column]
    return replace(image, nuclei=image.nuclei[visible], region=region, annotated=None)


class HiddenLabelsStage(DetectorStage):
    """Trains a detector on the labels in the squares."""

    region_px = REGION_PX

    def read(self, log: Log) -> DetectorData:
        """The data with pictures that have only the labels in their squares."""
        plain = replace(self.config, distillation=None)  # because the pictures have no regions yet
        data = read_detector_data(plain, self.start)
        images = [hide_labels(image, self.region_px, self.config.seed) for image in data.images]
        return replace(data, config=self.config, images=images)


RUNS = runs_of(__file__)
RECIPE = TOP / "config/train/compact.yaml"
SITES, SHARES, BASE = ("A7", "AC"), (100, 25), "lfov"  # shares are in percent
WINDOW_PX = {"plain": REGION_PX, "lfov": 2 * REGION_PX}
KINDS = {"plain": "windows of the square", "lfov": "LFoV"}
EVERY = ("head=point", "schedule.steps=700", "schedule.log_every=10")
MEASURES = {  # functions of summed counts (..., S, C + 1, 3); means over S seeds
    "mean class F1": lambda counts: DetectionCounts(counts).mean_class_f1.mean(-1),
    "detection F1": lambda counts: DetectionCounts(counts).f1[..., 0].mean(-1),
}


def run_arm(arm: str, seed: int, args: argparse.Namespace) -> dict:
    """Train and score an arm."""
    (kind, share, site), data, work = arm.split("-"), args.data.resolve(), args.work.resolve()
    start = pretrain(site, seed, data, work.parent / "muse_proof")
    changes = (*EVERY, f"window_px={WINDOW_PX[kind]}", f"seed={seed}", f"checkpoint={start}")
    config = load_detector_config(RECIPE, data, changes)
    known = [sample for source in split_sources(config, site)[0] for sample in source.choose()]
    folder, n_pictures = work / f"{arm}-{seed}", round(len(known) * int(share) / 100)
    checkpoint = train_fold(
        config, site, folder, "cpu", n_pictures, draw=seed, stage=HiddenLabelsStage
    )
    scores = score(config, site, export_fold(checkpoint, folder))
    return {"steps": config.schedule.steps, **scores}


def score(config: DetectorConfig, site: str, model: Path) -> dict:
    """Patients and counts of the P pictures of a site.

    Returns:
        ``patients``, P names, and ``counts``, (P, T, C + 1, 3) by threshold, as in
            ``DetectionCounts``.
    """
    predictor, names = Predictor(model), config.class_names
    pictures = read_labelled_images(
        split_sources(config, site)[1], names, config.mpp, config.n_rays
    )
    counts = []
    for picture in pictures:
        found = detect_image(
            predictor, picture.pixels, colour_of_fit(predictor.card.colour, picture.stain)
        )
        chosen = [found[found.score >= threshold] for threshold in THRESHOLDS]
        counts.append(
            [
                score_picture(one, picture.nuclei, len(names), config.mpp).values.tolist()
                for one in chosen
            ]
        )
    return {"patients": [picture.patient for picture in pictures], "counts": counts}


def render(recorded: list[dict]) -> str:
    """Table of each arm's F1 at its best threshold for mean class F1, and its difference from
    LFoV.
    """
    runs = by_arm_and_seed(recorded)
    header = ["left out, labels", "arm", "seeds", "threshold", *MEASURES]
    header += [f"{name}, less LFoV (95 %)" for name in MEASURES]
    rows = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for site in SITES:
        for share in SHARES:
            rows += [row for kind in KINDS if (row := render_row(runs, kind, share, site))]
    return "\n".join(rows)


def render_row(runs: Mapping[tuple[str, int], dict], kind: str, share: int, site: str) -> str:
    """The row of an arm; empty if it has no run."""
    arm, base = f"{kind}-{share}-{site}", f"{BASE}-{share}-{site}"
    seeds = sorted(seed for one, seed in runs if one == arm)
    if not seeds:
        return ""
    threshold, counts = best_counts(runs, arm, seeds)
    cells = [f"{site}, {share} %", KINDS[kind], str(len(seeds)), f"{threshold:g}"]
    cells += [f"{measure(counts.sum(0)):.1f}" for measure in MEASURES.values()]
    both = [seed for seed in seeds if (base, seed) in runs]
    for measure in MEASURES.values():
        if kind == BASE or not both:
            cells.append("")
            continue
        before, after = (best_counts(runs, one, both)[1] for one in (base, arm))
        found = compare_scores(before, after, runs[arm, both[0]]["patients"], measure)
        low, high = found["interval"]
        cells.append(f"{found['difference']:+.1f} ({low:+.1f} to {high:+.1f})")
    return f"| {' | '.join(cells)} |"


def best_counts(
    runs: Mapping[tuple[str, int], dict], arm: str, seeds: Sequence[int]
) -> tuple[float, np.ndarray]:
    """The threshold with the best mean class F1 over the seeds, and the counts (P, S, C + 1, 3)
    there.
    """
    counts = np.stack(
        [np.array(runs[arm, seed]["counts"]) for seed in seeds], 1
    )  # (P, S, T, C + 1, 3)
    best = DetectionCounts(counts.sum(0)).mean_class_f1.mean(0).argmax()
    return THRESHOLDS[best], counts[:, :, best]


if __name__ == "__main__":
    arms = [f"{kind}-{share}-{site}" for site in SITES for share in SHARES for kind in WINDOW_PX]
    run_arms(__doc__, RUNS, arms, run_arm, render, reads_data=True)

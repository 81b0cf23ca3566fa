"""How early may the trainings of the recipe for own labels end?

    nice python -m experiments.own_labels.minutes --data DATA     # trains what is not recorded
    python -m experiments.own_labels.minutes --table

`config/train/my_labels.yaml` trains without each third of the labels, and then with all. Here every
training runs to the end of its schedule, and its averaged network is kept at every eighth. A rule
then ends the trainings without a third of the labels by scores on this third, and the last one at
the median of their best eighths. Rules thus differ in nothing but the ends of the same trainings.
"whole" ends none early. "frozen" trains on a few fixed windows and leaves the first stages of the
encoder as they are, so that their maps and the teacher's could be computed once.

The initial detector, the pictures and the scores are those of `experiments.own_labels.run`. The
rule of `muse finetune` is "rising, patience 2, last weights".
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from experiments.common.areas import render_score, train_base
from experiments.common.runs import TOP, run_arms
from experiments.common.sites import draw_pictures, export_fold
from experiments.own_labels.run import OPTIONS, SCORES, SITE, TISSUES
from muse_pipeline.core.files import read_json, write_json
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.methods.detector.data import DetectorData, read_detector_data
from muse_pipeline.methods.detector.method import DetectorTraining
from muse_pipeline.methods.detector.mixing import (
    choose_share,
    follow_labels,
    mix_weights,
    split_images,
)
from muse_pipeline.methods.detector.run import DetectorStage, load_detector_config
from muse_pipeline.methods.detector.start import read_start
from muse_pipeline.methods.detector.validation import count_held
from muse_pipeline.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from muse_pipeline.training.loop import MetricsLog, Monitor
from muse_pipeline.training.run import Log

RUNS = Path(__file__).with_name("minutes.jsonl")
N_PARTS = 8  # parts of a schedule at whose ends the network is kept
ARMS = [f"{tissue}-5{kind}" for kind in ("", "-frozen") for tissue in TISSUES]
N_FROZEN, N_BATCHES = (
    2,
    24,
)  # stages of the encoder that "frozen" does not train, and its fixed batches


class KeepParts(Monitor):
    """Keeps the averaged network at every validation."""

    def __init__(self, folder: Path, describe: Callable[[int], Checkpoint]):
        self.folder, self.describe = folder, describe

    def on_validate(self, done: int, log: MetricsLog) -> None:
        """Write the checkpoint ``<steps done>.pt``."""
        self.folder.mkdir(exist_ok=True)
        save_checkpoint(self.folder / f"{done}.pt", self.describe(done))


class PartsStage(DetectorStage):
    """One training of the recipe, which is not mixed, and of which the network is kept at the end
    of each part.
    """

    is_mixed = True  # so that the class shift is used

    def monitors(self, data: DetectorData, method: DetectorTraining) -> Sequence[Monitor]:
        """The monitor that keeps the network."""
        network, meta = method.trained(), self._describe(data)

        def describe(step: int) -> Checkpoint:
            return Checkpoint(
                network.backbone.state_dict(), network.head.state_dict(), {**meta, "step": step}
            )

        return (KeepParts(self.folder / "parts", describe),)

    def checkpoint(self, data: DetectorData, method: DetectorTraining) -> Checkpoint:
        """The checkpoint of the last part."""
        return load_checkpoint(self.folder / "parts" / f"{self.config.schedule.steps}.pt")

    def describe(self, data: DetectorData, log: Log) -> None:
        """Print nothing."""

    def finish(self, data: DetectorData, method: DetectorTraining, log: Log) -> None:
        """Print nothing."""


class FrozenStage(PartsStage):
    """The same without varied windows, and with the first stages of the encoder as they are.

    Their maps, and those of the teacher, could then be computed once; this has no effect on the
    result.
    """

    def build(self, data: DetectorData) -> DetectorTraining:
        """Build the detector, and freeze its first stages, whose batch norms keep their
        statistics.
        """
        method = super().build(data)
        backbone = method.network.backbone
        for part in (backbone.stem, *backbone.stages[:N_FROZEN]):
            part.requires_grad_(False).eval()
            part.train = lambda mode=True, part=part: part
        return method

    def batches(self, data: DetectorData, device: torch.device) -> Callable[[int], Any]:
        """The first batches, over and over."""
        draw = lru_cache(maxsize=N_BATCHES)(super().batches(data, device))
        return lambda number: draw(number % N_BATCHES)


def train_parts(
    data: DetectorData, folder: Path, kind: type[PartsStage]
) -> tuple[list[Path], float]:
    """Train on ``data``; returns the checkpoints after each part, and the processor time per
    step.
    """
    schedule = follow_labels(data.config.schedule, sum(len(image.nuclei) for image in data.images))
    schedule = dataclasses.replace(schedule, validate_every=-(-schedule.steps // N_PARTS))
    config = dataclasses.replace(data.config, schedule=schedule, mixing=None, minutes=None)
    stage = kind(config, folder)
    stage._data = dataclasses.replace(data, config=config)
    measured, begin = folder / "seconds.json", time.process_time()
    stage.run(OPTIONS)
    if not measured.is_file():  # of the process that ends the training
        write_json(measured, (time.process_time() - begin) / schedule.steps)
    return sorted((folder / "parts").iterdir(), key=lambda path: int(path.stem)), read_json(
        measured
    )


def run_arm(arm: str, seed: int, args: argparse.Namespace) -> dict:
    """Train, and score the result of every rule."""
    cv2.setNumThreads(1)
    name, size, *frozen = arm.split("-")
    kind = FrozenStage if frozen else PartsStage
    data, work = args.data.resolve(), args.work.resolve()
    start = train_base(SITE, 0, data, work)
    folder = work / f"{arm}-{seed}"
    changes = [
        f"checkpoint={start}",
        f"distillation.teachers=[{start}]",
        "export.refine=false",
        f"seed={seed}",
    ]
    config = load_detector_config(
        TOP / "config/train/my_labels.yaml", data, [*changes, "training_data=pictures"]
    )
    source = dataclasses.replace(
        draw_pictures(TISSUES[name].labelled(data), int(size), seed), weight=1.0
    )
    config = dataclasses.replace(config, sources=(source,))
    labels = read_detector_data(config, begun := read_start(config))
    folds, counts = [], []
    for number, (images, held) in enumerate(split_images(labels.images, config.mixing.folds)):
        parts, _ = train_parts(
            dataclasses.replace(labels, images=images), folder / f"fold-{number}", kind
        )
        folds.append([int(path.stem) for path in parts])
        counts.append([count_held(labels, begun, load_checkpoint(path), held) for path in parts])
    parts, seconds = train_parts(labels, folder / "all", kind)
    judged: dict[str, dict] = {}

    def judge(part: int, share: float) -> dict:
        if (key := f"{part if share else 0} {share}") not in judged:
            save_checkpoint(
                folder / "mixed.pt",
                mix_weights(begun.checkpoint, load_checkpoint(parts[part]), share),
            )
            judged[key] = TISSUES[name].score(
                Predictor(export_fold(folder / "mixed.pt", folder)), data
            )
        return judged[key]

    rules = {title: end_by(rule, counts) for title, rule in RULES.items()}
    return {
        "seconds_per_step": seconds,
        "steps": [*folds, [int(path.stem) for path in parts]],
        "held_out": [[sums_of(values).tolist() for values in fold] for fold in counts],
        "rules": {
            title: {**rule, "judged": judge(rule["part"], rule["share"])}
            for title, rule in rules.items()
        },
        "before": judge(0, 0.0),
    }


def sums_of(counts: np.ndarray) -> np.ndarray:
    """Detection F1 plus mean class F1 in percent, with the initial weights and with each share, of
    held-out counts.
    """
    totals = counts.sum(1)
    rows = [
        group
        for group in ([0], np.flatnonzero(totals[0, 1:, [0, 2]].sum(0)) + 1)
        if totals[0, group].any()
    ]
    f1 = 200 * totals[..., 0] / (2 * totals[..., 0] + totals[..., 1] + totals[..., 2]).clip(min=1)
    return sum(f1[:, group].mean(1) for group in rows)


def end_whole(scores: list[float]) -> tuple[int, int]:
    """Best and last part of a training that is not ended early."""
    return len(scores) - 1, len(scores) - 1


def end_after(patience: int) -> Callable[[list[float]], tuple[int, int]]:
    """The rule that ends a training once ``patience`` scores in a row are not above the best one
    before.
    """

    def rule(scores: list[float]) -> tuple[int, int]:
        best = 0
        for part, score in enumerate(scores):
            best = part if score > scores[best] else best
            if part - best >= patience:
                break
        return best, part

    return rule


def end_last(patience: int) -> Callable[[list[float]], tuple[int, int]]:
    """The same, but with the last part in place of the best."""
    return lambda scores: (end_after(patience)(scores)[1],) * 2


def end_at(part: int) -> Callable[[list[float]], tuple[int, int]]:
    """The rule that ends every training after a part."""
    return lambda scores: (part, part)


RULES = {
    "whole": end_whole,
    "quarter": end_at(1),
    "half": end_at(3),
    "rising, patience 1": end_after(1),
    "rising, patience 2": end_after(2),
    "rising, patience 2, last weights": end_last(2),
}


def end_by(rule: Callable, counts: list[list[np.ndarray]]) -> dict:
    """The last part of the last training, its share, the parts that are trained, and the predicted
    gains.
    """
    ends = [rule([float(sums_of(values)[-1]) for values in fold]) for fold in counts]
    part = round(float(np.median([best for best, _ in ends])))
    kept = [fold[best] for fold, (best, _) in zip(counts, ends, strict=True)]
    choice = choose_share(np.concatenate(kept, 1), [f"class {n}" for n in range(kept[0].shape[2])])
    gains = (
        {
            name: score["difference"]
            for name, score in choice["scores"].items()
            if name in ("detection", "mean class")
        }
        if choice["share"]
        else {}
    )
    trained = [*(last + 1 for _, last in ends), part + 1]
    return {"part": part, "share": choice["share"], "trained": trained, "predicted": gains}


def render(recorded: list[dict]) -> str:
    """A table of the rules: share of the steps that are trained, and scores on the judged
    pictures.
    """
    head = ["labels", "score", "before", *(f"{title}: steps, score" for title in RULES)]
    table = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for run in recorded:
        for title, (part, measure) in SCORES.items():
            if part in run["before"]:
                before = render_score(run["before"], None, part, measure)
                cells = []
                for rule in run["rules"].values():
                    steps = [
                        ends[last - 1]
                        for ends, last in zip(run["steps"], rule["trained"], strict=True)
                    ]
                    score = render_score(rule["judged"], run["before"], part, measure)
                    cells.append(f"{sum(steps)}, {score}")
                table.append(
                    f"| {run['arm']}, draw {run['seed']} | {title} | {before} |"
                    f" {' | '.join(cells)} |"
                )
    return "\n".join(table)


if __name__ == "__main__":
    run_arms(__doc__, RUNS, ARMS, run_arm, render, reads_data=True, seeds=(0, 1))

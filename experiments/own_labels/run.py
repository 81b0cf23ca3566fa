"""How much do a few labelled pictures of new tissue improve a detector, with the recipe for own
labels?

    python -m experiments.own_labels.run --data DATA     # trains what is not recorded
    python -m experiments.own_labels.run --table

The initial detector is "base" of `experiments.areas.run` without site A8 of BRCA-M2C. It was
trained neither on that site, nor on colon, nor on three patients of TNBC. "breast" is site A8 with
its points, "colon" is EBHI-Seg with the areas of its epithelium, and "tnbc" is the three patients
with their outlines. Pictures to train on are sampled from one half of the patients (in TNBC from
patient 04); pictures of the other patients are scored.

"plain" is `config/train/my_labels.yaml`. "adapted" first continues MUSE from the detector
(`adapt.yaml`), on the pictures of the first half without their labels. It has three controls: in
"held", distillation from the initial detector has so large a weight that MUSE's loss has no effect,
which is self-training on these pictures; in "shuffled", each nucleus is compared with a different
one; in "views" (DINO), only whole views are compared. The number in the name of an arm counts
labelled pictures. DATA contains `prepared/`, which `python -m experiments.areas.prepare DATA`
writes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import zlib
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch

from experiments.common.areas import (
    COMPACT,
    EBHI_MPP,
    MEASURES,
    NARROW,
    area_source,
    ebhi_pictures,
    render_score,
    score_areas,
    train_base,
)
from experiments.common.crops import aji, read_tnbc, score_outlines
from experiments.common.runs import TOP, run_arms, runs_of
from experiments.common.sites import (
    draw_pictures,
    excluding,
    export_fold,
    score_site,
    split_sources,
)
from experiments.common.training import finetune, shuffle_identities
from experiments.own_labels.adapt import AdaptBatch, AdaptConfig, AdaptStage
from muse_pipeline.core.config import locate, parse_config, read_settings
from muse_pipeline.core.pictures import read_rgb, write_png
from muse_pipeline.data.augment import seed_of_step
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.labels.base_source import LabelSource
from muse_pipeline.methods.detector.run import load_detector_config
from muse_pipeline.methods.detector.start import load_trained
from muse_pipeline.methods.muse.data import PretrainData
from muse_pipeline.training.checkpoint import load_checkpoint
from muse_pipeline.training.run import Options

RUNS = runs_of(__file__)
SITE = "A8"
SIZES = (0, 2, 5, 20)
CONTROLS = {  # arms that adapt the detector first, and how they change the recipe
    "adapted": (),
    "held": ("hold.weight=400",),
    "shuffled": (),
    "views": ("distillation.nucleus_weight=0",),
}
TNBC_TRAINING, TNBC_JUDGED = ("04_",), ("01_", "02_")
TNBC_MPP, ADAPTED_MPP = 0.25, 0.5
ADAPT_STEPS = 400
OPTIONS = Options(accelerator="cpu", threads=1)


@dataclass(frozen=True)
class Tissue:
    """Tissue that the initial detector was not trained on, in two parts that share no patient.

    Attributes:
        labelled: function of the data; returns the part to train on.
        score: function of a model and the data; returns counts of each picture of the other part,
            and its patient.
        factor: factor by which pictures are enlarged for the adaptation.
        stride: step between the pictures that the adaptation uses; 1 uses all.
    """

    labelled: Callable[[Path], LabelSource]
    score: Callable[[Predictor, Path], dict]
    factor: float = 1.0
    stride: int = 1


def breast(data: Path, odd: bool) -> LabelSource:
    """One half of the patients of the site."""
    _, (source,) = split_sources(load_detector_config(COMPACT, data, [NARROW]), SITE)
    patients = {sample.name[:12] for sample in source.choose()}
    return excluding(
        source, *sorted(name for name in patients if zlib.crc32(name.encode()) % 2 != odd)
    )


def tnbc(data: Path) -> LabelSource:
    """The pictures of the patient of TNBC to train on."""
    config = load_detector_config(COMPACT, data, [NARROW])
    source = next(source for source in config.sources if source.format == "masks")
    return excluding(
        source,
        *(sample.alias for sample in source.choose() if not sample.name.startswith(TNBC_TRAINING)),
    )


def score_tnbc(predictor: Predictor, data: Path) -> dict:
    """Compare outlines with those of the other patients."""
    return {
        "tnbc": score_outlines(
            predictor, [crop for crop in read_tnbc(data) if crop[0].startswith(TNBC_JUDGED)]
        )
    }


def score_breast(predictor: Predictor, data: Path) -> dict:
    """Compare nuclei with the points of the other half of the patients."""
    return {
        "site": score_site(
            predictor, [breast(data, odd=True)], load_detector_config(COMPACT, data, [NARROW])
        )
    }


def score_colon(predictor: Predictor, data: Path) -> dict:
    """Compare classes with the areas of the other accessions."""
    return {"ebhi": score_areas(predictor, ebhi_pictures(data, odd=True), EBHI_MPP)}


TISSUES = {
    "breast": Tissue(partial(breast, odd=False), score_breast),
    "colon": Tissue(area_source, score_colon, EBHI_MPP / ADAPTED_MPP, stride=4),
    "tnbc": Tissue(tnbc, score_tnbc, TNBC_MPP / ADAPTED_MPP),
}
SCORES = {  # title -> part of the recorded run, and measure
    "mean class F1": MEASURES["site: mean class F1"],
    "detection F1": MEASURES["site: detection F1"],
    "balanced accuracy of Epithelial": MEASURES["colon, other accessions: balanced accuracy"],
    "AJI": ("tnbc", lambda sums: 100 * aji(sums)),
}
KINDS = ("plain", *CONTROLS)
ARMS = [f"{tissue}-{kind}-{size}" for size in SIZES for tissue in TISSUES for kind in KINDS]


class ShuffledStage(AdaptStage):
    """Adapts on pairs of views in which each nucleus is compared with a different one that both
    views show.
    """

    def batches(self, data: PretrainData, device: torch.device) -> Callable[[int], AdaptBatch]:
        """Batches in whose student views the identities of nuclei are shuffled."""
        return partial(_shuffled, super().batches(data, device), self.config.seed)


def _shuffled(batches: Callable[[int], AdaptBatch], seed: int, number: int) -> AdaptBatch:
    batch = batches(number)
    return batch._replace(views=shuffle_identities(batch.views, seed_of_step(seed, number)))


def run_arm(arm: str, seed: int, args: argparse.Namespace) -> dict:
    """Train and score an arm."""
    cv2.setNumThreads(1)
    name, kind, size = arm.split("-")
    tissue = TISSUES[name]
    data, work = args.data.resolve(), args.work.resolve()
    start = train_base(SITE, 0, data, work)
    if kind != "plain":
        pictures = unlabelled_pictures(tissue, data, work / f"{name}-pictures")
        start = adapt(start, kind, seed, pictures, work / f"{name}-{kind}-{seed}")
    mixing = None
    if int(size):
        source = draw_pictures(tissue.labelled(data), int(size), seed)
        start, mixing = train(start, source, seed, data, work / f"{arm}-{seed}")
    predictor = Predictor(export_fold(start, work / f"{arm}-{seed}"))
    return {"mixing": mixing, **tissue.score(predictor, data)}


def train(
    start: Path, source: LabelSource, seed: int, data: Path, folder: Path
) -> tuple[Path, dict]:
    """Train on labels; returns the checkpoint, and how its share in the mixture with the initial
    weights was chosen.
    """
    changes = [
        f"checkpoint={start}",
        f"distillation.teachers=[{start}]",
        "export.refine=false",
        f"seed={seed}",
    ]
    changes.append("training_data=the pictures of an experiment")
    config = load_detector_config(TOP / "config/train/my_labels.yaml", data, changes)
    config = dataclasses.replace(config, sources=(dataclasses.replace(source, weight=1.0),))
    checkpoint = finetune(config, folder, OPTIONS)
    return checkpoint, load_checkpoint(checkpoint).meta["mixing"]


def adapt(start: Path, kind: str, seed: int, pictures: Path, folder: Path) -> Path:
    """Adapt the detector to pictures without labels, and return its checkpoint."""
    changes = [f"backbone={load_trained(start)[1].backbone}", f"checkpoint={start}", f"seed={seed}"]
    changes += [f"schedule.steps={ADAPT_STEPS}", *CONTROLS[kind]]
    changes.append(f"sources=[{{images: {json.dumps(str(pictures))}, mpp: {ADAPTED_MPP}}}]")
    recipe = Path(__file__).with_name("adapt.yaml")
    config = locate(
        parse_config(read_settings(recipe, changes), AdaptConfig, str(recipe)),
        pictures.parent,
        Path,
    )
    stage = ShuffledStage if kind == "shuffled" else AdaptStage
    return stage(config, folder).run(OPTIONS)


def unlabelled_pictures(tissue: Tissue, data: Path, folder: Path) -> Path:
    """Write the pictures of the part to train on at ``ADAPTED_MPP``, and return their folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for sample in tissue.labelled(data).choose()[:: tissue.stride]:
        if not (resized := folder / f"{sample.name}.png").is_file():
            write_png(
                resized,
                cv2.resize(read_rgb(sample.files[0]), None, fx=tissue.factor, fy=tissue.factor),
            )
    return folder


def render(recorded: list[dict]) -> str:
    """Tables of the recipe and of the other arms: mean scores, and differences from the initial
    detector.
    """
    runs: dict[str, dict[int, dict]] = defaultdict(dict)  # arm -> seed -> run
    for run in recorded:
        runs[run["arm"]][run["seed"]] = run
    return "\n\n".join(render_kinds(runs, kinds) for kinds in (KINDS[:1], KINDS[1:]))


def render_kinds(runs: dict[str, dict[int, dict]], kinds: tuple[str, ...]) -> str:
    """The table of some arms, with 95 % intervals bootstrapped over patients."""
    table = [
        f"| tissue, score | labelled pictures | {' | '.join(kinds)} |",
        "|---" * (2 + len(kinds)) + "|",
    ]
    for tissue in TISSUES:
        start = runs[f"{tissue}-plain-0"]
        for title, (part, measure) in SCORES.items():
            for size in SIZES if all(part in run for run in start.values()) else ():
                cells = []
                for kind in kinds:
                    arm = runs[f"{tissue}-{kind}-{size}"]
                    before = (
                        None if arm is start else mean_counts([start[seed] for seed in arm], part)
                    )
                    cells.append(
                        render_score(mean_counts(list(arm.values()), part), before, part, measure)
                    )
                if any(cells):
                    table.append(f"| {tissue}, {title} | {size} | {' | '.join(cells)} |")
    return "\n".join(table)


def mean_counts(runs: list[dict], part: str) -> dict[str, dict]:
    """The mean over runs of the counts in a part of their results; empty without runs."""
    if not runs:
        return {}
    return {part: {**runs[0][part], "counts": np.mean([run[part]["counts"] for run in runs], 0)}}


if __name__ == "__main__":
    run_arms(__doc__, RUNS, ARMS, run_arm, render, reads_data=True, seeds=(0,))

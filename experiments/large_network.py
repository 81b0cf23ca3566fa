"""A larger network, trained on a GPU: the built-in model `large`, and what was tried.

    python experiments/large_network.py --data ../shared/data --seeds 1    # trains what is missing: a JSON per run
    python experiments/large_network.py --table                            # the table of docs/results.md, from these

All runs begin with random weights and have the sources of `config/train/large.yaml` except NuCLS, without the site of
their name and without three of TNBC's patients. "wide" is `muse_compact_32`, "large" is `muse_compact_64`, "varied" is
"large" with stains, sizes and noise varied more, "grown" is "large" with outlines grown around the points of BRCA-M2C.
These were trained side by side for three minutes on one H100, all with the same share of it, so the committed runs have
other numbers of steps than a run here; their JSON states them. "long" is "large" once more, three minutes beside
three others. "student" is `muse_compact_24`, for a minute and a half with "long" of its site as teacher. A CPU takes
hours for each.

Pictures of the site, the crops of three of TNBC's patients and those of NuCLS are scored, on none of which a run is
trained, at a threshold of 0.35 and with outlines as the network gives them. "wide" and "varied" without AC and
"student" without A7 and A8 are not there: they were lost with the GPU. DATA is a folder with brca-m2c/, nucls-cc0/ and
tnbc-nuclei/. A stopped run goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from arms import run_arms
from compact_start import score
from hand_outlines import UNREAD, WITHOUT_UNREAD, is_tnbc, render_changes
from leave_one_site_out import split_sources

from muse_pipeline.methods.detector.run import finetune, load_detector_config
from muse_pipeline.training.run import Options

RUNS = Path(__file__).parent / "large_network"
LARGE, NARROW = (Path(__file__).parents[1] / f"config/train/{name}.yaml" for name in ("large", "compact_narrow"))
TITLES = {
    "wide": "wide",
    "large": "large",
    "varied": "large, varied more",
    "grown": "large, grown outlines",
    "long": "large, for longer",
    "student": "its student, narrow",
}
CHANGES = {
    "wide": ("backbone=muse_compact_32", "schedule.learning_rate=4e-3", "schedule.steps=2400"),
    "large": ("schedule.steps=2200",),
    "varied": (
        "schedule.steps=2200",
        "augmentation.stain_gain=0.5",
        "augmentation.stain_mix=0.14",
        "augmentation.shift=0.09",
        "augmentation.noise=10",
        "augmentation.scale=1.35",
    ),
    "grown": ("schedule.steps=1500",),
    "long": (),
    "student": ("batch=24", "schedule.learning_rate=4e-3", "schedule.steps=1400"),
}
SITES = ("A7", "A8", "AC")
COMPARED = {
    ("wide", "large"): SITES[:2],
    ("large", "varied"): SITES[:2],
    ("large", "grown"): SITES,
    ("large", "long"): SITES,
    ("long", "student"): SITES[2:],
}
ARMS = list(dict.fromkeys(f"{arm}-{site}" for pair, sites in COMPARED.items() for site in sites for arm in pair))


def run_arm(arm: str, seed: int, args: argparse.Namespace) -> dict:
    """Train and score an arm: see ``compact_start.score``."""
    data, work = args.data.resolve(), args.work.resolve()
    checkpoint, steps = train_arm(arm, seed, data, work)
    return {"steps": steps, **score(checkpoint, arm.split("-")[1], data, work / f"{arm}-{seed}")}


def train_arm(arm: str, seed: int, data: Path, work: Path) -> tuple[Path, int]:
    """The checkpoint of an arm, which is trained if it is not there, and its number of steps."""
    kind, site = arm.split("-")
    changes = (f"seed={seed}", "export.refine=false", "sources.2.weight=2", WITHOUT_UNREAD, *CHANGES[kind])
    if kind == "student":
        teacher, _ = train_arm(f"long-{site}", seed, data, work)
        changes = (*changes, f"distillation.teachers=[{teacher}]")
    config = load_detector_config(NARROW if kind == "student" else LARGE, data, changes)
    known, _ = split_sources(config, site)
    sources = *known, *(source for source in config.sources if is_tnbc(source))
    if kind == "grown":
        sources = tuple(dataclasses.replace(one, grow_outlines=True) if one in known else one for one in sources)
    config = dataclasses.replace(config, sources=sources)
    return finetune(config, work / f"{arm}-{seed}", Options()), config.schedule.steps


def render() -> str:
    """See ``hand_outlines.render_changes``."""
    return render_changes(RUNS, COMPARED, TITLES, UNREAD)


if __name__ == "__main__":
    run_arms(__doc__, RUNS, ARMS, run_arm, render, True)

"""The second stage of `compact`: outlines that were drawn by hand; and a narrower network.

    python experiments/hand_outlines.py --data ../shared/data --seeds 0    # trains what is missing: a JSON per run
    python experiments/hand_outlines.py --table                            # the tables of docs/results.md, from these

"hand", "grown" and "bowl" go on for 1,500 steps (10 minutes of one core) from the detector "scratch" of
`compact_start.py` of the same site and seed, which is trained before if it is not there (in compact_start/ beside
--work). "hand" has the sources of `config/train/compact_outlines.yaml` except NuCLS; "grown" has BRCA-M2C alone, with
outlines grown around its points; "bowl" has the pictures of DSB-2018 beside those of "hand". "narrow" has the sources
of "hand" too: it is trained from random weights for 5,000 steps (half an hour) by `config/train/compact_narrow.yaml`,
with the detector "hand" of the same site and seed as teacher. Pictures of the site, the crops of TNBC's patients that
the recipes leave out and those of NuCLS are scored, on none of which a run is trained, at a threshold of 0.35. DATA is
a folder with brca-m2c/, dsb2018-brightfield/, nucls-cc0/ and tnbc-nuclei/. A stopped run goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

from arms import run_arms
from compact_start import render_pairs, score, train

from muse_pipeline.labels.sources import LabelSource
from muse_pipeline.methods.detector.run import finetune, load_detector_config
from muse_pipeline.training.run import Options

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))  # where sites are left out
from leave_one_site_out import split_sources

RUNS = Path(__file__).parent / "hand_outlines"
RECIPE = Path(__file__).parents[1] / "config/train/compact_outlines.yaml"
NARROW = Path(__file__).parents[1] / "config/train/compact_narrow.yaml"
TITLES = {"grown": "grown", "hand": "by hand", "bowl": "by hand, with DSB-2018", "narrow": "narrow"}
SITES = ("A7", "A8", "AC")
COMPARED = {("grown", "hand"): SITES, ("hand", "bowl"): ("A7",), ("hand", "narrow"): ("A8", "AC")}
ARMS = list(dict.fromkeys(f"{arm}-{site}" for pair, sites in COMPARED.items() for site in sites for arm in pair))
UNREAD = ("01", "02", "04")  # patients of TNBC
BOWL_DIAMETER_UM = 8.0  # of the median nucleus of a picture: DSB-2018 states no um per pixel


def run_arm(arm: str, seed: int, args: argparse.Namespace) -> dict:
    """Train and score an arm: see ``compact_start.score``."""
    data, work = args.data.resolve(), args.work.resolve()
    return score(train_arm(arm, seed, data, work), arm.split("-")[1], data, work / f"{arm}-{seed}")


def train_arm(arm: str, seed: int, data: Path, work: Path) -> Path:
    """The checkpoint of an arm, which is trained if it is not there."""
    outlines, site = arm.split("-")
    if outlines == "narrow":
        recipe, steps = NARROW, 5000
        start = f"distillation.teachers=[{train_arm(f'hand-{site}', seed, data, work)}]"
    else:
        recipe, steps = RECIPE, 1500
        start = f"checkpoint={train(f'scratch-{site}', seed, data, work.parent / 'compact_start')}"
    config = load_detector_config(recipe, data, (f"schedule.steps={steps}", f"seed={seed}", start))
    known, _ = split_sources(config, site)
    if outlines == "grown":
        sources = tuple(dataclasses.replace(source, grow_outlines=True) for source in known)
    else:
        sources = (*known, *(source for source in config.sources if is_tnbc(source)))
    if outlines == "bowl":
        folder = data / "dsb2018-brightfield"
        how = {"images": folder / "images", "diameter_um": BOWL_DIAMETER_UM, "allow_empty": True}
        sources = (*sources, LabelSource(folder / "labels", "instances", **how))
    config = dataclasses.replace(config, sources=sources)
    return finetune(config, work / f"{arm}-{seed}", Options(accelerator="cpu", threads=1))


def is_tnbc(source: LabelSource) -> bool:
    """Whether it is the one whose nuclei were outlined by hand and have no class."""
    return source.format == "masks"


def render() -> str:
    """Of each pair of arms the scores in %, and the difference with its 95 % interval over patients."""
    return "\n\n".join(
        render_pairs(RUNS, {arm: TITLES[arm] for arm in pair}, sites, UNREAD) for pair, sites in COMPARED.items()
    )


if __name__ == "__main__":
    run_arms(__doc__, RUNS, ARMS, run_arm, render, True)

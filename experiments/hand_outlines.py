"""The second stage of `compact`: outlines that were drawn by hand, against outlines grown around points.

    python experiments/hand_outlines.py --data ../shared/data --seeds 0    # trains what is missing: a JSON per run
    python experiments/hand_outlines.py --table                            # the tables of docs/results.md, from these

All arms go on for 1,500 steps (10 minutes of one core) from the detector "scratch" of `compact_start.py` of the same
site and seed, which is trained before if it is not there (in compact_start/ beside --work). "hand" has the sources of
`config/train/compact_outlines.yaml` except NuCLS; "grown" has BRCA-M2C alone, with outlines grown around its points;
"bowl" has the pictures of DSB-2018 beside those of "hand". Pictures of the site, the crops of TNBC's patients that the
recipe leaves out and those of NuCLS are scored, on none of which a run is trained, at a threshold of 0.35. DATA is a
folder with brca-m2c/, dsb2018-brightfield/, nucls-cc0/ and tnbc-nuclei/. A stopped run goes on.
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
CHANGES = ("schedule.steps=1500", "export.threshold=0.35")
TITLES = {"grown": "grown", "hand": "by hand", "bowl": "by hand, with DSB-2018"}
COMPARED = {("grown", "hand"): ("A7", "A8", "AC"), ("hand", "bowl"): ("A7",)}  # of which sites
ARMS = list(dict.fromkeys(f"{arm}-{site}" for pair, sites in COMPARED.items() for site in sites for arm in pair))
UNREAD = ("01", "02", "04")  # patients of TNBC
BOWL_DIAMETER_UM = 8.0  # of the median nucleus of a picture: DSB-2018 states no um per pixel


def run_arm(arm: str, seed: int, args: argparse.Namespace) -> dict:
    """Train and score an arm: see ``compact_start.score``."""
    (outlines, site), data, work = arm.split("-"), args.data.resolve(), args.work.resolve()
    checkpoint = train(f"scratch-{site}", seed, data, work.parent / "compact_start")
    config = load_detector_config(RECIPE, data, (*CHANGES, f"seed={seed}", f"checkpoint={checkpoint}"))
    known, _ = split_sources(config, site)
    if outlines == "grown":
        sources = tuple(dataclasses.replace(source, grow_outlines=True) for source in known)
    else:
        sources = (*known, *(source for source in config.sources if is_tnbc(source)))
    if outlines == "bowl":
        folder = data / "dsb2018-brightfield"
        how = {"images": folder / "images", "diameter_um": BOWL_DIAMETER_UM, "allow_empty": True}
        sources = (*sources, LabelSource(folder / "labels", "instances", **how))
    folder = work / f"{arm}-{seed}"
    config = dataclasses.replace(config, sources=sources)
    return score(finetune(config, folder, Options(accelerator="cpu", threads=1)), site, data, folder)


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

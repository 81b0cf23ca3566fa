"""The second, the third and the fourth stage of `compact`.

    python experiments/hand_outlines.py --data ../shared/data --seeds 0    # trains what is missing: a JSON per run
    python experiments/hand_outlines.py --table                            # the table of docs/results.md, from these

"hand", "grown" and "bowl" go on for 1,500 steps (10 minutes of one core) from the detector "scratch" of
`compact_start.py` of the same site and seed, which is trained before if it is not there (in compact_start/ beside
--work). "hand" has the sources of `config/train/compact_outlines.yaml` except NuCLS; "grown" has BRCA-M2C alone, with
outlines grown around its points; "bowl" has the pictures of DSB-2018 beside those of "hand". "narrow" has the sources
of "hand" too: it is trained from random weights for 5,000 steps (half an hour) by `config/train/compact_narrow.yaml`,
with the detector "hand" of the same site and seed as teacher. "distilled" and "filled" go on from this detector for
2,000 steps (11 minutes) by `config/train/compact_distilled.yaml`, without NuCLS and with it as teacher; "narrow_filled"
goes on from "narrow" for as long, with "filled" as teacher. Where a picture is smaller than a window, the windows of
"filled" and "narrow_filled" are filled up with its mirror images, those of the others with white.
"pale" is "filled" with sizes varied up to 1.4 and the inside of large nuclei made pale in half of the windows. It takes
`muse_pipeline/` of revision 5da3e004 and `augmentation.scale=1.4 augmentation.pale=0.5` among the changes of "filled";
this version cannot train it. Pictures of the site, the crops of three of TNBC's patients and those of NuCLS are scored,
on none of which a run is trained, at a threshold of 0.35 and with outlines as the network gives them. DATA is a folder
with brca-m2c/, dsb2018-brightfield/, nucls-cc0/ and tnbc-nuclei/. A stopped run goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from itertools import groupby
from pathlib import Path

from arms import run_arms
from compact_start import SCORED, compare_arms, score, train

from muse_pipeline.data.windows import continue_mirrored
from muse_pipeline.labels.pictures import LabelledImage
from muse_pipeline.labels.sources import LabelSource
from muse_pipeline.methods.detector import data as detector_data
from muse_pipeline.methods.detector.run import finetune, load_detector_config
from muse_pipeline.training.run import Options

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))  # where sites are left out
from leave_one_site_out import split_sources

RUNS = Path(__file__).parent / "hand_outlines"
SECOND, NARROW, THIRD = (
    Path(__file__).parents[1] / f"config/train/{name}.yaml"
    for name in ("compact_outlines", "compact_narrow", "compact_distilled")
)
TITLES = {
    "grown": "grown",
    "hand": "by hand",
    "bowl": "by hand, with DSB-2018",
    "narrow": "narrow",
    "distilled": "distilled",
    "filled": "windows filled",
    "narrow_filled": "narrow, windows filled",
    "pale": "pale nuclei",
}
SITES = ("A7", "A8", "AC")
COMPARED = {
    ("grown", "hand"): SITES,
    ("hand", "bowl"): ("A7",),
    ("hand", "narrow"): SITES,
    ("hand", "distilled"): ("A7",),
    ("distilled", "filled"): ("A7",),
    ("filled", "pale"): ("A7",),
    ("hand", "filled"): SITES,
    ("filled", "narrow_filled"): SITES,
}
ARMS = list(
    dict.fromkeys(
        f"{arm}-{site}" for pair, sites in COMPARED.items() for site in sites for arm in pair if arm != "pale"
    )
)
UNREAD = ("01", "02", "04")  # patients of TNBC
WITHOUT_UNREAD = f"sources.2.exclude={[f'{patient}_' for patient in UNREAD]}"
TEACHERS = {"narrow": "hand", "distilled": "hand", "filled": "hand", "narrow_filled": "filled"}
BOWL_DIAMETER_UM = 8.0  # of the median nucleus of a picture: DSB-2018 states no um per pixel


def run_arm(arm: str, seed: int, args: argparse.Namespace) -> dict:
    """Train and score an arm: see ``compact_start.score``."""
    data, work = args.data.resolve(), args.work.resolve()
    return score(train_arm(arm, seed, data, work), arm.split("-")[1], data, work / f"{arm}-{seed}")


def train_arm(arm: str, seed: int, data: Path, work: Path) -> Path:
    """The checkpoint of an arm, which is trained if it is not there."""
    kind, site = arm.split("-")
    if kind in ("grown", "hand", "bowl"):
        start = train(f"scratch-{site}", seed, data, work.parent / "compact_start")
        recipe, changes = SECOND, ("schedule.steps=1500", f"checkpoint={start}")
    else:
        teacher = train_arm(f"{TEACHERS[kind]}-{site}", seed, data, work)
        if kind == "narrow":
            recipe, changes = NARROW, ("schedule.steps=5000", "distillation.share=0.5", "sources.2.weight=3")
        else:
            start = train_arm(f"narrow-{site}", seed, data, work) if kind == "narrow_filled" else teacher
            recipe = NARROW if kind == "narrow_filled" else THIRD
            changes = "schedule.steps=2000", f"checkpoint={start}", "sources.2.weight=2"
        changes = *changes, WITHOUT_UNREAD, f"distillation.teachers=[{teacher}]"
    config = load_detector_config(recipe, data, (f"seed={seed}", "export.refine=false", "export.snap_um=0", *changes))
    known, _ = split_sources(config, site)
    if kind == "grown":
        sources = tuple(dataclasses.replace(source, grow_outlines=True) for source in known)
    else:
        sources = (*known, *(source for source in config.sources if is_tnbc(source)))
    if kind == "bowl":
        folder = data / "dsb2018-brightfield"
        how = {"images": folder / "images", "diameter_um": BOWL_DIAMETER_UM, "allow_empty": True}
        sources = (*sources, LabelSource(folder / "labels", "instances", **how))
    config = dataclasses.replace(config, sources=sources)
    detector_data.continue_mirrored = continue_mirrored if kind.endswith("filled") else continue_smallest
    return finetune(config, work / f"{arm}-{seed}", Options(accelerator="cpu", threads=1))


def continue_smallest(image: LabelledImage, window_px: int, mpp: float) -> LabelledImage:
    """``continue_mirrored`` for pictures smaller than half a window; around others windows are white."""
    return image if 2 * min(image.pixels.shape[:2]) >= window_px else continue_mirrored(image, window_px, mpp)


def is_tnbc(source: LabelSource) -> bool:
    """Whether it is the one whose nuclei were outlined by hand and have no class."""
    return source.format == "masks"


def render() -> str:
    """See ``render_changes``."""
    return render_changes(RUNS, COMPARED, TITLES, UNREAD)


def render_changes(
    folder: Path, compared: dict[tuple[str, str], tuple[str, ...]], titles: dict[str, str], patients: tuple[str, ...]
) -> str:
    """A row for each pair of arms and site: the scores of the second arm in %, and how they differ from the first's.

    Differences have their 95 % intervals over patients.

    Args:
        folder: of the JSON files.
        compared: the sites of each pair.
        titles: of the arms.
        patients: of TNBC that count.
    """
    measures = [f"{title}: {measure}" for title, of in SCORED.values() for measure in of]
    rows = [f"| change | left out | seeds | {' | '.join(measures)} |", "|---" * (3 + len(measures)) + "|"]
    for pair, sites in compared.items():
        first, second = (titles[arm] for arm in pair)
        for site, found in groupby(compare_arms(folder, pair, sites, patients), lambda each: each[0]):
            of_site = list(found)
            cells = " | ".join(_cell(scores) for *_, scores in of_site)
            rows.append(f"| {first} -> {second} | {site} | {of_site[0][3]} | {cells} |")
    return "\n".join(rows)


def _cell(found: dict) -> str:
    low, high = found["interval"]
    return f"{found['after']:.1f}: {found['difference']:+.1f} ({low:+.1f} to {high:+.1f})"


if __name__ == "__main__":
    run_arms(__doc__, RUNS, ARMS, run_arm, render, True)

"""What corrections on a slide gain there for `compact`, and what they cost elsewhere.

    python -m experiments.corrections.run --data DATA --threads 2      # trains what is not recorded
    python -m experiments.corrections.run --table                      # prints the table

A slide of skin stands for a laboratory's slide. It is not corrected by hand, but by a rule: nuclei
that `compact` finds in the epithelium, which is outlined in `corrections/areas.geojson`, become
Epithelial; those in keratin are deleted; of the rest, small round ones become Lymphocyte and all
others Stroma. Four regions are trained on. Eight other regions, and ten crops of breast from the
training data of `compact`, are only scored. DATA is a folder with wsi-cmu-small-region/ and
brca-m2c/.
"""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import shapely
import torch

from experiments.common.runs import TOP, add_run, is_recorded, read_runs, runs_of
from experiments.common.training import finetune
from muse_pipeline.cli.main import main as muse
from muse_pipeline.core.files import write_json
from muse_pipeline.evaluation.bootstrap import compare_scores
from muse_pipeline.evaluation.detection import DetectionCounts
from muse_pipeline.inference.model import find_checkpoint
from muse_pipeline.labels.base_source import LabelSource
from muse_pipeline.labels.label_sources import read_labelled_images
from muse_pipeline.labels.labelled_image import LabelledImage
from muse_pipeline.labels.picture_source import PictureSource
from muse_pipeline.methods.detector.config import DetectorConfig
from muse_pipeline.methods.detector.run import load_detector_config
from muse_pipeline.methods.detector.start import Start, load_trained
from muse_pipeline.methods.detector.validation import Scorer
from muse_pipeline.qupath.read import read_geojson
from muse_pipeline.training.run import Options

RUNS = runs_of(__file__)
AREAS = Path(__file__).with_name("areas.geojson")
RECIPE = TOP / "config/train/my_labels.yaml"
SLIDE = "CMU-1-Small-Region"
LYMPHOCYTE_UM2, LYMPHOCYTE_ECCENTRICITY = (
    30.0,
    0.75,
)  # upper limits; axes of 3 to 2 have this eccentricity
CONTEXT_PX = 512  # size of the pictures around scored regions
STEPS = 500
# Changes to the settings of the recipe.
ARMS = {"recipe": [], "half": ["distillation.share=0.5"]}
TITLES = {
    "recipe": "`config/train/my_labels.yaml` without `mixing`",
    "half": "likewise, with half of the loss for the teacher (`share: 0.5`)",
}


def main() -> None:
    """Train and score the runs that are not recorded, or print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder with wsi-cmu-small-region/ and brca-m2c/")
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("runs/corrections"),
        help="folder of trainings (default: %(default)s)",
    )
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS, metavar="ARM")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="print the table of the recorded runs")
    args = parser.parse_args()
    if args.table:
        print(render_table())
        return
    if args.data is None:
        parser.error("give --data DATA, or --table")
    torch.set_num_threads(args.threads)
    corrected = write_corrections(args.data.resolve(), args.work.resolve())
    for seed in args.seeds:
        for arm in args.arms:
            if not is_recorded(RUNS, arm=arm, seed=seed):
                scores = run_arm(arm, seed, args.data.resolve(), args.work.resolve(), args.threads)
                add_run(
                    RUNS,
                    {"arm": arm, "seed": seed, "steps": STEPS, "corrected": corrected, **scores},
                )


def write_corrections(data: Path, work: Path) -> dict[str, int]:
    """Find and correct nuclei, and write them as QuPath does, once for the corrected and once for
    the held-out regions.

    Returns:
        Numbers of nuclei in corrected regions that were reclassified, deleted and kept.
    """
    found = work / "found"
    if not (found / SLIDE / "nuclei.geojson.gz").is_file():
        slide = data / "wsi-cmu-small-region" / f"{SLIDE}.svs"
        muse(["run", str(slide), "--model", "compact-fp32", "--output", str(found)])
    features = json.loads(gzip.decompress((found / SLIDE / "nuclei.geojson.gz").read_bytes()))[
        "features"
    ]
    areas = read_geojson(AREAS)
    of_class = {
        name: shapely.union_all(areas.geometry[areas.class_name == name])
        for name in set(areas.class_name)
    }
    regions = {
        part: areas.geometry[[str(name).startswith(part) for name in areas.name]]
        for part in ("corrected", "held out")
    }
    kept, counts = [], Counter()
    for feature in features:
        centre = shapely.geometry.shape(feature["geometry"]).centroid
        name = correct_class(feature, centre, of_class)
        known = feature["properties"]["classification"]["name"]
        if shapely.union_all(regions["corrected"]).contains(centre):
            counts["deleted" if name is None else "kept" if name == known else "reclassified"] += 1
        if name is not None:
            feature["properties"]["classification"] = {"name": name}
            kept.append(feature)
    for part, outlines in regions.items():
        drawn = [json.loads(shapely.to_geojson(outline)) for outline in outlines]
        properties = {"objectType": "annotation", "classification": {"name": "Region*"}}
        drawn = [
            {"type": "Feature", "geometry": outline, "properties": properties} for outline in drawn
        ]
        (work / part).mkdir(parents=True, exist_ok=True)
        write_json(
            work / part / f"{SLIDE}.geojson",
            {"type": "FeatureCollection", "features": [*kept, *drawn]},
        )
    return dict(counts)


def correct_class(
    feature: dict, centre: shapely.Point, areas: dict[str, shapely.Geometry]
) -> str | None:
    """The class of a found nucleus by the rule; None if the nucleus must be deleted."""
    if areas["Keratin"].contains(centre):
        return None
    if areas["Epithelium"].contains(centre):
        return "Epithelial"
    measurements = feature["properties"]["measurements"]
    is_round = measurements["Eccentricity"] < LYMPHOCYTE_ECCENTRICITY
    return "Lymphocyte" if is_round and measurements["Area um^2"] < LYMPHOCYTE_UM2 else "Stroma"


def run_arm(arm: str, seed: int, data: Path, work: Path, threads: int) -> dict:
    """Train an arm, or resume its training, and score `compact` and the trained model."""
    places = {"slides": data / "wsi-cmu-small-region", "labels": work / "corrected"}
    changes = [
        *ARMS[arm],
        f"seed={seed}",
        f"schedule.steps={STEPS}",
        "schedule.save_every=100",
        "mixing=null",
    ]
    changes.append("training_data=regions of CMU-1-Small-Region (CC0-1.0)")
    changes += [f"sources.0.{name}={json.dumps(str(path))}" for name, path in places.items()]
    config = load_detector_config(RECIPE, changes=changes)
    compact = find_checkpoint(Path("compact"))
    tuned = finetune(
        config, work / f"{arm}-{seed}", Options(accelerator="cpu", threads=threads, log=print)
    )
    sources = {
        "corrected": config.sources[0],
        "held out": dataclasses.replace(config.sources[0], labels=work / "held out"),
        "elsewhere": breast_crops(data),
    }
    scores = {
        name: score(compact, tuned, read([source], config)) for name, source in sources.items()
    }
    return {"changes": ARMS[arm], **scores}


def score(before: Path, after: Path, images: list[LabelledImage]) -> dict:
    """Counts for any class and each class in each image, and mean class F1, of two checkpoints."""
    found = {"images": [image.name for image in images]}
    for when, checkpoint in (("before", before), ("after", after)):
        network, config, known = load_trained(checkpoint)
        scorer = Scorer(network, config, Start(checkpoint, known, True).colour)
        counts = [scorer.count_in(image, scorer.find(image)).values for image in images]
        f1 = float(DetectionCounts(np.sum(counts, 0)).mean_class_f1)
        found[when] = {"mean class F1": round(f1, 2), "counts": np.stack(counts).tolist()}
    return found


def breast_crops(data: Path) -> LabelSource:
    """Ten of the pictures that `compact` was trained on."""
    folder = data / "brca-m2c"
    words = {"1": "Lymphocyte", "2": "Epithelial", "3": "Stroma"}
    return PictureSource(
        folder / "labels",
        "row column class",
        images=folder / "images",
        mpp=0.5,
        class_map=words,
        split=folder / "val.txt",
    )


def read(sources: Sequence[LabelSource], config: DetectorConfig) -> list[LabelledImage]:
    """The labelled images of ``sources``."""
    return read_labelled_images(sources, config.class_names, config.mpp, config.n_rays, CONTEXT_PX)


def render_table() -> str:
    """Mean class F1 over seeds, and the bootstrapped interval of its difference from `compact`."""
    runs = read_runs(RUNS)
    header = (
        "| | seeds | corrected regions | held-out regions | change (95 %) | breast | change (95"
        " %) |"
    )
    rows = [header, "|---|---|---|---|---|---|---|"]
    for arm in ARMS:
        of_arm = [run for run in runs if run["arm"] == arm]
        if not of_arm:
            continue
        seen, *cells = [compare(of_arm, what) for what in ("corrected", "held out", "elsewhere")]
        if len(rows) == 2:
            before = " | | ".join(f"{cell['before']:.1f}" for cell in cells)
            rows.append(f"| `compact` as it is | | {seen['before']:.1f} | {before} | |")
        changes = " | ".join(
            f"{cell['after']:.1f} ({', '.join(f'{one:.1f}' for one in cell['by_seed'])}) |"
            f" {cell['difference']:+.1f} ({cell['interval'][0]:+.1f} to {cell['interval'][1]:+.1f})"
            for cell in cells
        )
        rows.append(f"| {TITLES[arm]} | {len(of_arm)} | {seen['after']:.1f} | {changes} |")
    return "\n".join(rows)


def compare(runs: list[dict], what: str) -> dict:
    """Compare scores before and after training, over runs with different seeds on the same
    images.
    """
    before, after = (
        np.stack([run[what][when]["counts"] for run in runs], 1) for when in ("before", "after")
    )
    result = compare_scores(before, after, runs[0][what]["images"], mean_over_seeds)
    return {**result, "by_seed": DetectionCounts(after.sum(0)).mean_class_f1}


def mean_over_seeds(counts: np.ndarray) -> np.ndarray:
    """Mean class F1 (...) from counts (..., seeds, classes + 1, 3)."""
    return DetectionCounts(counts).mean_class_f1.mean(-1)


if __name__ == "__main__":
    main()

"""Whether five pictures that `muse suggest` chooses teach a model more about a new site than five random ones.

    python experiments/suggest.py --data DATA --seeds 0 1 2 3 4      # trains what is missing: a JSON per run
    python experiments/suggest.py --table                            # the table of docs/results.md, from these

DATA is a folder with brca-m2c/. One of its three source sites is left out; a network of `compact`'s kind is trained on
the other two. In each of five draws a third of the left-out site's patients are kept for scoring. Of the pictures of
the others, five that `muse suggest` chooses and five random ones are trained on, each as `muse finetune` would; a
picture is one field of `muse suggest`. Runs are short: the first network takes 400 steps, each fine-tuning 60.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from arms import run_arms

from muse_pipeline.core.files import read_json, write_json
from muse_pipeline.core.types import Frame, SlideInfo
from muse_pipeline.evaluation.bootstrap import compare_scores
from muse_pipeline.evaluation.detection import DetectionCounts
from muse_pipeline.labels.pictures import LabelledImage
from muse_pipeline.labels.read import read_labelled_images
from muse_pipeline.labels.sources import image_paths
from muse_pipeline.methods.detector.config import DetectorConfig
from muse_pipeline.methods.detector.run import finetune, load_detector_config
from muse_pipeline.methods.detector.start import Start, load_trained
from muse_pipeline.methods.detector.validation import Scorer
from muse_pipeline.nuclei.parquet import NucleiWriter
from muse_pipeline.nuclei.rays import rays_to_rings, rings_to_polygons
from muse_pipeline.nuclei.shape import measure_shapes
from muse_pipeline.training.run import Options
from muse_pipeline.viewer.suggest import suggest_fields

HERE = Path(__file__).parent
RUNS = HERE / "suggest"
RECIPE = HERE.parent / "config" / "train" / "compact.yaml"
SITES = ("A7", "A8", "AC")
N_PICTURES = 5
FIRST = ("backbone=muse_compact_16", "window_px=256", "schedule.steps=400", "schedule.save_every=25", "seed=0")
SECOND = ("schedule.steps=60", "schedule.learning_rate=5e-4")
WAYS = ("random", "suggested")
SCORES = {"mean class F1": lambda counts: counts.mean_class_f1, "detection F1": lambda counts: counts.f1[..., 0]}


def main() -> None:
    """Train and score the runs that have no JSON yet, or print the table."""
    run_arms(__doc__, RUNS, SITES, run_site, render_table, reads_data=True)


def run_site(site: str, draw: int, args: argparse.Namespace) -> dict:
    """Counts of the first network and of both fine-tuned ones in the pictures that are kept for scoring."""
    started = time.process_time()
    first = load_breast(args.data.resolve(), *FIRST)
    pool, kept = divide(read_site(args.data.resolve(), site), draw)
    others = without(first, [f"TCGA-{site}-"])
    checkpoint = finetune(others, args.work.resolve() / site / "first", Options(accelerator="cpu"))
    chosen = {
        "random": np.random.default_rng(draw).permutation([picture.name for picture in pool])[:N_PICTURES].tolist(),
        "suggested": suggest(checkpoint, pool, args.work.resolve() / site / f"found-{draw}"),
    }
    counts = {"before": score(checkpoint, kept)}
    for way in WAYS:
        config = load_breast(args.data.resolve(), *FIRST, *SECOND, f"seed={draw}")
        names = [path.stem for path in image_paths(config.sources[0])]
        config = without(config, [name for name in names if name not in chosen[way]])
        config = dataclasses.replace(config, checkpoint=checkpoint)
        tuned = finetune(config, args.work.resolve() / site / f"{way}-{draw}", Options(accelerator="cpu"))
        counts[way] = score(tuned, kept)
    return {
        "patients": [picture.patient for picture in kept],
        "n_pool": len(pool),
        "chosen": chosen,
        "counts": counts,
        "processor_seconds": round(time.process_time() - started),
    }


def load_breast(data: Path, *changes: str) -> DetectorConfig:
    """The recipe of `compact` with changes, scored at a threshold of 0.4, and BRCA-M2C alone."""
    config = load_detector_config(RECIPE, data, ("export.threshold=0.4", *changes))
    return dataclasses.replace(config, sources=config.sources[:1])


@cache
def read_site(data: Path, site: str) -> list[LabelledImage]:
    """The labelled pictures of a site."""
    config = without(load_breast(data), [f"TCGA-{other}-" for other in SITES if other != site])
    return read_labelled_images(config.sources, config.class_names, config.mpp, config.n_rays)


def without(config: DetectorConfig, names: Sequence[str]) -> DetectorConfig:
    """The config without the pictures whose names contain one of ``names``."""
    sources = (dataclasses.replace(source, exclude=(*source.exclude, *names)) for source in config.sources)
    return dataclasses.replace(config, sources=tuple(sources))


def divide(pictures: Sequence[LabelledImage], draw: int) -> tuple[list[LabelledImage], list[LabelledImage]]:
    """Pictures to choose from, and those of a third of the patients."""
    patients = np.random.default_rng(draw).permutation(sorted({picture.patient for picture in pictures}))
    held = set(patients[: len(patients) // 3].tolist())
    of_held = [picture.patient in held for picture in pictures]
    pool = [picture for picture, is_held in zip(pictures, of_held, strict=True) if not is_held]
    return pool, [picture for picture, is_held in zip(pictures, of_held, strict=True) if is_held]


def suggest(checkpoint: Path, pictures: Sequence[LabelledImage], results: Path) -> list[str]:
    """The names of the pictures that `muse suggest` chooses; what the network finds is written as results of a run."""
    scorer, config = scorer_of(checkpoint)
    card = {"mpp": config.mpp, "classes": [{"name": one.name, "color": list(one.color)} for one in config.classes]}
    for picture in pictures:
        found = dataclasses.replace(scorer.find(picture), frame=Frame.LEVEL0)
        size = picture.pixels.shape[1::-1]
        mpp = (config.mpp, config.mpp)
        info = SlideInfo(picture.name, "", "picture", "", size, mpp, "config", (size,), ((1.0, 1.0),), "")
        write_json(results / picture.name / "slide.json", info.to_dict())
        model = {"name": config.name, "sha256": ""}
        provenance = {"slide_id": picture.name, "fingerprint": "", "model": model, "card": card}
        rings = rays_to_rings(found.xy, found.rays, mpp)
        path = results / picture.name / "nuclei.parquet"
        with NucleiWriter(path, list(config.class_names), provenance, config.n_rays) as writer:
            writer.write(found, rings_to_polygons(rings)[0], measure_shapes(rings, mpp))
    return [str(row["slide_id"]) for row in suggest_fields(results, N_PICTURES)]


def scorer_of(checkpoint: Path) -> tuple[Scorer, DetectorConfig]:
    """A scorer of a checkpoint, and the settings of its training."""
    network, config, known = load_trained(checkpoint)
    return Scorer(network, config, Start(checkpoint, known, True).colour), config


def score(checkpoint: Path, pictures: Sequence[LabelledImage]) -> list:
    """Hits, false and missed of any nucleus and of each class in each picture."""
    scorer, _ = scorer_of(checkpoint)
    return [scorer.count(scorer.find(picture), picture.nuclei, picture.region).values.tolist() for picture in pictures]


def render_table() -> str:
    """Scores of each site over the draws, and the difference that the choice of pictures makes."""
    runs = [read_json(path) for path in sorted(RUNS.glob("*-*.json"))]
    rows = [
        "| site left out, score | runs | before | five random | five suggested | suggested less random (95 %) |",
        "|---|---|---|---|---|---|",
    ]
    sites = [site for site in SITES if any(run["arm"] == site for run in runs)]
    for name, score in SCORES.items():
        for site in (*sites, *(["mean"] if len(sites) > 1 else [])):
            own = [run for run in runs if site in (run["arm"], "mean")]
            before = compare(own, "before", "random", score)["before"]
            found = compare(own, "random", "suggested", score)
            low, high = found["interval"]
            rows.append(
                f"| {site}, {name} | {len(own)} | {before:.1f} | {found['before']:.1f} | {found['after']:.1f} "
                f"| {found['difference']:+.1f} ({low:+.1f} to {high:+.1f}) |"
            )
    return "\n".join(rows)


def compare(runs: Sequence[dict], one: str, other: str, score: Callable[[DetectionCounts], np.ndarray]) -> dict:
    """Two ways on the same patients; counts of a patient are summed over the draws that kept it for scoring."""
    sites = sorted({run["arm"] for run in runs})
    patients = sorted({patient for run in runs for patient in run["patients"]})
    shape = np.shape(runs[0]["counts"][one][0])
    sums = np.zeros((2, len(patients), len(sites), *shape), int)
    for run in runs:
        for side, way in enumerate((one, other)):
            for patient, counts in zip(run["patients"], run["counts"][way], strict=True):
                sums[side, patients.index(patient), sites.index(run["arm"])] += counts
    return compare_scores(*sums, patients, lambda counts: score(DetectionCounts(counts)).mean(-1))


if __name__ == "__main__":
    main()

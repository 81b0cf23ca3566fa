"""A free partner of an H&E backbone on real tissue: the nuclei that the built-in `label_free`
finds.

    python -m experiments.trident_tissue.run --data ../shared/data    # trains what is not recorded
    python -m experiments.trident_tissue.run --table                  # prints the table

Backbones are trained on the pixels of site A8 of BRCA-M2C (train and val), without labels. `muse
run --mode label-free` finds the nuclei of its pictures; the partner of a picture is a drawing of
their outlines. The frozen features at the true nuclei of sites A7 and AC are classified from the
labels of five pictures of A8, by the 20 nearest neighbours and by a linear layer. The pictures are
chosen at random five times. A stopped run continues. DATA is a folder with brca-m2c/.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

from experiments.common.breast import CLASSES, MPP, breast_labels, share_index
from experiments.common.frozen_features import count_predictions, render_arms
from experiments.common.runs import run_arms, runs_of
from muse_pipeline.core.pictures import list_pictures
from muse_pipeline.data.nucleus_images import NucleusSource
from muse_pipeline.data.partners import PairedSource, PartnerSource
from muse_pipeline.data.views import ViewSettings
from muse_pipeline.labels.base_source import LabelSource
from muse_pipeline.labels.label_sources import read_labelled_images
from muse_pipeline.labels.labelled_image import LabelledImage
from muse_pipeline.methods.muse.config import MuseConfig
from muse_pipeline.methods.muse.method import SelfDistillationSettings
from muse_pipeline.methods.muse.run import INDEX, MuseStage
from muse_pipeline.methods.trident.method import AlignmentSettings, TridentConfig
from muse_pipeline.methods.trident.run import TridentStage
from muse_pipeline.training.method import Schedule
from muse_pipeline.training.run import Options

RUNS = runs_of(__file__)
BACKBONE, STEPS, BATCH = "muse_compact_32", 400, 12
LEARNT, JUDGED = ("A8",), ("A7", "AC")
ARMS = ("three-drawn", "siamese", "muse", "untrained")
TITLES = {
    "three-drawn": "two H&E views and drawn nuclei",
    "siamese": "two H&E views (Siamese)",
    "muse": "MUSE",
    "untrained": "random weights",
}


def sites_but(sites: tuple[str, ...]) -> tuple[str, ...]:
    """Words for ``exclude`` that match the names of all pictures except those of ``sites``."""
    return tuple(f"TCGA-{site}-" for site in (*LEARNT, *JUDGED) if site not in sites)


def find_nuclei(images: Path, results: Path) -> list[Path]:
    """Find the nuclei of the training pictures with `label_free`, and return the folder of each
    picture's results.
    """
    paths = [
        path
        for path in list_pictures(images)
        if not any(word in path.name for word in sites_but(LEARNT))
    ]
    if not (results / "report.html").is_file():
        options = [
            "--mpp",
            str(MPP),
            "--mode",
            "label-free",
            "--features",
            "all",
            "--no-viewer",
            "-o",
            results,
        ]
        subprocess.run(
            [Path(sys.executable).with_name("muse"), "run", *paths, *options], check=True
        )
    return [results / path.stem for path in paths]


def make_sources(arm: str, slides: list[Path]) -> tuple[NucleusSource, ...]:
    """The sources of an arm: the pictures and, unless the arm is MUSE, their partners."""
    sources = []
    for slide in slides:
        source = {"store": slide / "image-500nm.zarr", "proposals": slide / "nuclei.parquet"}
        if arm == "muse":
            sources.append(NucleusSource(**source))
            continue
        sources.append(
            PairedSource(**source, partner=PartnerSource(nuclei=slide / "nuclei.parquet"))
        )
    return tuple(sources)


def make_stage(arm: str, seed: int, slides: list[Path], work: Path) -> MuseStage:
    """The training stage of an arm."""
    sources = make_sources(arm, slides)
    common = {
        "name": arm,
        "backbone": BACKBONE,
        "schedule": Schedule(
            steps=STEPS,
            learning_rate=2e-3,
            warmup=0.1,
            weight_decay=1e-4,
            clip=30.0,
            save_every=100,
            log_every=10,
        ),
        "batch": BATCH,
        "seed": seed,
    }
    views = {"global_px": 64, "local_px": 32, "mpp": (0.5, 1.0)}
    folder = work / f"{arm}-{seed}"
    if arm == "muse":
        distillation = SelfDistillationSettings(
            balance="sinkhorn",
            teacher_temperature=(0.01, 0.01),
            n_prototypes=512,
            hidden=256,
            bottleneck=64,
            momentum=0.98,
        )
        config = MuseConfig(
            sources=sources,
            views=ViewSettings(n_local=2, **views),
            distillation=distillation,
            **common,
        )
        return MuseStage(config, folder)
    alignment = AlignmentSettings(
        branches=1 if arm == "siamese" else 3,
        loss="infonce",
        temperature=0.2,
        image_weight=0.0,
        nucleus_weight=1.0,
        hidden=256,
        width=256,
    )
    views = ViewSettings(n_local=0, **views)
    config = TridentConfig(
        sources=sources, views=views, alignment=alignment, partner_backbone="colour_cnn", **common
    )
    return TridentStage(config, folder)


def run_arm(arm: str, seed: int, data: Path, work: Path) -> dict:
    """Train an arm, and classify the nuclei of the scored sites from its features."""
    labels = breast_labels(data)
    checkpoint = None
    if arm != "untrained":
        stage = make_stage(arm, seed, find_nuclei(labels.images, work / "nuclei"), work)
        share_index(stage.folder / INDEX, work / INDEX)
        checkpoint = stage.run(Options(accelerator="cpu", threads=1, log=print))
        share_index(work / INDEX, stage.folder / INDEX)
    known, judged = (read_sites(labels, sites) for sites in (LEARNT, JUDGED))
    return {"steps": STEPS, **count_predictions(BACKBONE, checkpoint, known, judged, seed)}


def read_sites(labels: LabelSource, sites: tuple[str, ...]) -> list[LabelledImage]:
    """The labelled pictures of some sites, from train and val."""
    kept = dataclasses.replace(labels, exclude=sites_but(sites))
    return read_labelled_images([kept], CLASSES, MPP, n_rays=3)


if __name__ == "__main__":
    run_arms(
        __doc__,
        RUNS,
        ARMS,
        lambda arm, seed, args: run_arm(arm, seed, args.data.resolve(), args.work.resolve()),
        lambda runs: render_arms(runs, TITLES, "siamese"),
        reads_data=True,
    )

"""What a free partner teaches an H&E backbone of real tissue: outlines of nuclei that a threshold finds.

    python experiments/trident_tissue.py --data ../shared/data    # trains what is missing: a JSON per run
    python experiments/trident_tissue.py --table                  # the table of docs/results.md, from these

Backbones are trained on the pixels of site A8 of BRCA-M2C (train and val), without labels. The partner of a picture is
a drawing of the nuclei that Otsu's threshold finds in its haematoxylin. The frozen features at the true nuclei of sites
A7 and AC are classified from the labels of five pictures of A8, drawn five times: by the 20 nearest neighbours and by
a linear layer. A stopped run goes on. DATA is a folder with brca-m2c/.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from arms import run_arms
from frozen_features import count_predictions, render_arms

from muse_pipeline.core.pictures import list_pictures, read_rgb
from muse_pipeline.data.nucleus_images import NucleusSource
from muse_pipeline.data.partners import PairedSource, PartnerSource
from muse_pipeline.data.views import ViewSettings
from muse_pipeline.labels.pictures import LabelledImage
from muse_pipeline.labels.read import read_labelled_images
from muse_pipeline.labels.sources import LabelSource
from muse_pipeline.methods.muse.config import MuseConfig
from muse_pipeline.methods.muse.method import SelfDistillationSettings
from muse_pipeline.methods.muse.run import INDEX, MuseStage
from muse_pipeline.methods.trident.config import AlignmentSettings, TridentConfig
from muse_pipeline.methods.trident.run import TridentStage
from muse_pipeline.proposals.otsu_mask import fit_otsu
from muse_pipeline.training.run import Options
from muse_pipeline.training.schedule import Schedule

RUNS = Path(__file__).parent / "trident_tissue"
BACKBONE, MPP, STEPS, BATCH = "muse_compact_16", 0.5, 500, 12
LEARNT, JUDGED = ("A8",), ("A7", "AC")
CLASSES = ("Lymphocyte", "Epithelial", "Stroma")
ARMS = {  # branches, folder of partners
    "three": (3, "masks"),
    "siamese": (1, "masks"),
    "three-shuffled": (3, "shuffled"),
    "muse": (0, ""),
    "untrained": (0, ""),
}
TITLES = {
    "three": "two H&E views and drawn nuclei (TriDeNT)",
    "siamese": "two H&E views (Siamese)",
    "three-shuffled": "TriDeNT, nuclei of other pictures",
    "muse": "MUSE",
    "untrained": "random weights",
}


def sites_but(sites: tuple[str, ...]) -> tuple[str, ...]:
    """Words that leave out the pictures of every other site."""
    return tuple(f"TCGA-{site}-" for site in (*LEARNT, *JUDGED) if site not in sites)


def draw_partners(images: Path, work: Path) -> None:
    """Write the label images of the learnt pictures' nuclei, and the same under the names of other pictures."""
    if (work / "shuffled").is_dir():
        return
    paths = [path for path in list_pictures(images) if not any(word in path.name for word in sites_but(LEARNT))]
    for name in ("masks", "shuffled.partial"):
        (work / name).mkdir(parents=True, exist_ok=True)
    found = []
    for path in paths:
        pixels = read_rgb(path)
        found.append(fit_otsu([pixels], MPP).instances(pixels))
        np.save(work / "masks" / f"{path.stem}.npy", found[-1])
    for path, own, other in zip(paths, found, found[1:] + found[:1], strict=True):
        fitting = np.zeros_like(own)
        height, width = np.minimum(own.shape, other.shape)
        fitting[:height, :width] = other[:height, :width]
        np.save(work / "shuffled.partial" / f"{path.stem}.npy", fitting)
    (work / "shuffled.partial").rename(work / "shuffled")


def make_stage(arm: str, seed: int, images: Path, work: Path) -> MuseStage:
    """The run of an arm."""
    branches, partners = ARMS[arm]
    source = {"images": images, "mpp": MPP, "exclude": sites_but(LEARNT)}
    common = {
        "name": arm,
        "backbone": BACKBONE,
        "schedule": Schedule(
            steps=STEPS, learning_rate=2e-3, warmup=0.1, weight_decay=1e-4, clip=30.0, save_every=100, log_every=10
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
        sources = (NucleusSource(**source),)
        config = MuseConfig(
            sources=sources, views=ViewSettings(n_local=2, **views), distillation=distillation, **common
        )
        return MuseStage(config, folder)
    paired = PairedSource(**source, partner=PartnerSource(nuclei=work / partners))
    alignment = AlignmentSettings(branches=branches, nucleus_weight=1.0, hidden=256, width=256)
    views = ViewSettings(n_local=0, **views)
    return TridentStage(TridentConfig(sources=(paired,), views=views, alignment=alignment, **common), folder)


def run_arm(arm: str, seed: int, data: Path, work: Path) -> dict:
    """Train an arm and classify the nuclei of the judged sites from its features."""
    labels = LabelSource(
        data / "brca-m2c/labels",
        "row column class",
        images=data / "brca-m2c/images",
        mpp=MPP,
        class_map=dict(zip("123", CLASSES, strict=True)),
    )
    checkpoint = None
    if arm != "untrained":
        draw_partners(labels.images, work)
        stage = make_stage(arm, seed, labels.images, work)
        share_index(stage.folder / INDEX, work / INDEX)
        checkpoint = stage.run(Options(accelerator="cpu", threads=1, say=print))
        share_index(work / INDEX, stage.folder / INDEX)
    known, judged = (read_sites(labels, sites) for sites in (LEARNT, JUDGED))
    return {"steps": STEPS, **count_predictions(BACKBONE, checkpoint, known, judged, seed)}


def share_index(to: Path, found: Path) -> None:
    """Copy the positions of nuclei, which are the same for all arms."""
    if found.is_dir() and not to.is_dir():
        shutil.copytree(found, to)


def read_sites(labels: LabelSource, sites: tuple[str, ...]) -> list[LabelledImage]:
    """The labelled pictures of some sites; train and val, which are all there are."""
    kept = LabelSource(**{**vars(labels), "exclude": sites_but(sites)})
    return read_labelled_images([kept], CLASSES, MPP, n_rays=3)


if __name__ == "__main__":
    run_arms(
        __doc__,
        RUNS,
        ARMS,
        lambda arm, seed, args: run_arm(arm, seed, args.data.resolve(), args.work.resolve()),
        lambda: render_arms(RUNS, TITLES, "siamese"),
        reads_data=True,
    )

"""BRCA-M2C: its sites, training with few of its labels, and the MUSE backbone that several
experiments start from.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from experiments.common.runs import TOP
from experiments.common.training import load_muse_config
from muse_pipeline.labels.base_source import LabelSource
from muse_pipeline.labels.label_sources import read_labelled_images
from muse_pipeline.labels.labelled_image import LabelledImage
from muse_pipeline.labels.picture_source import PictureSource
from muse_pipeline.methods.detector.config import DetectorConfig
from muse_pipeline.methods.detector.run import load_detector_config
from muse_pipeline.methods.detector.start import Start, load_trained
from muse_pipeline.methods.detector.validation import Scorer
from muse_pipeline.methods.muse.config import MuseConfig
from muse_pipeline.methods.muse.run import INDEX, MuseStage
from muse_pipeline.training.run import Options

DETECTOR, PRETRAINING = TOP / "config/train/compact.yaml", TOP / "config/train/muse_pretrain.yaml"
CLASSES, MPP = ("Lymphocyte", "Epithelial", "Stroma"), 0.5
SITES = ("A7", "A8", "AC")
N_PICTURES = 5
SETTINGS = (
    "backbone=muse_compact_32",
    "window_px=128",
    "schedule.steps=200",
    "schedule.save_every=50",
)
SCORES = {
    "mean class F1": lambda counts: counts.mean_class_f1,
    "detection F1": lambda counts: counts.f1[..., 0],
}


def share_index(to: Path, found: Path) -> None:
    """Copy the index of nuclei, which is the same for all arms, from ``found`` to ``to``, unless
    ``to`` exists.
    """
    if found.is_dir() and not to.is_dir():
        shutil.copytree(found, to)


def breast_labels(data: Path) -> LabelSource:
    """BRCA-M2C, both its train and its val split."""
    folder, classes = data / "brca-m2c", dict(zip("123", CLASSES, strict=True))
    return PictureSource(
        folder / "labels", "row column class", images=folder / "images", mpp=MPP, class_map=classes
    )


def word_of(site: str) -> str:
    """The text that the names of all of a site's pictures contain."""
    return f"TCGA-{site}-"


def load_pretraining(site: str, seed: int, data: Path, changes: Sequence[str] = ()) -> MuseConfig:
    """The recipe of MUSE with changed settings and without the pictures of a site."""
    config = load_muse_config(PRETRAINING, data, (*changes, f"seed={seed}"))
    breast, *others = config.sources
    breast = dataclasses.replace(breast, exclude=(*breast.exclude, word_of(site)))
    return dataclasses.replace(config, sources=(breast, *others))


def pretrain(site: str, seed: int, data: Path, work: Path) -> Path:
    """The checkpoint of MUSE trained without a site; it is trained unless it exists."""
    return run_pretraining(
        MuseStage(load_pretraining(site, seed, data), work / f"full-{site}-{seed}"), site
    )


def run_pretraining(stage: MuseStage, site: str) -> Path:
    """Run a stage with the index of nuclei that all runs without this site share."""
    shared = stage.folder.with_name(f"{INDEX}-{site}")
    share_index(stage.folder / INDEX, shared)
    checkpoint = stage.run(Options(accelerator="cpu", threads=1, log=print))
    share_index(shared, stage.folder / INDEX)
    return checkpoint


def load_breast(data: Path, *changes: str) -> DetectorConfig:
    """The recipe of `compact` with changed settings, a score threshold of 0.4 and only BRCA-M2C."""
    config = load_detector_config(DETECTOR, data, ("export.threshold=0.4", *changes))
    return dataclasses.replace(config, sources=config.sources[:1])


@cache
def read_site(data: Path, site: str) -> list[LabelledImage]:
    """The labelled pictures of a site."""
    config = without(load_breast(data), [word_of(other) for other in SITES if other != site])
    return read_labelled_images(config.sources, config.class_names, config.mpp, config.n_rays)


def without(config: DetectorConfig, names: Sequence[str]) -> DetectorConfig:
    """The config without the pictures whose names contain one of ``names``."""
    sources = (
        dataclasses.replace(source, exclude=(*source.exclude, *names)) for source in config.sources
    )
    return dataclasses.replace(config, sources=tuple(sources))


def scorer_of(checkpoint: Path) -> tuple[Scorer, DetectorConfig]:
    """A scorer for a checkpoint, and the settings of its training."""
    network, config, known = load_trained(checkpoint)
    return Scorer(network, config, Start(checkpoint, known, True).colour), config


def score(checkpoint: Path, pictures: Sequence[LabelledImage]) -> list:
    """True positives, false positives and false negatives for any class and each class, (C + 1, 3)
    for each picture.
    """
    scorer, _ = scorer_of(checkpoint)
    return [
        scorer.count(scorer.find(picture), picture.nuclei, picture.region).values.tolist()
        for picture in pictures
    ]

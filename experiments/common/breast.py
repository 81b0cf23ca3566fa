"""BRCA-M2C for experiments on pretraining, and the MUSE backbone that several of them start from."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

from experiments.common.runs import TOP
from experiments.common.training import load_muse_config
from muse_pipeline.labels.sources import LabelSource
from muse_pipeline.methods.muse.config import MuseConfig
from muse_pipeline.methods.muse.run import INDEX, MuseStage
from muse_pipeline.training.run import Options

RECIPE = TOP / "config/train/muse_pretrain.yaml"
CLASSES, MPP = ("Lymphocyte", "Epithelial", "Stroma"), 0.5


def share_index(to: Path, found: Path) -> None:
    """Copy the index of nuclei, which is the same for all arms, from ``found`` to ``to``, unless ``to`` exists."""
    if found.is_dir() and not to.is_dir():
        shutil.copytree(found, to)


def breast_labels(data: Path) -> LabelSource:
    """BRCA-M2C, both its train and its val split."""
    folder, classes = data / "brca-m2c", dict(zip("123", CLASSES, strict=True))
    return LabelSource(folder / "labels", "row column class", images=folder / "images", mpp=MPP, class_map=classes)


def word_of(site: str) -> str:
    """The text that the names of all of a site's pictures contain."""
    return f"TCGA-{site}-"


def load_pretraining(site: str, seed: int, data: Path, changes: Sequence[str] = ()) -> MuseConfig:
    """The recipe of MUSE with changed settings and without the pictures of a site."""
    config = load_muse_config(RECIPE, data, (*changes, f"seed={seed}"))
    breast, *others = config.sources
    breast = dataclasses.replace(breast, exclude=(*breast.exclude, word_of(site)))
    return dataclasses.replace(config, sources=(breast, *others))


def pretrain(site: str, seed: int, data: Path, work: Path) -> Path:
    """The checkpoint of MUSE trained without a site; it is trained unless it exists."""
    return run_pretraining(MuseStage(load_pretraining(site, seed, data), work / f"full-{site}-{seed}"), site)


def run_pretraining(stage: MuseStage, site: str) -> Path:
    """Run a stage with the index of nuclei that all runs without this site share."""
    shared = stage.folder.with_name(f"{INDEX}-{site}")
    share_index(stage.folder / INDEX, shared)
    checkpoint = stage.run(Options(accelerator="cpu", threads=1, log=print))
    share_index(shared, stage.folder / INDEX)
    return checkpoint

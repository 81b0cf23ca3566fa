"""BRCA-M2C's three source sites as read and scored by the experiments on few labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from experiments.common.runs import TOP
from muse_pipeline.labels.pictures import LabelledImage
from muse_pipeline.labels.read import read_labelled_images
from muse_pipeline.methods.detector.config import DetectorConfig
from muse_pipeline.methods.detector.run import load_detector_config
from muse_pipeline.methods.detector.start import Start, load_trained
from muse_pipeline.methods.detector.validation import Scorer

RECIPE = TOP / "config/train/compact.yaml"
SITES = ("A7", "A8", "AC")
N_PICTURES = 5
SETTINGS = ("backbone=muse_compact_32", "window_px=128", "schedule.steps=200", "schedule.save_every=50")
SCORES = {"mean class F1": lambda counts: counts.mean_class_f1, "detection F1": lambda counts: counts.f1[..., 0]}


def load_breast(data: Path, *changes: str) -> DetectorConfig:
    """The settings of `compact`'s recipe with ``changes``, only BRCA-M2C as a source, and a score threshold of 0.4."""
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


def scorer_of(checkpoint: Path) -> tuple[Scorer, DetectorConfig]:
    """A scorer for a checkpoint, and the settings of its training."""
    network, config, known = load_trained(checkpoint)
    return Scorer(network, config, Start(checkpoint, known, True).colour), config


def score(checkpoint: Path, pictures: Sequence[LabelledImage]) -> list:
    """True positives, false positives and false negatives for any class and for each class, in each picture."""
    scorer, _ = scorer_of(checkpoint)
    return [scorer.count(scorer.find(picture), picture.nuclei, picture.region).values.tolist() for picture in pictures]

"""BRCA-M2C: its sites, and trainings without some of its pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from experiments.common.runs import TOP
from muse_pipeline.methods.detector.config import DetectorConfig
from muse_pipeline.methods.detector.run import load_detector_config

DETECTOR = TOP / "config/train/compact.yaml"
CLASSES, MPP = ("Lymphocyte", "Epithelial", "Stroma"), 0.5
SITES = ("A7", "A8", "AC")


def word_of(site: str) -> str:
    """The text that the names of all of a site's pictures contain."""
    return f"TCGA-{site}-"


def load_breast(data: Path, *changes: str) -> DetectorConfig:
    """The recipe of `compact` with changed settings, a score threshold of 0.4 and only BRCA-M2C."""
    config = load_detector_config(DETECTOR, data, ("export.threshold=0.4", *changes))
    return dataclasses.replace(config, sources=config.sources[:1])


def without(config: DetectorConfig, names: Sequence[str]) -> DetectorConfig:
    """The config without the pictures whose names contain one of ``names``."""
    sources = (
        dataclasses.replace(source, exclude=(*source.exclude, *names)) for source in config.sources
    )
    return dataclasses.replace(config, sources=tuple(sources))

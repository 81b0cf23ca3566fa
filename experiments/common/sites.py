"""Training without one site of BRCA-M2C, and the scores of that site's pictures."""

from __future__ import annotations

import dataclasses
import hashlib
import zlib
from collections.abc import Sequence
from pathlib import Path

from muse_pipeline.evaluation.detection import DetectionCounts, match_nuclei
from muse_pipeline.export.onnx import export_onnx
from muse_pipeline.inference.detect import detect_image
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.inference.stains import colour_of_fit
from muse_pipeline.labels.base_source import LabelSource
from muse_pipeline.labels.label_sources import read_labelled_images
from muse_pipeline.methods.detector.config import DetectorConfig
from muse_pipeline.methods.detector.run import DetectorStage
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.training.run import Options

SITES = ("A7", "A8", "AC")
THRESHOLDS = (0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7)
SITED = "TCGA-"
VALIDATION = "val"


def split_sources(
    config: DetectorConfig, fold: str
) -> tuple[tuple[LabelSource, ...], tuple[LabelSource, ...]]:
    """Sources to train on, and sources to score on.

    A fold named for a site is scored on this site; ``VALIDATION`` is the official split, but
    without training on patients who are in both of its parts.
    """
    sited = [source for source in config.sources if any(source.images.glob(f"{SITED}*"))]
    if fold != VALIDATION:
        others = tuple(f"{SITED}{other}-" for other in SITES if other != fold)
        return tuple(excluding(s, f"{SITED}{fold}-") for s in sited), tuple(
            excluding(s, *others) for s in sited
        )
    held = tuple(
        dataclasses.replace(source, split=source.images.parent / "val.txt") for source in sited
    )
    patients = {sample.name[:12] for source in held for sample in source.choose()}
    train = (
        dataclasses.replace(source, split=source.images.parent / "train.txt") for source in sited
    )
    return tuple(excluding(source, *sorted(patients)) for source in train), held


def excluding(source: LabelSource, *words: str) -> LabelSource:
    """The source without pictures whose names contain one of ``words``."""
    return dataclasses.replace(source, exclude=(*source.exclude, *words))


def half_of_patients(source: LabelSource, odd: bool) -> LabelSource:
    """The pictures of one half of the patients of BRCA-M2C."""
    return excluding(source, *patients_of_half(source, not odd))


def patients_of_half(source: LabelSource, odd: bool) -> list[str]:
    """The patients of one half, chosen by the CRC32 of their names."""
    patients = {sample.name[:12] for sample in source.choose()}
    return sorted(name for name in patients if zlib.crc32(name.encode()) % 2 == odd)


def draw_pictures(source: LabelSource, n: int, draw: int) -> LabelSource:
    """The source with only ``n`` of its pictures, chosen by hashes of ``draw`` and their names."""
    names = [sample.alias for sample in source.choose()]
    names.sort(key=lambda name: hashlib.sha256(f"{draw}{name}".encode()).digest())
    return excluding(source, *names[n:])


def train_fold(
    config: DetectorConfig,
    fold: str,
    folder: Path,
    accelerator: str,
    n_pictures: int | None = None,
    draw: int = 0,
    stage: type[DetectorStage] = DetectorStage,
) -> Path:
    """Train without the fold's pictures, on all other pictures or on ``n_pictures`` of each source.

    Returns:
        The checkpoint.
    """
    sources, _ = split_sources(config, fold)
    if n_pictures is not None:
        sources = tuple(draw_pictures(source, n_pictures, draw) for source in sources)
    train = dataclasses.replace(
        config, sources=sources, export=dataclasses.replace(config.export, threshold=0.1)
    )
    return stage(train, folder).run(Options(accelerator=accelerator))


def export_fold(checkpoint: Path, folder: Path) -> Path:
    """Export a checkpoint to model.onnx in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    export_onnx(checkpoint, folder / "model.onnx")
    return folder / "model.onnx"


def score_picture(predicted: Nuclei, true: Nuclei, n_classes: int, mpp: float) -> DetectionCounts:
    """Counts of one picture; the frame of ``true`` is ignored, because positions are the same in
    both.
    """
    return match_nuclei(
        predicted, dataclasses.replace(true, frame=predicted.frame), n_classes, mpp
    ).counts


def score_site(
    predictor: Predictor, sources: Sequence[LabelSource], config: DetectorConfig
) -> dict:
    """Patients and counts (C + 1, 3) of the sources' pictures.

    Counts are true positives, false positives and false negatives, for any class and for each
    class.
    """
    names = config.class_names
    pictures = read_labelled_images(sources, names, config.mpp, config.n_rays)
    counts = []
    for picture in pictures:
        found = detect_image(
            predictor, picture.pixels, colour_of_fit(predictor.card.colour, picture.stain)
        )
        counts.append(score_picture(found, picture.nuclei, len(names), config.mpp).values.tolist())
    return {"patients": [picture.patient for picture in pictures], "counts": counts}

"""What a backbone knows of classes at given points: kNN, linear and fine-tuned accuracy by MUSE's protocols."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from muse_pipeline.config import parse_config
from muse_pipeline.data.label_source import LabelSource
from muse_pipeline.data.label_summary import check_leaks
from muse_pipeline.data.labels import read_labelled_images
from muse_pipeline.errors import ConfigError
from muse_pipeline.evaluation.bootstrap import REPEATS
from muse_pipeline.evaluation.classification import score_classes
from muse_pipeline.inference.card import ColourReference
from muse_pipeline.models import BACKBONES
from muse_pipeline.models.base import Backbone
from muse_pipeline.training.census import image_colour, require_every_class
from muse_pipeline.training.devices import open_fabric
from muse_pipeline.training.finetune_config import FinetuneConfig, require_window
from muse_pipeline.training.finetune_probe import LEARNING_RATE, finetune_on_points
from muse_pipeline.training.initial import load_backbone
from muse_pipeline.training.knn import KS, classify_by_neighbours
from muse_pipeline.training.linear_probe import train_linear_probe
from muse_pipeline.training.point_set import PointSet, point_features
from muse_pipeline.training.point_windows import largest_reflection
from muse_pipeline.training.probe_splits import ProbeSplit, choose, split_halves, split_validation_and_test
from muse_pipeline.training.start import find_checkpoint

SEED = 2025  # the authors'
PAIRS = (("training", "validation"), ("training", "test"), ("validation", "test"))


@dataclass(frozen=True)
class ProbeSettings:
    """How a backbone is probed.

    Attributes:
        window_px: side of the windows around points: 224, or 512 for backbones of the larger field.
        finetune: whether the whole network is trained too.
        finetune_rate: its learning rate.
        shared_patients: whether patients may be on both sides, as in the official split of BRCA-M2C.
        repeats: draws of the bootstrap.
    """

    window_px: int = 224
    finetune: bool = False
    finetune_rate: float = LEARNING_RATE
    shared_patients: bool = False
    repeats: int = REPEATS


def probe(
    config: FinetuneConfig,
    test: Sequence[LabelSource],
    settings: ProbeSettings,
    accelerator: str = "auto",
    threads: int = 1,
    say: Callable[[str], None] = lambda sentence: None,
) -> dict[str, Any]:
    """Train on the config's ``sources``, choose on its ``validation``, report on ``test``.

    Without ``test`` the patients of the validation are halved: what one half chooses is reported on the other.

    Args:
        config: its backbone, checkpoint, classes, mpp and sources are used.
        test: labelled pictures to report on.
        settings: how.
        accelerator: one of ``devices.ACCELERATORS``.
        threads: on a CPU.
        say: called with sentences on progress.

    Raises:
        CheckpointError: the checkpoint does not fit.
        ConfigError: there is no validation, the window does not suit the backbone, or a class has no nucleus.
        LabelError: labels cannot be read, or patients are on both sides.
    """
    if not config.validation:
        raise ConfigError(
            "the config has no `validation`: it chooses k and epochs; name pictures of other patients there"
        )
    torch.set_num_threads(threads)
    device = open_fabric(accelerator, 1, "32-true").device
    backbone, reference, origin = _build_backbone(config)
    require_window(settings.window_px, backbone, config.backbone)
    names = config.class_names
    parts = {"training": config.sources, "validation": config.validation, "test": tuple(test)}
    images = {name: read_labelled_images(s, names, config.mpp, n_rays=1) if s else [] for name, s in parts.items()}
    require_every_class(images["training"], names, "training")
    for name in ("validation", "test"):
        _require_some(images[name], name)
    judged_images = [*images["validation"], *images["test"]]
    notes = _shared_patients(images) if settings.shared_patients else []
    if not settings.shared_patients:
        for pair in PAIRS:
            check_leaks(*(images[name] for name in pair), pair)

    def points(of: list) -> PointSet:
        colours = np.stack([image_colour(image, reference) for image in of])
        return PointSet(of, colours, settings.window_px)

    train, judged = points(images["training"]), points(judged_images)
    n_validation = sum((image.nuclei.label >= 0).sum() for image in images["validation"])
    splits = (
        split_validation_and_test(n_validation, len(judged) - n_validation) if test else split_halves(judged.patient)
    )
    if reflected := max(largest_reflection(train.windows), largest_reflection(judged.windows)):
        notes.append(f"pictures are smaller than a window: up to {reflected} px a side are added by reflection")
    return {
        "backbone": config.backbone,
        "weights": origin,
        "window_px": settings.window_px,
        "mpp": config.mpp,
        "colour": reference.method,
        "classes": list(names),
        "seed": SEED,
        "splits": {name: _describe(of, names) for name, of in images.items() if of},
        "protocols": _run_protocols(backbone.to(device), train, judged, splits, settings, names, device, say),
        "notes": notes,
    }


def _build_backbone(config: FinetuneConfig) -> tuple[Backbone, ColourReference, str]:
    """The backbone, how slides' colours are taken to what it was trained with, and where its weights are from."""
    torch.manual_seed(SEED)
    backbone = BACKBONES[config.backbone]()
    if config.checkpoint is None:
        return backbone, ColourReference(), "random, not trained"
    path = find_checkpoint(config.checkpoint)
    ours = load_backbone(backbone, path, config.trust_pickle)
    colour = ours.meta.get("colour", {}) if ours else {}  # the authors normalise no stain
    return backbone, parse_config(colour, ColourReference, f"{path}: colour"), Path(path).name


def _run_protocols(
    backbone: Backbone,
    train: PointSet,
    judged: PointSet,
    splits: Sequence[ProbeSplit],
    settings: ProbeSettings,
    names: tuple[str, ...],
    device: torch.device,
    say: Callable[[str], None],
) -> dict[str, Any]:
    true = judged.label.numpy()
    reported = np.any([split.reported for split in splits], axis=0)

    def score(predicted: np.ndarray) -> dict[str, Any]:
        return score_classes(true[reported], predicted[reported], judged.patient[reported], names, settings.repeats)

    say(f"features of {len(train):,} nuclei to learn from and {len(judged):,} to judge by")
    bank, query = (point_features(backbone, points, device) for points in (train, judged))

    by_k = classify_by_neighbours(bank, train.label, query, len(names)).numpy()
    predicted, chosen = choose(by_k, true, splits)
    right = (by_k[:, reported] == true[reported]).mean(1)
    ks = [min(k, len(train)) for k in KS]
    protocols = {
        "kNN, k by validation": {**score(predicted), "k": [ks[index] for index in chosen]},
        "kNN, best k on the test": {**score(by_k[right.argmax()]), "k": [ks[right.argmax()]]},
    }
    say("linear layer")
    linear = train_linear_probe(bank, train.label, len(names), SEED)
    predicted, epochs = choose(linear.classify(query).numpy(), true, splits, last=True)
    protocols["linear"] = {**score(predicted), "epoch": [epoch + 1 for epoch in epochs]}
    if settings.finetune:
        say("fine-tuning the whole network")
        # Of two halves neither may choose for the other what is trained but once.
        layer = linear.layer(epochs[0] if len(splits) == 1 else -1).to(device)
        by_epoch = finetune_on_points(backbone, layer, train, judged, device, SEED, settings.finetune_rate)
        predicted, epochs = choose(by_epoch.numpy(), true, splits, last=True)
        protocols["fine-tune"] = {**score(predicted), "epoch": [epoch + 1 for epoch in epochs]}
    return protocols


def _require_some(images: list, split: str) -> None:
    if images and not any((image.nuclei.label >= 0).any() for image in images):
        raise ConfigError(f"the {split} pictures hold no nucleus of a known class; label some or name other pictures")


def _shared_patients(images: dict[str, list]) -> list[str]:
    patients = {name: {image.patient for image in of} for name, of in images.items()}
    return [
        f"patients in {first} and in {second}, which flatters: {', '.join(sorted(shared))}"
        for first, second in PAIRS
        if (shared := patients[first] & patients[second])
    ]


def _describe(images: list, names: tuple[str, ...]) -> dict[str, Any]:
    labels = np.concatenate([image.nuclei.label for image in images])
    return {
        "n_pictures": len(images),
        "n_patients": len({image.patient for image in images}),
        "n_nuclei": int((labels >= 0).sum()),
        "n_by_class": {name: int((labels == index).sum()) for index, name in enumerate(names)},
    }

"""Classes in the features of a backbone: kNN, linear and fine-tuned accuracy by the protocols of MUSE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from muse_pipeline.core.errors import ConfigError
from muse_pipeline.core.text import count_noun
from muse_pipeline.data.labelled_points import PointSet, cut_point_windows, largest_reflection
from muse_pipeline.evaluation.bootstrap import REPEATS
from muse_pipeline.evaluation.detection import score_classes
from muse_pipeline.evaluation.summary_text import format_interval, format_number, render_table
from muse_pipeline.inference.card import ColourReference
from muse_pipeline.labels.pictures import LabelledImage
from muse_pipeline.labels.read import read_labelled_images
from muse_pipeline.labels.sources import LabelSource
from muse_pipeline.labels.statistics import check_leaks, image_colour, require_every_class
from muse_pipeline.methods.detector.config import DetectorConfig, require_window
from muse_pipeline.probing.network import SEED, open_network
from muse_pipeline.probing.protocols import (
    FINETUNE,
    FINETUNE_LEARNING_RATE,
    LINEAR,
    Prediction,
    ProbedFeatures,
    ProbeSplit,
    predict_by_neighbours,
    predict_finetuned,
    predict_linearly,
    split_halves,
    split_validation_and_test,
)
from muse_pipeline.training.devices import open_fabric
from muse_pipeline.training.run import Options


@dataclass(frozen=True)
class ProbeSettings:
    """Settings of a probe.

    Attributes:
        window_px: side of the windows around points: 224, or 512 for backbones of the larger field.
        finetune: whether to train the whole network too.
        finetune_rate: learning rate of the whole network.
        shared_patients: whether patients may be on both sides, as in the official split of BRCA-M2C.
        repeats: draws of the bootstrap.
    """

    window_px: int = 224
    finetune: bool = False
    finetune_rate: float = FINETUNE_LEARNING_RATE
    shared_patients: bool = False
    repeats: int = REPEATS


def probe(
    config: DetectorConfig, test: Sequence[LabelSource], settings: ProbeSettings, options: Options
) -> dict[str, Any]:
    """Train on the config's ``sources``, choose on its ``validation``, report on ``test``.

    Without ``test`` the patients of the validation are halved: a choice made on one half is reported on the other.

    Args:
        config: settings of a training, of which backbone, checkpoint, classes, mpp and sources are used.
        test: labelled pictures to report on.
        settings: settings of the probe.
        options: options of the computation.

    Raises:
        CheckpointError: the checkpoint does not fit.
        ConfigError: there is no validation, the window does not suit the backbone, or a class has no nucleus.
        LabelError: labels cannot be read, or patients are on both sides or were trained on.
    """
    torch.set_num_threads(options.threads)
    device = open_fabric(options.accelerator, 1, "32-true").device
    network = open_network(config.backbone, config.checkpoint, config.trust_pickle)
    require_window(settings.window_px, network.backbone, network.name)
    data = read_probe_data(config, test, settings.shared_patients, settings.window_px)
    notes = [*data.notes, *network.check_unseen(data.reported, settings.shared_patients)]
    train, judged = data.point_sets(network.reference, settings.window_px)
    options.say(f"features of {len(train):,} nuclei to learn from and {len(judged):,} to judge by")
    features = ProbedFeatures.read(network, train, judged, data.splits, len(data.classes), device)
    true, patient = features.true[features.reported], judged.patient[features.reported]

    def score(prediction: Prediction) -> dict[str, Any]:
        predicted = prediction.predicted[features.reported]
        return {**score_classes(true, predicted, patient, data.classes, settings.repeats), **prediction.chosen}

    protocols = {name: score(prediction) for name, prediction in predict_by_neighbours(features).items()}
    options.say("linear layer")
    linear, layer = predict_linearly(features)
    protocols[LINEAR] = score(linear)
    if settings.finetune:
        options.say("fine-tuning the whole network")
        protocols[FINETUNE] = score(predict_finetuned(features, layer, linear, settings.finetune_rate))
    return {
        "backbone": network.name,
        "weights": network.weights,
        "window_px": settings.window_px,
        "mpp": config.mpp,
        "colour": network.reference.method,
        "classes": list(data.classes),
        "seed": SEED,
        "splits": data.describe(),
        "protocols": protocols,
        "notes": notes,
    }


PAIRS = (("training", "validation"), ("training", "test"), ("validation", "test"))


@dataclass(frozen=True, eq=False)
class ProbeData:
    """Labelled pictures in two or three parts.

    Attributes:
        training: pictures that are learnt from.
        validation: pictures for choices; without a test, halves of their patients report each other's choices.
        test: pictures that are reported; perhaps none.
        classes: names of the C classes.
        notes: remarks on the figures, in sentences.
    """

    training: list[LabelledImage]
    validation: list[LabelledImage]
    test: list[LabelledImage]
    classes: tuple[str, ...]
    notes: list[str]

    @property
    def parts(self) -> dict[str, list[LabelledImage]]:
        """The pictures of each non-empty part, by its name."""
        named = {"training": self.training, "validation": self.validation, "test": self.test}
        return {name: images for name, images in named.items() if images}

    @property
    def judged(self) -> list[LabelledImage]:
        """The pictures for choices, then those that are reported alone."""
        return [*self.validation, *self.test]

    @property
    def reported(self) -> list[LabelledImage]:
        """The pictures whose nuclei are reported."""
        return self.test or self.validation

    @cached_property
    def splits(self) -> tuple[ProbeSplit, ...]:
        """Splits of the judged nuclei into those for choices and those that are reported.

        Raises:
            ConfigError: there is no test and only one patient.
        """
        n_known = [int((image.nuclei.label >= 0).sum()) for image in self.judged]
        n_validation = sum(n_known[: len(self.validation)])
        if self.test:
            return split_validation_and_test(n_validation, sum(n_known) - n_validation)
        return split_halves(np.repeat([image.patient for image in self.judged], n_known))

    def point_sets(self, reference: ColourReference, window_px: int) -> tuple[PointSet, PointSet]:
        """The points that are learnt from and those that are judged, in the colours of a network."""
        return tuple(
            PointSet(images, np.stack([image_colour(image, reference) for image in images]), window_px)
            for images in (self.training, self.judged)
        )

    def describe(self) -> dict[str, Any]:
        """Counts of each part."""
        return {name: _describe(images, self.classes) for name, images in self.parts.items()}


def read_probe_data(
    config: DetectorConfig, test: Sequence[LabelSource], shared_patients: bool, window_px: int
) -> ProbeData:
    """Read the config's ``sources`` and ``validation``, and ``test``.

    Raises:
        ConfigError: there is no validation, or a class has no nucleus.
        LabelError: labels cannot be read, or patients are on both sides and may not be.
    """
    if not config.validation:
        raise ConfigError(
            "the config has no `validation`: it chooses k and epochs; name pictures of other patients there"
        )
    named = {"training": config.sources, "validation": config.validation, "test": tuple(test)}
    classes = config.class_names
    images = {name: read_labelled_images(s, classes, config.mpp, n_rays=1) if s else [] for name, s in named.items()}
    require_every_class(images["training"], classes, "training")
    for name in ("validation", "test"):
        _require_some(images[name], name)
    notes = _shared_patients(images) if shared_patients else []
    if not shared_patients:
        for pair in PAIRS:
            check_leaks(*(images[name] for name in pair), pair)
    if reflected := max(largest_reflection(cut_point_windows(of, window_px)) for of in images.values()):
        notes.append(f"pictures are smaller than a window: up to {reflected} px a side are added by reflection")
    data = ProbeData(**images, classes=classes, notes=notes)
    data.splits  # noqa: B018 - fails early if it cannot be split
    return data


def _require_some(images: list[LabelledImage], split: str) -> None:
    if images and not any((image.nuclei.label >= 0).any() for image in images):
        raise ConfigError(f"the {split} pictures hold no nucleus of a known class; label some or name other pictures")


def _shared_patients(images: dict[str, list[LabelledImage]]) -> list[str]:
    patients = {name: {image.patient for image in of} for name, of in images.items()}
    return [
        f"patients in {first} and in {second}, which flatters: {', '.join(sorted(shared))}"
        for first, second in PAIRS
        if (shared := patients[first] & patients[second])
    ]


def _describe(images: list[LabelledImage], classes: tuple[str, ...]) -> dict[str, Any]:
    labels = np.concatenate([image.nuclei.label for image in images])
    return {
        "n_pictures": len(images),
        "n_patients": len({image.patient for image in images}),
        "n_nuclei": int((labels >= 0).sum()),
        "n_by_class": {name: int((labels == index).sum()) for index, name in enumerate(classes)},
    }


def render_probe(result: dict[str, Any]) -> str:
    """A table of ``probing.probe``'s dictionary, and the data that it was measured on."""
    splits = result["splits"]
    measured = "; ".join(
        f"{name} {one['n_nuclei']:,} nuclei of {count_noun(one['n_patients'], 'patient')}"
        for name, one in splits.items()
    )
    how = (
        "validation chooses, the test is reported"
        if "test" in splits
        else "validation patients in halves: what one half chooses is reported on the other"
    )
    heading = (
        f"{result['backbone']} ({result['weights']}), windows of {result['window_px']} px at {result['mpp']:g} um/px, "
        f"colour {result['colour']}\n{measured}\n{how}; 95 % intervals by bootstrap over patients"
    )
    rows = [
        [
            name,
            format_number(one["accuracy"]),
            format_interval(one["accuracy_interval"]),
            format_number(one["balanced_accuracy"]),
            format_interval(one["balanced_accuracy_interval"]),
            *(format_number(value) for value in one["recall"].values()),
            _chosen(one),
        ]
        for name, one in result["protocols"].items()
    ]
    header = [
        "classes at given points, %",
        "accuracy",
        "interval",
        "balanced",
        "interval",
        *result["classes"],
        "chosen",
    ]
    parts = [heading, render_table(header, rows)]
    remarks = ["best k on the test: the authors' way of reporting, chosen on what it is measured on", *result["notes"]]
    return "\n\n".join([*parts, "\n".join(remarks)])


def _chosen(protocol: dict[str, Any]) -> str:
    what = "k" if "k" in protocol else "epoch"
    return f"{what} {', '.join(map(str, protocol[what]))}"

"""The labelled pictures that a probe learns from, chooses on and reports, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from muse_pipeline.data.label_source import LabelSource
from muse_pipeline.data.label_summary import check_leaks
from muse_pipeline.data.labelled_image import LabelledImage
from muse_pipeline.data.labels import read_labelled_images
from muse_pipeline.errors import ConfigError
from muse_pipeline.inference.card import ColourReference
from muse_pipeline.training.census import image_colour, require_every_class
from muse_pipeline.training.finetune_config import FinetuneConfig
from muse_pipeline.training.probing.point_set import PointSet
from muse_pipeline.training.probing.point_windows import cut_point_windows, largest_reflection
from muse_pipeline.training.probing.splits import ProbeSplit, split_halves, split_validation_and_test

PAIRS = (("training", "validation"), ("training", "test"), ("validation", "test"))


@dataclass(frozen=True, eq=False)
class ProbeData:
    """Labelled pictures in two or three parts.

    Attributes:
        training: is learnt from.
        validation: chooses; without a test its patients are halved, and each half reports what the other chose.
        test: is reported, where there is one.
        classes: names of the C classes.
        notes: what a reader of the figures must know, in sentences.
    """

    training: list[LabelledImage]
    validation: list[LabelledImage]
    test: list[LabelledImage]
    classes: tuple[str, ...]
    notes: list[str]

    @property
    def parts(self) -> dict[str, list[LabelledImage]]:
        """The pictures of each part that there is, by its name."""
        named = {"training": self.training, "validation": self.validation, "test": self.test}
        return {name: images for name, images in named.items() if images}

    @property
    def judged(self) -> list[LabelledImage]:
        """Those that choose, then those that are reported alone."""
        return [*self.validation, *self.test]

    @property
    def reported(self) -> list[LabelledImage]:
        """Those whose nuclei are reported."""
        return self.test or self.validation

    @cached_property
    def splits(self) -> tuple[ProbeSplit, ...]:
        """Which of the judged nuclei choose, and which are reported.

        Raises:
            ConfigError: there is no test and one patient.
        """
        n_known = [int((image.nuclei.label >= 0).sum()) for image in self.judged]
        n_validation = sum(n_known[: len(self.validation)])
        if self.test:
            return split_validation_and_test(n_validation, sum(n_known) - n_validation)
        return split_halves(np.repeat([image.patient for image in self.judged], n_known))

    def point_sets(self, reference: ColourReference, window_px: int) -> tuple[PointSet, PointSet]:
        """What is learnt from and what is judged, in the colours of a network."""
        return tuple(
            PointSet(images, np.stack([image_colour(image, reference) for image in images]), window_px)
            for images in (self.training, self.judged)
        )

    def describe(self) -> dict[str, Any]:
        """Counts of each part."""
        return {name: _describe(images, self.classes) for name, images in self.parts.items()}


def read_probe_data(
    config: FinetuneConfig, test: Sequence[LabelSource], shared_patients: bool, window_px: int
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
    data.splits  # noqa: B018 - whether it can be split is said before any network is read
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

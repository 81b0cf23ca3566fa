"""Data for a detector's training: labelled pictures for training and validation, and their colour
reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from muse_pipeline.core.errors import ConfigError, LabelError
from muse_pipeline.core.pictures import spread_evenly
from muse_pipeline.core.specimen import name_organ
from muse_pipeline.core.text import count_noun
from muse_pipeline.data.windows import LabelledWindows, continue_mirrored
from muse_pipeline.inference.card import ColourReference
from muse_pipeline.inference.stains import colour_of_fit, reference_stains
from muse_pipeline.labels.label_sources import CONTEXT_PX, read_labelled_images, require_words
from muse_pipeline.labels.labelled_image import LabelledImage
from muse_pipeline.labels.statistics import (
    LabelSummary,
    check_leaks,
    count_labels,
    mean_stains,
    missing_classes,
    require_every_class,
    require_outlines,
    untaught_classes,
)
from muse_pipeline.methods.detector.config import DetectorConfig
from muse_pipeline.methods.detector.start import Start
from muse_pipeline.training.run import Log, RunFolder

MIN_MEASURED = 20  # minimum number of labels of a class by which it is measured in an organ


@dataclass(frozen=True, eq=False)
class DetectorData:
    """Labelled pictures at the config's mpp."""

    config: DetectorConfig  # settings of the run
    images: list[LabelledImage]  # pictures to train on
    # pictures of other patients, to validate on; empty if the config has no `validation`
    held: list[LabelledImage]
    reference: ColourReference  # colour reference that slides are normalised to

    def make_windows(self, device: torch.device) -> LabelledWindows:
        """Batches of training windows on ``device``."""
        config = self.config
        distillation = config.distillation and config.distillation.on(self.images)
        return LabelledWindows(
            [continue_mirrored(image, config.window_px, config.mpp) for image in self.images],
            np.stack([colour_of_fit(self.reference, image.stain) for image in self.images]),
            reference_stains(self.reference),
            config,
            device,
            weak_view=distillation is not None,
            around=distillation is not None and distillation.where == "outside",
        )

    def organs(self, kept: Sequence[int]) -> dict[str, list[str]]:
        """The organs in which each class is measured, without classes in ``kept``, for the card:
        those with ``MIN_MEASURED`` of its labels for validation, or held out in turn without these.
        """
        by_organ = {}
        for image in self.held or self.images:
            by_organ.setdefault(name_organ(image.organ or self.config.organ), []).append(image)
        by_organ.pop("", None)
        n_classes = len(self.config.classes)
        counts = {organ: count_labels(by_organ[organ], n_classes) for organ in sorted(by_organ)}
        organs = {
            name: [organ for organ, n in counts.items() if n[index] >= MIN_MEASURED]
            for index, name in enumerate(self.config.class_names)
            if index not in kept
        }
        return {name: of_class for name, of_class in organs.items() if of_class}

    def describe(self, run: RunFolder, log: Log) -> None:
        """Print label counts by patient, write them by picture, and warn of pictures without fitted
        stains.
        """
        for split, images in (("training", self.images), ("validation", self.held)):
            if images:
                summary = LabelSummary(images, self.config.class_names, self.config.mpp)
                log(f"{split} labels:\n{summary.text()}")
                summary.write(run.path / f"labels-{split}.tsv")
                if untaught := untaught_classes(images, self.config.class_names):
                    log(f"classes without {split} labels: {', '.join(untaught)}")
        distillation = self.config.distillation
        if distillation and (share := distillation.on(self.images).share) < distillation.share:
            log(
                f"the teachers have {share:.0%} of the loss, because no picture has tissue around a"
                " labelled region"
            )
        raw = [image.name for image in (*self.images, *self.held) if image.stain is None]
        if raw and self.reference.method != "identity":
            log(
                f"warning: the stains of {count_noun(len(raw), 'picture')} (first {raw[0]}) could"
                " not be fitted and are not normalised; check that this one is H&E"
            )


def read_detector_data(config: DetectorConfig, start: Start | None = None) -> DetectorData:
    """Read every picture that the config names.

    A run that continues the detector ``start`` needs neither outlines nor labels of every class,
    and keeps the detector's colour reference if `colour` is the same.
    """
    # checked first, because reading pictures takes minutes
    require_words((*config.sources, *config.validation))
    model = config.class_names, config.mpp, config.n_rays, max(CONTEXT_PX, config.window_px)
    images, held = (
        read_labelled_images(sources, *model) for sources in (config.sources, config.validation)
    )
    check_leaks(images, held)
    if config.head != "dense" and any(image.areas for image in (*images, *held)):
        raise ConfigError(
            f"label sources of the format 'areas' need the head 'dense', not '{config.head}';"
            " change `head`"
        )
    detector = start if start is not None and start.is_whole else None
    if detector is None:
        require_every_class(images, config.class_names, "training")
        require_outlines(images)
        if held:
            require_every_class(held, config.class_names, "validation")
    else:
        _require_classes(images, held, config)
    if detector is not None and detector.colour.method == config.colour:
        return DetectorData(config, images, held, detector.colour)
    # images are drawn this often, and count as often in the mean
    weights = [image.weight for image in images]
    reference = mean_stains([image.stain for image in images], config.colour, weights)
    return DetectorData(config, images, held, reference)


def _require_classes(
    images: list[LabelledImage], held: list[LabelledImage], config: DetectorConfig
) -> None:
    """Check that labels with which a detector continues to learn keep its classes, and can score
    them.
    """
    lacks_classes = _has_no_class(images, config)
    if lacks_classes and any(source.can_have_classes for source in config.sources):
        raise LabelError(
            f"no nucleus of the training labels has a class ({', '.join(config.class_names)}); set"
            " classes in the label files, or map their class names with `class_map`"
        )
    if lacks_classes and config.distillation is None:
        raise ConfigError(
            "the training labels are masks without classes, so the network would forget the classes"
            " of its initial weights; name these weights in `distillation.teachers`, so that they"
            " are taught"
        )
    if _has_no_class(held, config):
        raise LabelError(
            "no nucleus of the validation labels has a class, so they cannot choose weights; remove"
            " `validation`, or set classes"
        )


def _has_no_class(images: list[LabelledImage], config: DetectorConfig) -> bool:
    """True if nuclei are labelled, but none has a class; areas have classes without nuclei."""
    has_labels = any(len(image.nuclei) and not image.areas for image in images)
    return has_labels and len(missing_classes(images, config.class_names)) == len(config.classes)


def keep_pictures(images: Sequence[LabelledImage], run: RunFolder) -> None:
    """Save some images, cropped to start at the annotated region, because there may be no tissue
    outside it.
    """
    crops = {}
    for number, index in enumerate(spread_evenly(len(images))):
        left, top, *_ = images[index].annotated_box
        crops[str(number)] = images[index].pixels[top:, left:]
    run.keep_pictures(crops)

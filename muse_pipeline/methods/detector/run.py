"""The run that trains a detector: ``method: detector`` of ``muse train``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from muse_pipeline.core.text import count_noun, some_of
from muse_pipeline.data.windows import LabelledWindows
from muse_pipeline.inference.card import ColourReference
from muse_pipeline.inference.doubts import merge_references
from muse_pipeline.inference.model import find_checkpoint
from muse_pipeline.labels.labelled_image import LabelledImage
from muse_pipeline.labels.statistics import appearance_reference, class_weights
from muse_pipeline.methods.detector.config import CARD_ONLY, UNSCORED, DetectorConfig, inherit_export, require_sound
from muse_pipeline.methods.detector.data import DetectorData, keep_pictures, read_detector_data
from muse_pipeline.methods.detector.method import DetectorTraining, DistillationTerm
from muse_pipeline.methods.detector.mixing import (
    choose_share,
    count_labelled,
    describe_choice,
    follow_labels,
    mix_weights,
    split_images,
)
from muse_pipeline.methods.detector.start import (
    Start,
    describe_origins,
    find_teachers,
    load_teacher,
    read_start,
    take_over,
)
from muse_pipeline.methods.detector.validation import (
    N_IMAGES,
    SCORE,
    Scorer,
    class_shift,
    compare_with_start,
    count_held,
)
from muse_pipeline.models.detector import NucleusDetector
from muse_pipeline.training.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_detector_weights,
    save_checkpoint,
    seen_before,
    steps_done,
)
from muse_pipeline.training.devices import is_first_process
from muse_pipeline.training.loop import BestWeights, Monitor
from muse_pipeline.training.recipe import RECIPES, Recipe, load_run
from muse_pipeline.training.run import Inputs, Log, Options, plain_settings, source_files
from muse_pipeline.training.stages import Stage, TrainingStage, stage_folder


def load_detector_config(path: Path, data: Path | None = None, changes: Iterable[str] = ()) -> DetectorConfig:
    """Read the settings of a config file (``recipe.load_run``)."""
    return load_run(path, data, changes, default="detector", only=DetectorConfig)[1]


@RECIPES.register("detector")
class DetectorRecipe(Recipe):
    """Trains a detector on labelled images, in one stage."""

    Config = DetectorConfig

    def complete(self, values: dict[str, Any], folder: Path) -> dict[str, Any]:
        """Copy missing export settings from the initial detector (``config.inherit_export``)."""
        return inherit_export(values, folder)

    def describe(self, config: DetectorConfig) -> dict[str, Any]:
        """Describe the run for the workflow; its inputs are the checkpoints and every file of the label sources."""
        require_sound(config)
        inputs = read_inputs(config)
        inputs.require_checkpoints()
        files = set()
        for source in inputs.sources:
            source.choose()
            files |= {file for _, file in source_files(source)}
        return {
            "name": config.name,
            "mpp": config.mpp,
            "backbone": config.backbone,
            "is_validated": bool(config.validation),
            "classes": list(config.class_names),
            "inputs": [str(file) for file in (*inputs.checkpoints, *sorted(files))],
        }

    def stages(self, config: DetectorConfig, folder: Path) -> Sequence[Stage]:
        """Return the only stage, the training."""
        return (DetectorStage(config, folder),)


def read_inputs(config: DetectorConfig) -> Inputs:
    """Label sources, initial checkpoint and teachers of a run."""
    start = config.checkpoint and find_checkpoint(config.checkpoint)
    return Inputs((*config.sources, *config.validation), start, tuple(find_teachers(config)))


class DetectorStage(TrainingStage[DetectorConfig, DetectorData]):
    """Trains backbone and head on labelled windows."""

    def __init__(self, config: DetectorConfig, folder: Path, name: str = "train"):
        super().__init__(config, folder, name)
        self._data: DetectorData | None = None
        self._held_out: list[tuple[Path, list[LabelledImage]]] = []

    @property
    def is_mixed(self) -> bool:
        """True if the trained weights are averaged with those of an initial detector."""
        return self.config.mixing is not None and self.start is not None and self.start.is_whole

    @cached_property
    def start(self) -> Start | None:
        """The initial checkpoint; None if the config names none."""
        return read_start(self.config)

    def check(self) -> None:
        """Reject wrong settings (``config.require_sound``)."""
        require_sound(self.config)

    def inputs(self) -> Inputs:
        """Label sources, initial checkpoint and teachers (``read_inputs``)."""
        return read_inputs(self.config)

    def free_settings(self) -> tuple[str, ...]:
        """Settings of card and export; those that affect validation scores may change only after the last step."""
        if not self.config.validation or steps_done(self.run_folder.resume) == self.config.schedule.steps:
            return CARD_ONLY
        return (*(name for name in CARD_ONLY if name != "export"), *UNSCORED)

    def run(self, options: Options) -> Path:
        """Train, or resume; for ``mixing`` without `validation`, first train without each part of the labels."""
        if self.config.mixing is None:
            return super().run(options)
        self.check()
        self.inputs().require_checkpoints()
        self.run_folder.require_own()
        if not self.is_mixed:
            options.log("mixing: skipped, `checkpoint` is not a detector with the run's head, classes, rays and mpp")
            return super().run(options)
        self._data = data = read_detector_data(self.config, self.start)
        self.config = self._follow(data.images)
        data = self._data = dataclasses.replace(data, config=self.config)
        if not data.held:
            if is_first_process():  # before the first training, so that wrong labels are noticed early
                self.folder.mkdir(parents=True, exist_ok=True)
                data.describe(self.run_folder, options.log)
            parts = split_images(data.images, self.config.mixing.folds)
            for number, (images, held) in enumerate(parts, 1):
                config = dataclasses.replace(self._follow(images), mixing=None)
                part = HeldOutStage(config, stage_folder(self.folder, number, "held-out"), "held-out")
                part._data = dataclasses.replace(data, config=config, images=images)
                without = count_noun(len(held), "held-out picture")
                options.log(f"training {number} of {len(parts) + 1}, without {without}")
                self._held_out.append((part.run(options), held))
            options.log(f"training {len(parts) + 1} of {len(parts) + 1}, with all labels")
        return super().run(options)

    def _follow(self, images: Sequence[LabelledImage]) -> DetectorConfig:
        schedule = follow_labels(self.config.schedule, count_labelled(images))
        return dataclasses.replace(self.config, schedule=schedule)

    def read(self, log: Log) -> DetectorData:
        """Read the labelled images, unless they have been read already."""
        return self._data or read_detector_data(self.config, self.start)

    def build(self, data: DetectorData) -> DetectorTraining:
        """Build the detector, with the weights of the checkpoint if there is one, and its teachers."""
        config = self.config
        network = NucleusDetector(config.backbone, config.head, len(config.classes), config.n_rays)
        network.to(memory_format=torch.channels_last)  # saves a third of the time per step on a CPU
        if self.start:
            take_over(network, self.start)
        weights = torch.from_numpy(class_weights(data.images, len(config.classes)))
        shift = None
        if self.is_mixed:
            # The class shares are measured with the initial weights, which the network still has.
            shift = class_shift(data.images[:N_IMAGES], Scorer(network, config, data.reference))
        distillation = None
        if config.distillation is not None:
            teachers = [load_teacher(path, config) for path in find_teachers(config)]
            chosen = config.distillation.on(data.images)
            distillation = DistillationTerm(chosen.share, teachers, chosen.where)
            distillation.to(memory_format=torch.channels_last)
        return DetectorTraining(network, config.head, config.mpp, weights, distillation, config.backbone_rate, shift)

    def batches(self, data: DetectorData, device: torch.device) -> LabelledWindows:
        """Batches of augmented windows."""
        return data.make_windows(device)

    def describe(self, data: DetectorData, log: Log) -> None:
        """Print and write a summary of the labels, and save pictures for checking the export."""
        keep_pictures(data.images, self.run_folder)
        if not self._held_out:
            data.describe(self.run_folder, log)
        origin = self.start.describe() if self.start else "random weights"
        if teachers := find_teachers(self.config):
            origin += f", with {count_noun(len(teachers), 'teacher')}"
        log(f"{self.config.backbone} with a {self.config.head} head, from {origin}")
        seen = seen_before(self.inputs().checkpoints, self.config.trust_pickle)
        if shared := sorted(seen.learnt_patients & {image.patient for image in data.held}):
            log(f"validation scores will be too high: the initial weights were trained on {some_of(shared)}")

    def monitors(self, data: DetectorData, method: DetectorTraining) -> Sequence[Monitor]:
        """Validation, if the config has `validation` sources."""
        if not data.held:
            return ()
        meta = self._describe(data)

        def keep(step: int, scores: dict[str, float]) -> None:
            save_checkpoint(self.run_folder.best, _networks(method, {**meta, "step": step, "scores": scores}))

        scorer = Scorer(method.trained(), data.config, data.reference)
        return (BestWeights(SCORE, partial(scorer.validate, data.held), keep),)

    def checkpoint(self, data: DetectorData, method: DetectorTraining) -> Checkpoint:
        """Checkpoint of the last (with validation, the best) weights, mixed with the initial ones if configured."""
        meta = self._describe(data)
        trained = _networks(method, {**meta, "step": self.config.schedule.steps})
        if data.held:
            best = load_checkpoint(self.run_folder.best)
            trained = dataclasses.replace(best, meta={**best.meta, **meta})  # the card may have changed since
        tried = [(load_checkpoint(path), held) for path, held in self._held_out]
        if self.is_mixed and data.held:
            tried = [(trained, data.held)]
        if not tried:
            return trained
        counts = np.concatenate([count_held(data, self.start, *each) for each in tried], 1)
        choice = choose_share(counts)
        mixed = mix_weights(self.start.checkpoint, trained, choice["share"])
        return dataclasses.replace(mixed, meta={**trained.meta, "mixing": choice})

    def finish(self, data: DetectorData, method: DetectorTraining, log: Log) -> None:
        """Print the score of the kept weights and, if the run continues a detector, what has changed."""
        kept = load_checkpoint(self.result)
        if data.held:
            step, score = kept.meta["step"], kept.meta["scores"][SCORE]
            log(f"{SCORE} of the kept weights, from step {step:,}: {score:.1f}")
        if choice := kept.meta.get("mixing"):
            for sentence in describe_choice(choice, "validation labels" if data.held else "labels held out in turn"):
                log(sentence)
            if not choice["share"]:
                return
        if self.start and self.start.is_whole:
            load_detector_weights(method.trained(), kept, self.result)
            for sentence in compare_with_start(data, self.start, method.trained()):
                log(sentence)

    def _describe(self, data: DetectorData) -> dict[str, Any]:
        config = self.config
        seen = seen_before(self.inputs().checkpoints, config.trust_pickle)
        appearance = appearance_reference(data.images, config.mpp)
        if self.start and self.start.is_whole:
            appearance = merge_references(self.start.appearance, appearance)
        learnt, held = ({image.patient for image in images} for images in (data.images, data.held))
        names = {image.name for image in data.images}
        return {
            **describe_detector(config, data.reference),
            "origins": describe_origins(self.inputs().checkpoints, config, names),
            "appearance": appearance and dataclasses.asdict(appearance),
            "images": sorted(names | seen.images),
            "patients": sorted(learnt | held | seen.patients),  # weights are chosen on held-out patients
            "learnt_patients": sorted(learnt | seen.learnt_patients),
        }


class HeldOutStage(DetectorStage):
    """Trains without a part of the labels; the whole run then scores the result on this part."""

    # True, so that a class shift is used as in the whole run; ``mixing`` is None, so no more labels are held out.
    is_mixed = True

    def describe(self, data: DetectorData, log: Log) -> None:
        """Print nothing, because the whole run describes the labels."""

    def finish(self, data: DetectorData, method: DetectorTraining, log: Log) -> None:
        """Print nothing, because the result of the whole run is compared with the initial detector."""


def describe_detector(config: DetectorConfig, reference: ColourReference) -> dict[str, Any]:
    """Entries in a checkpoint's meta that are needed to export and run a detector, whatever method trained it.

    Args:
        config: settings of the network and its card.
        reference: colour reference that slides are normalised to.
    """
    return {
        "kind": "detector",
        "backbone": config.backbone,
        "window_px": config.window_px,
        "mpp": config.mpp,
        "resample_positions": False,  # positional embeddings are used as trained
        "config": plain_settings(config, portable=True),
        "colour": dataclasses.asdict(reference),
    }


def _networks(method: DetectorTraining, meta: dict[str, Any]) -> Checkpoint:
    network = method.trained()
    return Checkpoint(network.backbone.state_dict(), network.head.state_dict(), meta)

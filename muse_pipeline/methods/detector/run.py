"""The run that trains a detector: ``method: detector`` of ``muse train``."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from muse_pipeline.core.text import count_noun
from muse_pipeline.labels.labelled_image import LabelledImage
from muse_pipeline.methods.detector.config import (
    DetectorConfig,
    inherit_export,
    require_sound_detector,
)
from muse_pipeline.methods.detector.data import DetectorData, read_detector_data
from muse_pipeline.methods.detector.mixing import (
    N_SCORES,
    SHARES,
    Part,
    choose_share,
    count_left,
    describe_gains,
    describe_kept,
    find_kept,
    follow_labels,
    shorten,
    split_images,
)
from muse_pipeline.methods.detector.stage import DetectorTrainingStage, HeldOutStage
from muse_pipeline.methods.detector.validation import N_IMAGES
from muse_pipeline.training.checkpoint import load_checkpoint
from muse_pipeline.training.devices import is_first_process
from muse_pipeline.training.method import Schedule
from muse_pipeline.training.pace import TimeLimit
from muse_pipeline.training.recipe import (
    RECIPES,
    Recipe,
    Stage,
    describe_model_run,
    load_run,
    stage_folder,
)
from muse_pipeline.training.run import Options


def load_detector_config(
    path: Path, data: Path | None = None, changes: Iterable[str] = ()
) -> DetectorConfig:
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
        """Describe the run for the workflow."""
        require_sound_detector(config)
        facts = describe_model_run(config)
        for source in (*config.sources, *config.validation):
            source.choose()
        return facts

    def stages(self, config: DetectorConfig, folder: Path) -> Sequence[Stage]:
        """Return the only stage, the training."""
        return (DetectorStage(config, folder),)


class DetectorStage(DetectorTrainingStage):
    """Trains on all labels, with ``mixing`` after trainings without each part of them, and with
    ``minutes`` as many steps as there is time for.
    """

    _limit: TimeLimit | None = None

    def run(self, options: Options) -> Path:
        """Train, or resume; for ``mixing`` without `validation`, first train without each part of
        the labels.
        """
        if self.config.mixing is None and self.config.minutes is None:
            return super().run(options)
        begin = time.monotonic()
        self.check()
        self.inputs().require_checkpoints()
        self.run_folder.require_own()
        if self.config.mixing is not None and not self.is_mixed:
            options.log(
                "mixing: skipped, `checkpoint` is not a detector with the run's head, classes, rays"
                " and mpp"
            )
        data = read_detector_data(self.config, self.start)
        parts = split_images(data.images, self.config.mixing.folds) if self.is_mixed else []
        if parts and self.config.distillation is not None:
            left = count_left(parts, len(self.config.classes))
            self._kept = find_kept(left)
        parts = [] if data.held else parts
        schedules = [
            self._schedule(images) for images in (*(images for images, _ in parts), data.images)
        ]
        self._use(data, schedules[-1])
        # before the first training, so that wrong labels are noticed early
        if parts and is_first_process():
            self.folder.mkdir(parents=True, exist_ok=True)
            self._describe_labels(data, options.log)
        if self._kept:
            options.log(describe_kept(self._kept, left, self.config.class_names))
        if self.config.minutes is not None and options.devices * options.nodes == 1:
            self._limit = self._make_limit(parts, begin)
        finish = partial(self._hold_out, parts) if parts else partial(self._fit, 1)
        schedule, options = finish(schedules, options)
        self._use(data, schedule)
        return super().run(options)

    def _make_limit(self, parts: Sequence[Part], begin: float) -> TimeLimit:
        """The time limit of a run that began at the monotonic time ``begin``."""
        data = self._data
        schedule = self.config.schedule
        n_shares = 1 + len(SHARES)
        pictures = [N_SCORES * min(len(held), N_IMAGES) + n_shares * len(held) for _, held in parts]
        n_validations = -(-schedule.steps // schedule.validate_every)
        at_end = 4 * min(len(data.images), N_IMAGES)  # two detectors, inside and outside regions
        pictures.append(at_end + (n_validations + n_shares) * len(data.held))
        image = sorted(data.images, key=lambda image: image.pixels.size)[len(data.images) // 2]
        search = partial(self._scorer(data).find, image)
        return TimeLimit(self, data, self.config.minutes, pictures, search, begin)

    def _fit(
        self, number: int, schedules: Sequence[Schedule], options: Options
    ) -> tuple[Schedule, Options]:
        """The schedule and the options of training ``number``, counted from 1, within the time
        limit.
        """
        schedule = schedules[number - 1]
        if self._limit is None:
            return schedule, options
        steps = [schedule.steps for schedule in schedules]
        pace = self._limit.begin(number, steps, options)
        threads = dataclasses.replace(options, threads=pace["threads"])
        return shorten(schedule, pace["share"]), threads

    def _schedule(self, images: Sequence[LabelledImage]) -> Schedule:
        """The whole schedule for training on ``images``, also if the config is that of a shortened
        run.
        """
        schedule = dataclasses.replace(
            self.config.schedule, steps=self.config.schedule.length, curve=None
        )
        if self.is_mixed:
            return follow_labels(schedule, sum(len(image.nuclei) for image in images))
        return schedule

    def _use(self, data: DetectorData, schedule: Schedule) -> None:
        self.config = dataclasses.replace(self.config, schedule=schedule)
        self._data = dataclasses.replace(data, config=self.config)

    def _hold_out(
        self, parts: Sequence[Part], schedules: Sequence[Schedule], options: Options
    ) -> tuple[Schedule, Options]:
        """Train without each part, and return schedule and options of the training with all labels.

        It is as long as the median of the trainings without a part, which end once their scores no
        longer rise.
        """
        counts = []
        ends = []
        names = self.config.class_names
        for number, (images, held) in enumerate(parts, 1):
            whole = schedules[number - 1]
            schedule, own = self._fit(number, schedules, options)
            schedule = dataclasses.replace(schedule, validate_every=-(-schedule.steps // N_SCORES))
            config = dataclasses.replace(self.config, schedule=schedule, mixing=None, minutes=None)
            part = HeldOutStage(config, stage_folder(self.folder, number, "held-out"), "held-out")
            part._data = dataclasses.replace(self._data, config=config, images=images, held=held)
            part._kept = self._kept
            options.log(
                f"training {number} of {len(schedules)}, without"
                f" {count_noun(len(held), 'held-out picture')}"
            )
            meta = load_checkpoint(part.run(own)).meta
            counts.append(np.array(meta["counts"]))
            ends.append(meta["step"] / whole.steps)
            self._choice = choose_share(np.concatenate(counts, 1), names, self._kept)
            options.log(describe_gains(self._choice))
        if not self._choice["share"]:
            # of one step, because its weights are not kept
            return shorten(schedules[-1], 0), options
        n = len(schedules)
        schedules = [*schedules[:-1], shorten(schedules[-1], median(ends))]
        last, options = self._fit(n, schedules, options)
        options.log(f"training {n} of {n}, with all labels, for {last.steps:,} steps")
        return last, options

"""One training of a detector on labelled windows, whether on all labels or without a part of
them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from typing import Any

import torch

from muse_pipeline.core.files import complete_file
from muse_pipeline.core.pictures import spread_evenly
from muse_pipeline.core.text import count_noun, some_of
from muse_pipeline.data.windows import LabelledWindows
from muse_pipeline.inference.card import ColourReference
from muse_pipeline.inference.doubts import merge_references
from muse_pipeline.labels.statistics import appearance_reference, class_weights
from muse_pipeline.methods.detector.config import (
    CARD_ONLY,
    UNSCORED,
    DetectorConfig,
    require_sound_detector,
)
from muse_pipeline.methods.detector.data import DetectorData, keep_pictures, read_detector_data
from muse_pipeline.methods.detector.method import DetectorTraining, DistillationTerm
from muse_pipeline.methods.detector.mixing import (
    PATIENCE,
    choose_share,
    describe_choice,
    describe_falls,
    mix_weights,
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
    SUM,
    Scorer,
    class_shift,
    compare_with_start,
    count_held,
    find_unlabelled,
)
from muse_pipeline.models.detector import NucleusDetector
from muse_pipeline.training.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_detector_weights,
    steps_done,
)
from muse_pipeline.training.loop import BestWeights, MetricsLog, Monitor
from muse_pipeline.training.recipe import TrainingStage
from muse_pipeline.training.run import Log, describe_backbone


class DetectorTrainingStage(TrainingStage[DetectorConfig, DetectorData]):
    """Trains backbone and head on labelled windows."""

    _data: DetectorData | None = None
    # the result of ``choose_share``, by labels held out in turn
    _choice: dict[str, Any] | None = None
    _kept: Sequence[int] = ()  # classes that labels do not change (``find_kept``)

    @property
    def continued(self) -> Start | None:
        """The initial detector; None if the run uses no more than its backbone."""
        return self.start if self.start and self.start.is_whole else None

    @property
    def is_mixed(self) -> bool:
        """True if the trained weights are averaged with those of an initial detector."""
        return self.config.mixing is not None and self.continued is not None

    @cached_property
    def start(self) -> Start | None:
        """The initial checkpoint; None if the config names none."""
        return read_start(self.config)

    def check(self) -> None:
        """Reject wrong settings (``config.require_sound_detector``)."""
        require_sound_detector(self.config)

    def free_settings(self) -> tuple[str, ...]:
        """Settings of card and export; those that affect validation scores may change only after
        the last step.
        """
        if (
            not self.config.validation
            or steps_done(self.run_folder.resume) == self.config.schedule.steps
        ):
            return (*CARD_ONLY, "export")
        return (*CARD_ONLY, *UNSCORED)

    def read(self, log: Log) -> DetectorData:
        """Read the labelled images, unless they have been read already."""
        return self._data or read_detector_data(self.config, self.start)

    def build(self, data: DetectorData) -> DetectorTraining:
        """Build the detector, with the weights of the checkpoint if there is one, and its
        teachers.
        """
        config, network = self.config, self._network()
        weights = torch.from_numpy(class_weights(data.images, len(config.classes)))
        shift = None
        if self.is_mixed:
            # The class shares are measured with the initial weights, which the network still has.
            shift = class_shift(data.images[:N_IMAGES], Scorer(network, config, data.reference))
        distillation = None
        if config.distillation is not None:
            teachers = [load_teacher(path, config) for path in find_teachers(config)]
            chosen = config.distillation.on(data.images)
            distillation = DistillationTerm(chosen.share, teachers, chosen.where, self._kept)
            distillation.to(memory_format=torch.channels_last)
        return DetectorTraining(
            network,
            config.head,
            config.mpp,
            weights,
            distillation,
            config.backbone_rate,
            shift,
            self._kept,
        )

    def _network(self) -> NucleusDetector:
        """The detector, with the initial weights if there are any."""
        config = self.config
        network = NucleusDetector(config.backbone, config.head, len(config.classes), config.n_rays)
        network.to(memory_format=torch.channels_last)  # saves a third of the time per step on a CPU
        if self.start:
            take_over(network, self.start)
        return network

    def batches(self, data: DetectorData, device: torch.device) -> LabelledWindows:
        """Batches of augmented windows."""
        return data.make_windows(device)

    def describe(self, data: DetectorData, log: Log) -> None:
        """Print and write a summary of the labels, and save pictures for checking the export."""
        keep_pictures(data.images, self.run_folder)
        if self._choice is None:
            self._describe_labels(data, log)
        origin = self.start.describe() if self.start else "random weights"
        if teachers := find_teachers(self.config):
            origin += f", with {count_noun(len(teachers), 'teacher')}"
        log(f"{self.config.backbone} with a {self.config.head} head, from {origin}")
        if shared := sorted(self.seen.learnt_patients & {image.patient for image in data.held}):
            log(
                "validation scores will be too high: the initial weights were trained on"
                f" {some_of(shared)}"
            )

    def _describe_labels(self, data: DetectorData, log: Log) -> None:
        data.describe(self.run_folder, log)
        if self.continued:
            for warning in find_unlabelled(data.images, self._scorer(data)):
                log(f"warning: {warning}")

    def _scorer(self, data: DetectorData) -> Scorer:
        """Scorer of the initial weights."""
        return Scorer(self._network(), data.config, data.reference)

    def monitors(self, data: DetectorData, method: DetectorTraining) -> Sequence[Monitor]:
        """Validation, if the config has `validation` sources."""
        return (self._keep_best(data, method),) if data.held else ()

    def _keep_best(
        self,
        data: DetectorData,
        method: DetectorTraining,
        score: str = SCORE,
        patience: int | None = None,
    ) -> BestWeights:
        scorer = Scorer(method.trained(), data.config, data.reference)
        meta = self._describe(data)

        def describe(step: int, scores: dict[str, float]) -> Checkpoint:
            return _networks(method, {**meta, "step": step, "scores": scores})

        validate = partial(scorer.validate if score == SCORE else scorer.sum_up, data.held)
        return BestWeights(score, validate, self.run_folder.best, describe, patience=patience)

    def checkpoint(self, data: DetectorData, method: DetectorTraining) -> Checkpoint:
        """Checkpoint of the last (with validation, the best) weights, mixed with the initial ones
        if configured.
        """
        meta = self._describe(data)
        trained = _networks(method, {**meta, "step": self.config.schedule.steps})
        if data.held:
            best = load_checkpoint(self.run_folder.best)
            # the card may have changed since
            trained = dataclasses.replace(best, meta={**best.meta, **meta})
        choice = self._choice
        if self.is_mixed and data.held:
            counts = count_held(data, self.start, trained, data.held)
            choice = choose_share(counts, self.config.class_names, self._kept)
        if choice is None:
            return trained
        mixed = mix_weights(self.start.checkpoint, trained, choice["share"])
        return dataclasses.replace(mixed, meta={**trained.meta, "mixing": choice})

    def finish(self, data: DetectorData, method: DetectorTraining, log: Log) -> None:
        """Print and save the score of the kept weights and, if the run continues a detector, what
        has changed.
        """
        with (
            complete_file(self.run_folder.scores) as partial,
            partial.open("w", encoding="utf-8") as file,
        ):
            for sentence in self._results(data, method):
                log(sentence)
                file.write(f"{sentence}\n")

    def _results(self, data: DetectorData, method: DetectorTraining) -> Iterator[str]:
        kept = load_checkpoint(self.result)
        if data.held:
            step, score = kept.meta["step"], kept.meta["scores"][SCORE]
            yield f"{SCORE} of the kept weights, from step {step:,}: {score:.1f}"
        choice = kept.meta.get("mixing")
        where = "labels that were not trained on"
        if choice:
            where = "validation labels" if data.held else where
            yield from describe_choice(choice, where)
            if not choice["share"]:
                return
        if self.continued:
            load_detector_weights(method.trained(), kept, self.result)
            yield from compare_with_start(data, self.continued, method.trained())
        if choice:
            names = [name for name in self.config.class_names if name in choice["scores"]]
            changes = {name: choice["scores"][name]["difference"] for name in names}
            yield from describe_falls(changes, where)

    def _describe(self, data: DetectorData) -> dict[str, Any]:
        config = self.config
        appearance = appearance_reference(data.images, config.mpp)
        if self.continued:
            appearance = merge_references(self.continued.appearance, appearance)
        learnt, held = ({image.patient for image in images} for images in (data.images, data.held))
        names = {image.name for image in data.images}
        return {
            **describe_detector(config, data.reference),
            "organs": data.organs(self._kept),
            "origins": describe_origins(self.inputs().checkpoints, config, names),
            "appearance": appearance and dataclasses.asdict(appearance),
            "unlike": self.continued.unlike if self.continued else {},
            **self.seen.extend(names, learnt, held),
        }


class HeldOutStage(DetectorTrainingStage):
    """Trains without a part of the labels; the whole run then scores the result on this part."""

    # True, so that a class shift is used as in the whole run; ``mixing`` is None, so no more labels
    # are held out.
    is_mixed = True

    def monitors(self, data: DetectorData, method: DetectorTraining) -> Sequence[Monitor]:
        """Scores on the part, which end the training once they no longer rise."""
        held = [data.held[index] for index in spread_evenly(len(data.held), N_IMAGES)]
        return (self._keep_best(dataclasses.replace(data, held=held), method, SUM, PATIENCE),)

    def checkpoint(self, data: DetectorData, method: DetectorTraining) -> Checkpoint:
        """Checkpoint of the last weights, with the counts from which the share of the change is
        chosen.

        Counts of the best weights would favour the whole change, by whose scores these weights are
        chosen.
        """
        steps = MetricsLog(self.run_folder.metrics).read()[-1]["step"] + 1
        last = _networks(method, {**self._describe(data), "step": steps})
        counts = count_held(data, self.start, last, data.held)
        return dataclasses.replace(last, meta={**last.meta, "counts": counts.tolist()})

    def describe(self, data: DetectorData, log: Log) -> None:
        """Print nothing, because the whole run describes the labels."""

    def finish(self, data: DetectorData, method: DetectorTraining, log: Log) -> None:
        """Print nothing, because the result of the whole run is compared with the initial
        detector.
        """


def describe_detector(config: DetectorConfig, reference: ColourReference) -> dict[str, Any]:
    """Entries in a checkpoint's meta that are needed to export and run a detector, whatever method
    trained it.
    """
    described = describe_backbone(config, config.window_px, config.mpp, reference)
    return {"kind": "detector", **described}


def _networks(method: DetectorTraining, meta: dict[str, Any]) -> Checkpoint:
    network = method.trained()
    return Checkpoint(network.backbone.state_dict(), network.head.state_dict(), meta)

"""The IKD-MIL run, which trains a region model on labels of images or slides."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from muse_pipeline.core.pictures import spread_evenly
from muse_pipeline.inference.card import REGIONS, painting_warnings
from muse_pipeline.inference.model import find_checkpoint
from muse_pipeline.methods.mil.attention import add_slide_stages, slide_metrics
from muse_pipeline.methods.mil.bags import list_labelled_slides
from muse_pipeline.methods.mil.config import (
    MilConfig,
    NetworkSettings,
    StageConfig,
    StudentSettings,
    require_network,
)
from muse_pipeline.methods.mil.data import AUC, RegionData, all_sources, read_region_data
from muse_pipeline.methods.mil.method import StudentTraining, TeacherTraining
from muse_pipeline.methods.mil.tissue import require_locations
from muse_pipeline.methods.mil.windows import RegionWindows
from muse_pipeline.models.region import RegionNetwork
from muse_pipeline.models.weights import load_weights
from muse_pipeline.training.checkpoint import Checkpoint, load_checkpoint
from muse_pipeline.training.loop import BestWeights, Monitor
from muse_pipeline.training.method import Method
from muse_pipeline.training.recipe import (
    CARD,
    RECIPES,
    Recipe,
    Stage,
    StageList,
    TrainingStage,
    describe_model_run,
    require_training_data,
)
from muse_pipeline.training.region_model import RegionModel, region_checkpoint
from muse_pipeline.training.run import Inputs, Log, describe_backbone


@RECIPES.register("mil")
class MilRecipe(Recipe):
    """Stages: attention MIL if slides are labelled, then a teacher, then a student."""

    Config = MilConfig

    def describe(self, config: MilConfig) -> dict[str, Any]:
        """Describe the run for the workflow, with the id, class and patient of each labelled
        slide.
        """
        require_network(config)
        require_locations((*config.sources, *config.validation))
        facts = describe_model_run(config) | {"kind": REGIONS}
        labels = config.slide_labels
        if labels is None:
            return {**facts, "slides": {}}
        files = labels.table, labels.checkpoint and find_checkpoint(labels.checkpoint)
        facts["inputs"] += [str(file) for file in files if file]
        names = config.class_names
        slides = list_labelled_slides(labels, names)
        facts["slides"] = {slide.slide_id: [names[slide.label], slide.patient] for slide in slides}
        return facts

    def stages(self, config: MilConfig, folder: Path) -> Sequence[Stage]:
        """Return the stages for these settings."""
        stages = StageList(folder)
        tiles = add_slide_stages(stages, config)
        settings = StageConfig(**config.select(NetworkSettings), tiles=tiles)
        # The teacher does not depend on the students' settings; with the defaults, it stays valid
        # if they change.
        alone = dataclasses.replace(settings, student=StudentSettings())
        previous = stages.add(TeacherStage, "teacher", alone)
        schedule = config.student.schedule or config.schedule
        rounds = config.student.rounds
        if rounds:
            schedule = dataclasses.replace(schedule, steps=rounds * schedule.steps)
            student = dataclasses.replace(
                settings, schedule=schedule, previous=previous, seed=config.seed + 1
            )
            stages.add(StudentStage, "student", student)
        return stages


class RegionStage(TrainingStage[StageConfig, RegionData]):
    """Trains a region network, and writes a checkpoint that ``muse export`` can read."""

    def check(self) -> None:
        """Reject an unusable network or window, and training data without a description."""
        require_training_data(self.config.training_data)
        require_network(self.config)

    def inputs(self) -> Inputs:
        """The labelled images, the checkpoint with the initial backbone, and that of the previous
        stage.
        """
        sources, validation = all_sources(self.config)
        require_locations((*sources, *validation))
        return Inputs.of(dataclasses.replace(self.config, sources=sources, validation=validation))

    def free_settings(self) -> tuple[str, ...]:
        """Settings of the card."""
        return (*CARD, "export")

    def read(self, log: Log) -> RegionData:
        """Read the labelled images."""
        return read_region_data(self.config)

    def new_network(self) -> RegionNetwork:
        """Build a network with the backbone of the config's checkpoint, or with random weights if
        it names none.
        """
        config = self.config
        network = RegionNetwork(config.backbone, len(config.classes), config.fusion)
        self.begin_with(network.backbone)
        return network.to(memory_format=torch.channels_last)

    def batches(self, data: RegionData, device: torch.device) -> RegionWindows:
        """Batches of augmented windows."""
        return data.make_windows(device)

    def describe(self, data: RegionData, log: Log) -> None:
        """Print a summary of the training data, and save pictures for checking the export."""
        chosen = spread_evenly(len(data.images))
        self.run_folder.keep_pictures(
            {str(number): data.images[index].pixels for number, index in enumerate(chosen)}
        )
        log(f"{self.name}: {self.config.backbone}\n{data.describe()}")

    def monitors(self, data: RegionData, method: Method) -> Sequence[Monitor]:
        """Validation, if there are validation images."""
        if not data.held:
            return ()
        score = data.make_scorer(method.trained()).score
        describe = partial(self._describe, data, method)
        # With few images, AUCs are often equal; the later weights are kept then, because they were
        # trained longer.
        return (BestWeights(AUC, score, self.run_folder.best, describe, keeps_later=True),)

    def checkpoint(self, data: RegionData, method: Method) -> Checkpoint:
        """Checkpoint of the weights with the best validation score or, without validation, of the
        last weights.
        """
        if not data.held:
            return self._describe(data, method, self.config.schedule.steps, {})
        return self.best(partial(self._describe, data, method))

    def finish(self, data: RegionData, method: Method, log: Log) -> None:
        """Print the scores of the weights in the checkpoint."""
        meta = load_checkpoint(self.result).meta
        for name, value in meta["scores"].items():
            log(f"{self.name}: {name} {value:.3f} at step {meta['step']}")
        for warning in painting_warnings(self.config.name, meta["scores"]):
            log(f"{self.name}: {warning}")

    def _describe(
        self, data: RegionData, method: Method, step: int, scores: dict[str, float]
    ) -> Checkpoint:
        config = self.config
        learnt, held = ({image.patient for image in images} for images in (data.images, data.held))
        metrics = {**config.metrics, **slide_metrics(config.tiles), **scores}
        model = RegionModel(**{**config.select(RegionModel), "metrics": metrics})
        meta: dict[str, Any] = {
            **describe_backbone(config, config.window_px, config.mpp, data.reference),
            **self.seen.extend((image.name for image in data.images), learnt, held),
            "step": step,
            "scores": scores,
        }
        return region_checkpoint(method.trained(), model, meta)


class TeacherStage(RegionStage):
    """Trains on labels only."""

    def build(self, data: RegionData) -> TeacherTraining:
        """Build the network."""
        return TeacherTraining(self.new_network(), self.config.teacher)


class StudentStage(RegionStage):
    """Trains a new network on the maps of the teacher of the previous stage."""

    def build(self, data: RegionData) -> StudentTraining:
        """Return the training of the student on the teacher's maps."""
        path, teacher = self.config.previous, self.new_network()
        checkpoint = load_checkpoint(path)
        load_weights(teacher.backbone, checkpoint.backbone, path, always_resample=False)
        teacher.sides.load_state_dict(checkpoint.head)
        return StudentTraining(self.new_network(), teacher, self.config.student)

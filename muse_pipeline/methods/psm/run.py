"""PSM as a run, from unlabelled tissue to a detector.

"Exploring Unsupervised Cell Recognition with Prior Self-activation Maps", arXiv 2308.11144.
``docs/guide/label-free.md`` lists the differences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from muse_pipeline.inference.card import NucleusClass
from muse_pipeline.methods.detector.config import DetectorConfig
from muse_pipeline.methods.detector.run import DetectorStage
from muse_pipeline.methods.psm.activation import ActivationConfig, ActivationStage
from muse_pipeline.methods.psm.config import PsmConfig
from muse_pipeline.methods.psm.labels import CLASS, FoundLabelsStage, LabelsStage, MasksStage, label_source
from muse_pipeline.training.recipe import RECIPES, Recipe
from muse_pipeline.training.stages import Stage, stage_folder

COLOUR = (128, 64, 192)


@RECIPES.register("psm")
class PsmRecipe(Recipe):
    """Masks, labels, a detector, and further detectors that are trained on the detections of the one before."""

    Config = PsmConfig
    ends_in_model = True

    def stages(self, config: PsmConfig, folder: Path) -> Sequence[Stage]:
        """The stages of the config's settings."""
        stages: list[Stage] = []

        def add(name: str, make: Callable[[Path], Stage]) -> Path:
            stages.append(make(stage_folder(folder, len(stages) + 1, name)))
            return stages[-1].result

        activation = None
        if config.masks == "activation":
            settings = activation_config(config)
            activation = add("activation", lambda where: ActivationStage(settings, where, "activation"))
        masks = add("masks", lambda where: MasksStage(config, activation, where))
        labels = add("labels", lambda where: LabelsStage(config, masks, where))
        detector = add("detector", lambda where: DetectorStage(detector_config(config, labels), where, "detector"))
        for number in range(1, config.self_training.rounds + 1):
            finder = detector_config(config, labels)
            finder = replace(finder, export=replace(finder.export, threshold=config.self_training.threshold))
            name, found = f"found-labels-{number}", (finder, detector, labels)
            labels = add(name, lambda where, n=name, f=found: FoundLabelsStage(*f, where, n))
            name, settings = f"self-training-{number}", detector_config(config, labels)
            detector = add(name, lambda where, n=name, s=settings: DetectorStage(s, where, n))
        return stages


def activation_config(config: PsmConfig) -> ActivationConfig:
    """The settings of the activation stage."""
    return ActivationConfig(**vars(config.activation), sources=config.sources, mpp=config.mpp, seed=config.seed)


def detector_config(config: PsmConfig, labels: Path) -> DetectorConfig:
    """The settings of a detector of one class on a folder of labels (``labels``)."""
    return DetectorConfig(
        **vars(config.detector),
        name=config.name,
        mpp=config.mpp,
        classes=(NucleusClass(CLASS, COLOUR),),
        sources=(label_source(labels, config.mpp),),
        licence=config.licence,
        training_data=config.training_data,
        limits=config.limits,
        seed=config.seed,
        metrics=config.metrics,
    )

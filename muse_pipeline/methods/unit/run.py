"""The UNITPathSSL run: masks, translation between masks and tissue, and a second stage with a new
reader.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from muse_pipeline.cohort.patients import patient_in_name
from muse_pipeline.core.errors import ConfigError
from muse_pipeline.core.files import sha256_of
from muse_pipeline.core.text import count_noun
from muse_pipeline.inference.stains import reference_stains
from muse_pipeline.methods.detector.stage import describe_detector
from muse_pipeline.methods.unit.config import (
    THRESHOLD,
    UnitConfig,
    UnitStageConfig,
    detector_config,
    require_sound_translation,
    stage_config,
)
from muse_pipeline.methods.unit.data import (
    SynthesisStage,
    UnitBatch,
    UnitData,
    read_unit_data,
)
from muse_pipeline.methods.unit.method import UnitTraining
from muse_pipeline.methods.unit.monitors import (
    MEASURE,
    SnapshotScorer,
    TranslationAlarm,
    TranslationPictures,
)
from muse_pipeline.methods.unit.rendering import RendererSettings
from muse_pipeline.methods.unit.synthesis_folder import find_mask_settings
from muse_pipeline.training.checkpoint import Checkpoint, load_checkpoint, steps_done
from muse_pipeline.training.loop import BestWeights, Monitor
from muse_pipeline.training.recipe import (
    CARD,
    RECIPES,
    Recipe,
    Stage,
    StageList,
    TrainingStage,
    describe_model_run,
)
from muse_pipeline.training.run import Inputs, Log, plain_settings

TRANSLATION, READER = "translation", "reader"


@RECIPES.register("unit")
class UnitRecipe(Recipe):
    """Synthesises masks, unless a folder of masks is given, and trains in two stages, the second
    with a new reader.
    """

    Config = UnitConfig

    def describe(self, config: UnitConfig) -> dict[str, Any]:
        """Describe the run for the workflow, which uses its own slides if there are no
        ``sources``.
        """
        require_sound_translation(config)
        return {**describe_model_run(config), "trains_on_slides": not config.sources}

    def stages(self, config: UnitConfig, folder: Path) -> Sequence[Stage]:
        """Return the stages; settings and sources are checked here, before masks are
        synthesised.
        """
        require_sound_translation(config)
        if not config.sources:
            raise ConfigError(
                "sources: the list is empty; name folders of H&E pictures (`images`) or stores"
                " (`store`)"
            )
        stages, masks = StageList(folder), config.masks
        if masks is None:
            masks = stages.add(SynthesisStage, "masks", config)
        first = stages.add(UnitStage, TRANSLATION, stage_config(config, masks, None))
        stages.add(UnitStage, READER, stage_config(config, masks, first))
        return stages


class UnitStage(TrainingStage[UnitStageConfig, UnitData]):
    """Trains the generator, the reader and both discriminators."""

    def check(self) -> None:
        """Reject wrong settings (``config.require_sound_translation``)."""
        require_sound_translation(self.config)

    def inputs(self) -> Inputs:
        """Tissue, masks, the checkpoint of the previous stage, and the checkpoint with the initial
        backbone.
        """
        return Inputs.of(self.config, masks=sha256_of(find_mask_settings(self.config.masks)))

    def free_settings(self) -> tuple[str, ...]:
        """Settings of the card and, after the last step, of the export, which affect the choice of
        the snapshot.
        """
        has_ended = steps_done(self.run_folder.resume) == self.config.schedule.steps
        return (*CARD, "export") if has_ended else CARD

    def read(self, log: Log) -> UnitData:
        """Read masks and tissue (``data.read_unit_data``)."""
        return read_unit_data(self.config, self.config.masks)

    def build(self, data: UnitData) -> UnitTraining:
        """Build the networks; the second stage continues the first stage's generator and
        discriminator of tissue.
        """
        config = self.config
        method = UnitTraining(config, data.palette, reference_stains(data.reference))
        self.begin_with(method.reader.backbone)
        if config.previous is not None:
            begun = load_checkpoint(config.previous).networks
            method.generator.load_state_dict(begun["generator"])
            method.picture_discriminator.load_state_dict(begun["discriminator"])
            method.prior_falls = False
        return method

    def batches(self, data: UnitData, device: torch.device) -> Callable[[int], UnitBatch]:
        """Batches of windows of both domains."""
        return data.make_batches(self.config, device)

    def describe(self, data: UnitData, log: Log) -> None:
        """Print a summary of the training data, and save pictures of tissue for checking the
        export.
        """
        data.keep_pictures(self.run_folder)
        masks = count_noun(len(data.masks), "mask")
        images = count_noun(len(data.images), "image")
        log(f"{self.name}: {self.config.reader.backbone} on {masks} and {images} of tissue")

    def monitors(self, data: UnitData, method: UnitTraining) -> Sequence[Monitor]:
        """An alarm for collapse, pictures of both cycles, and scores that choose the snapshot."""
        config = self.config
        batch = data.make_batches(config, torch.device("cpu"))
        score = SnapshotScorer(method, batch, config).score
        describe = partial(self._describe, data, method)
        return (
            TranslationAlarm(config.schedule, self.folder),
            TranslationPictures(method, batch, self.folder / TRANSLATION),
            # The measure is 0 until the reader finds nuclei in tissue; until then the latest
            # snapshot is kept.
            BestWeights(MEASURE, score, self.run_folder.best, describe, keeps_later=True),
        )

    def checkpoint(self, data: UnitData, method: UnitTraining) -> Checkpoint:
        """The checkpoint of the snapshot with the best measure (``monitors.MEASURE``)."""
        return self.best(partial(self._describe, data, method))

    def finish(self, data: UnitData, method: UnitTraining, log: Log) -> None:
        """Print the step of the chosen snapshot."""
        meta = load_checkpoint(self.result).meta
        scores = ", ".join(
            f"{name.removeprefix('validation ')} {value:.2f}"
            for name, value in meta["scores"].items()
        )
        log(f"{self.name}: weights of step {meta['step']} ({scores})")

    def _describe(
        self, data: UnitData, method: UnitTraining, step: int, scores: dict[str, float]
    ) -> Checkpoint:
        """A checkpoint with the reader as a detector, the generator, and the networks that the next
        stage needs.
        """
        config, detector = self.config, method.trained()
        meta = {
            **describe_detector(detector_config(config, scores[THRESHOLD]), data.reference),
            "renderer": plain_settings(RendererSettings(config.generator, config.tissue)),
            **self.seen.extend(data.names, map(patient_in_name, data.names)),
            "step": step,
            "scores": scores,
        }
        networks = {
            "generator": method.generator,
            "discriminator": method.picture_discriminator,
            "translation": method.reader.translation,
        }
        states = {name: network.state_dict() for name, network in networks.items()}
        return Checkpoint(detector.backbone.state_dict(), detector.head.state_dict(), meta, states)

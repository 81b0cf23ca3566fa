"""PSM from unlabelled tissue to a detector: six stages, each in its own folder, each made once.

"Exploring Unsupervised Cell Recognition with Prior Self-activation Maps", arXiv 2308.11144. What differs from it is in
``docs/psm.md``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from muse_pipeline.core.errors import ConfigError
from muse_pipeline.core.files import sha256_of
from muse_pipeline.inference.card import NucleusClass
from muse_pipeline.training.checkpoint import load_checkpoint
from muse_pipeline.training.finetune import finetune
from muse_pipeline.training.finetune_config import FinetuneConfig
from muse_pipeline.training.provenance import describe_run
from muse_pipeline.training.psm.activation import ActivationConfig, train_activation
from muse_pipeline.training.psm.config import PsmConfig
from muse_pipeline.training.psm.labels import CLASS, label_source, write_labels
from muse_pipeline.training.psm.mask_network import MaskNetworkStage
from muse_pipeline.training.psm.masks import write_masks
from muse_pipeline.training.psm.self_training import write_found_labels
from muse_pipeline.training.psm.stage import MADE_FROM, STAGES, Watch, is_made, stage_folder, unwatched
from muse_pipeline.training.run_folder import plain_settings
from muse_pipeline.training.running import Running

COLOUR = (128, 64, 192)


@dataclass(frozen=True)
class PsmRun:
    """One run.

    Attributes:
        config: of the run.
        folder: of the run; each stage has one inside.
        running: how it computes and who is told of stages; stages that were made from something else are made again
            where it says to start over.
        watch: number of steps -> context that gives (say, progress) of one training.
    """

    config: PsmConfig
    folder: Path
    running: Running
    watch: Watch = unwatched

    def run(self, until: str = STAGES[-1]) -> Path:
        """Make what is missing, up to a stage.

        Returns:
            What that stage leaves: a checkpoint, or the folder of masks or labels.

        Raises:
            CheckpointError: a stage was made from something else.
            MuseError: a source or a setting cannot be used, or the run has no such stage.
        """
        if until == "activation" != self.config.masks:
            raise ConfigError(
                f"--until activation: masks are '{self.config.masks}' here, which need no such stage; set `masks: "
                "activation`, or leave --until out"
            )
        made: dict[str, Path | None] = {}
        for stage in STAGES[: STAGES.index(until) + 1]:
            made[stage] = getattr(self, f"_make_{stage}")(made)
        return made[until] or self.folder

    def _make_activation(self, made: dict[str, Path | None]) -> Path | None:
        config, settings = self.config, self.config.activation
        if config.masks != "activation":
            return None
        stage = ActivationConfig(**vars(settings), sources=config.sources, mpp=config.mpp, seed=config.seed)
        folder = self.folder / "activation"
        with self._watched(settings.schedule.steps) as running:
            return train_activation(stage, folder, running)

    def _make_masks(self, made: dict[str, Path | None]) -> Path:
        config, folder = self.config, self.folder / "masks"
        settings = plain_settings(config, portable=True)
        names = ("mpp", "masks", "mask_settings", "windows_per_store", "store_window_px")
        made_from = {
            **{name: settings[name] for name in names},
            "tissue": describe_run({}, config.sources)["labels"],
            "activation": made["activation"] and sha256_of(made["activation"]),
        }
        if not is_made(folder, made_from, self.running.start_over):
            with stage_folder(folder, made_from) as partial:
                write_masks(config, made["activation"], partial, self.running.say)
        return folder

    def _make_mask_network(self, made: dict[str, Path | None]) -> Path | None:
        stage = MaskNetworkStage(self.config, made["masks"], self.running, self.watch)
        return stage.train(self.folder / "mask_network")

    def _make_labels(self, made: dict[str, Path | None]) -> Path:
        network, folder = made["mask_network"], self.folder / "labels"
        made_from = {
            "labels": plain_settings(self.config.labels),
            "masks": sha256_of(made["masks"] / MADE_FROM),
            "mask_network": network and sha256_of(network),
        }
        if not is_made(folder, made_from, self.running.start_over):
            with stage_folder(folder, made_from) as partial:
                write_labels(self.config, made["masks"], network, partial, self.running.say)
        return folder

    def _make_detector(self, made: dict[str, Path | None]) -> Path:
        return self._train_detector(made["labels"], self.folder / "detector")

    def _make_self_training(self, made: dict[str, Path | None]) -> Path:
        settings, labels, last = self.config.self_training, made["labels"], made["detector"]
        for number in range(1, settings.rounds + 1):
            folder = self.folder / "self_training" / f"round-{number}"
            finder = detector_config(self.config, labels)
            finder = replace(finder, export=replace(finder.export, threshold=settings.threshold))
            made_from = {"threshold": settings.threshold, "detector": load_checkpoint(last).weights_sha256()}
            if not is_made(folder / "labels", made_from, self.running.start_over):
                with stage_folder(folder / "labels", made_from) as partial:
                    write_found_labels(last, finder, labels, partial, self.running.say)
            labels = folder / "labels"
            last = self._train_detector(labels, folder / "detector")
        return last

    def _train_detector(self, labels: Path, folder: Path) -> Path:
        config = detector_config(self.config, labels)
        with self._watched(config.schedule.steps) as running:
            return finetune(config, folder, running)

    @contextmanager
    def _watched(self, steps: int) -> Iterator[Running]:
        """How one training computes, and whom it tells."""
        with self.watch(steps) as (say, progress):
            yield replace(self.running, devices=1, say=say, progress=progress)


def detector_config(config: PsmConfig, labels: Path) -> FinetuneConfig:
    """The fine-tuning run of one class on a folder of labels, see ``psm.labels``."""
    settings = config.detector
    return FinetuneConfig(
        name=config.name,
        backbone=settings.backbone,
        mpp=config.mpp,
        classes=(NucleusClass(CLASS, COLOUR),),
        sources=(label_source(labels, config.mpp),),
        schedule=settings.schedule,
        licence=config.licence,
        training_data=config.training_data,
        limits=config.limits,
        head=settings.head,
        n_rays=settings.n_rays,
        colour=settings.colour,
        window_px=settings.window_px,
        batch=settings.batch,
        seed=config.seed,
        precision=settings.precision,
        augmentation=settings.augmentation,
        export=settings.export,
        metrics=config.metrics,
    )

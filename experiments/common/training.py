"""Runs of one stage by their settings, as `muse finetune` and `muse pretrain` begin them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from muse_pipeline.methods.detector.config import DetectorConfig
from muse_pipeline.methods.detector.run import DetectorStage
from muse_pipeline.methods.muse.config import MuseConfig, require_sound
from muse_pipeline.methods.muse.run import MuseStage
from muse_pipeline.training.recipe import load_run
from muse_pipeline.training.run import Options


def finetune(config: DetectorConfig, folder: Path, options: Options) -> Path:
    """Train a detector, or continue; returns its checkpoint and raises as ``stages.TrainingStage.run`` does."""
    return DetectorStage(config, folder).run(options)


def load_muse_config(path: Path, data: Path | None = None, changes: Iterable[str] = ()) -> MuseConfig:
    """Read the settings of a config file, and check them (``recipe.load_run``)."""
    config = load_run(path, data, changes, default="muse", only=MuseConfig)[1]
    require_sound(config)
    return config


def pretrain(config: MuseConfig, folder: Path, options: Options) -> Path:
    """Pretrain a backbone, or continue; returns its checkpoint and raises as ``stages.TrainingStage.run`` does."""
    return MuseStage(config, folder).run(options)

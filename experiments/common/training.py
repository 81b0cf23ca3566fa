"""Training runs of a single stage, started from their settings as by `muse finetune` and `muse pretrain`."""

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
    """Train a detector, or resume, and return its checkpoint; raises the errors of ``stages.TrainingStage.run``."""
    return DetectorStage(config, folder).run(options)


def load_muse_config(path: Path, data: Path | None = None, changes: Iterable[str] = ()) -> MuseConfig:
    """Read the settings of a config file by ``recipe.load_run``, and check them."""
    config = load_run(path, data, changes, default="muse", only=MuseConfig)[1]
    require_sound(config)
    return config


def pretrain(config: MuseConfig, folder: Path, options: Options) -> Path:
    """Pretrain a backbone, or resume, and return its checkpoint; raises the errors of ``stages.TrainingStage.run``."""
    return MuseStage(config, folder).run(options)

"""Single stages that are run from their settings, and a control of MUSE's views."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from muse_pipeline.data.views import ViewBatch
from muse_pipeline.methods.detector.config import DetectorConfig, require_windows
from muse_pipeline.methods.detector.run import DetectorStage
from muse_pipeline.methods.muse.config import MuseConfig
from muse_pipeline.methods.muse.run import MuseStage
from muse_pipeline.training.recipe import load_run
from muse_pipeline.training.run import Options


def finetune(config: DetectorConfig, folder: Path, options: Options) -> Path:
    """Train a detector, or resume its training, and return the checkpoint."""
    return DetectorStage(config, folder).run(options)


def load_muse_config(
    path: Path, data: Path | None = None, changes: Iterable[str] = ()
) -> MuseConfig:
    """Read and check the settings of a config file for MUSE."""
    config = load_run(path, data, changes, default="muse", only=MuseConfig)[1]
    require_windows(config.backbone, *config.sides_px)
    return config


def pretrain(config: MuseConfig, folder: Path, options: Options) -> Path:
    """Pretrain a backbone, or resume its training, and return the checkpoint."""
    return MuseStage(config, folder).run(options)


def shuffle_identities(batch: ViewBatch, seed: int) -> ViewBatch:
    """The batch, with the positions of shared nuclei of every pair of views permuted in the
    student's view.
    """
    generator = torch.Generator().manual_seed(seed)
    student_xy = batch.student_xy.clone()
    for pair, number in np.ndindex(*batch.shared.shape[:2]):
        shared = batch.shared[pair, number].nonzero()[:, 0]
        order = torch.randperm(len(shared), generator=generator).to(shared.device)
        student_xy[pair, number, shared] = batch.student_xy[pair, number, shared[order]]
    return batch._replace(student_xy=student_xy)

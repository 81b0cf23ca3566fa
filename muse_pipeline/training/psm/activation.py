"""From unlabelled tissue to an activation network: PSM's first stage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from muse_pipeline.core.config import require_between
from muse_pipeline.core.errors import ConfigError
from muse_pipeline.data.stream import MAX_SEED
from muse_pipeline.data.unlabelled import UnlabelledSource, UnlabelledWindows, open_unlabelled
from muse_pipeline.methods import TASKS
from muse_pipeline.methods.psm_activation import PriorSelfActivation
from muse_pipeline.models.activation import KIND, ActivationNetwork
from muse_pipeline.training.checkpoint import Checkpoint, save_checkpoint
from muse_pipeline.training.devices import open_fabric
from muse_pipeline.training.loop import train
from muse_pipeline.training.provenance import describe_run
from muse_pipeline.training.psm.config import ActivationSettings
from muse_pipeline.training.run_folder import RunFolder, plain_settings
from muse_pipeline.training.running import Running


@dataclass(frozen=True, kw_only=True)
class ActivationConfig(ActivationSettings):
    """A run of the first stage.

    Attributes:
        sources: unlabelled tissue.
        mpp: um per pixel the network works at.
        seed: of weights and windows.
    """

    sources: tuple[UnlabelledSource, ...]
    mpp: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_between(self, "", mpp=(0.01, 100), seed=(0, MAX_SEED))


def train_activation(config: ActivationConfig, folder: Path, running: Running) -> Path:
    """Train and write ``checkpoint.pt``, which ``models.activation.load_activation`` reads; what is there stays.

    Args:
        config: of the run.
        folder: of the run; one that was stopped goes on there.
        running: how it computes and whom it tells.

    Raises:
        CheckpointError: the folder holds a run of another config.
        ConfigError: a name is not registered, the windows do not suit the network, or there is no tissue.
        DivergedError: the loss is no longer a number.
    """
    torch.manual_seed(config.seed)
    network = ActivationNetwork(config.backbone, TASKS[config.task].n_outputs)
    if config.window_px % (stride := network.backbone.stride_px):
        raise ConfigError(f"window_px {config.window_px} does not suit {config.backbone}; give a multiple of {stride}")
    run = RunFolder(Path(folder))
    provenance = describe_run(plain_settings(config, portable=True), config.sources)
    run.begin(config, provenance, (), running)
    torch.set_num_threads(running.threads)
    images = open_unlabelled(config.sources, config.mpp)
    method = PriorSelfActivation(network, config.task)
    fabric = open_fabric(running.accelerator, 1, "32-true")
    run.describe(config, provenance)
    running.say(f"{config.backbone} on the task '{config.task}', {len(images)} images, no label")
    windows = UnlabelledWindows(images, config.window_px, config.batch, config.seed, fabric.device)
    train(method, windows, config.schedule, run, fabric, seed=config.seed, progress=running.progress)
    save_activation(run.checkpoint, method.trained(), config)
    return run.checkpoint


def save_activation(path: Path, network: ActivationNetwork, config: ActivationConfig) -> None:
    """Write a checkpoint in the layout of all others."""
    meta = {
        "kind": KIND,
        "backbone": config.backbone,
        "mpp": config.mpp,
        "window_px": config.window_px,
        "config": plain_settings(config, portable=True),
        "colour": None,
    }
    save_checkpoint(path, Checkpoint(network.backbone.state_dict(), network.head.state_dict(), meta))

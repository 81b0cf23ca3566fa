"""From tissue without labels to a backbone: what ``muse pretrain CONFIG`` does."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch

from muse_pipeline.core.text import count_noun
from muse_pipeline.data.stream import Prefetched
from muse_pipeline.data.views import ViewBatches
from muse_pipeline.inference.model import find_checkpoint
from muse_pipeline.methods.muse import MusePretraining
from muse_pipeline.models import BACKBONES
from muse_pipeline.tissue.stain import ROUNDED_TEXTBOOK
from muse_pipeline.training.checkpoint import Checkpoint, save_checkpoint
from muse_pipeline.training.devices import open_fabric, share_batch_norms
from muse_pipeline.training.loop import train
from muse_pipeline.training.pretrain_config import PretrainConfig
from muse_pipeline.training.pretrain_health import CollapseAlarm
from muse_pipeline.training.pretrain_images import PretrainData, read_pretrain_data, require_apart
from muse_pipeline.training.pretrain_pictures import draw_views
from muse_pipeline.training.provenance import describe_run
from muse_pipeline.training.run_folder import RunFolder, plain_settings
from muse_pipeline.training.running import Running
from muse_pipeline.training.start import Seen, load_backbone, seen_before

INDEX = "nuclei"


def pretrain(config: PretrainConfig, folder: Path, running: Running) -> Path:
    """Train and write ``checkpoint.pt``, a backbone; settings, provenance and health lie beside it (``run_folder``).

    Args:
        config: of the run.
        folder: of the run; one that was stopped goes on there.
        running: how it computes and whom it tells.

    Raises:
        CheckpointError: the folder holds a run of another config, or the checkpoint to start from does not fit.
        CollapsedError: the backbone says the same of everything.
        DivergedError: a loss is no longer a number.
        MuseError: a source cannot be used, see ``pretrain_images``.
        ProviderError: the devices are not there.
    """
    run = RunFolder(Path(folder))
    begins_with = find_checkpoint(config.checkpoint) if config.checkpoint else None
    read = tuple(source.labelled or source for source in config.sources)
    provenance = describe_run(plain_settings(config, portable=True), read, begins_with)
    run.begin(config, provenance, ("name",), running)
    torch.set_num_threads(running.threads)
    method, origin = _build_method(config)
    seen = seen_before([begins_with] if begins_with else [], config.trust_pickle)
    left_out: list[str] = []
    data = read_pretrain_data(config.sources, config.views.mpp[0], config.min_nuclei, run.path / INDEX, left_out.append)
    require_apart([*data.patients, *seen.patients], config.held)
    # All that a user may have got wrong is known by now: from here on there may be several processes.
    fabric = open_fabric(running.accelerator, running.devices, config.precision)
    method = share_batch_norms(method, fabric.world_size, fabric.device)
    batches = make_batches(config, data, fabric.device)
    if fabric.is_global_zero:
        run.describe(config, provenance)
        for sentence in left_out:
            running.say(sentence)
        if run.checkpoint.is_file() or run.resume.is_file():
            origin += " in a run that goes on"
        images = f"{count_noun(len(data.images), 'image')} of {count_noun(len(data.patients), 'patient')}"
        running.say(f"{config.backbone} from {origin}, on {images}")
        draw_views(batches.sample, config.seed, run.path / "views.png")
    alarm = CollapseAlarm(config.schedule, run)
    with Prefetched(batches, fabric.world_size, running.loaders) as stream:
        train(method, stream, config.schedule, run, fabric, seed=config.seed, progress=running.progress, check=alarm)
    if fabric.is_global_zero:
        state = method.trained().state_dict()
        save_checkpoint(run.checkpoint, Checkpoint(state, {}, _describe(config, data, seen)))
    return run.checkpoint


def make_batches(config: PretrainConfig, data: PretrainData, device: torch.device) -> ViewBatches:
    """The stream of views of a run."""
    return ViewBatches(
        data.images,
        data.colours,
        np.array(data.reference.stains or ROUNDED_TEXTBOOK),
        settings=config.views,
        batch=config.batch,
        augmentation=config.augmentation,
        seed=config.seed,
        device=device,
        balance=config.balance,
        grey=config.grey,
    )


def _build_method(config: PretrainConfig) -> tuple[MusePretraining, str]:
    """What is trained, from the weights that the config names, and these in words."""
    torch.manual_seed(config.seed)
    backbone = BACKBONES[config.backbone]().to(memory_format=torch.channels_last)
    origin = "random weights"
    if config.checkpoint is not None:
        path = find_checkpoint(config.checkpoint)
        load_backbone(backbone, path, config.trust_pickle)
        origin = path.name
    return MusePretraining(backbone, config.distillation, config.views.n_local, config.middle_mpp), origin


def _describe(config: PretrainConfig, data: PretrainData, seen: Seen) -> dict[str, Any]:
    return {
        "kind": "backbone",
        "backbone": config.backbone,
        "window_px": config.views.global_px,
        "mpp": config.middle_mpp,
        "resample_positions": False,  # the table is as trained
        "config": plain_settings(config, portable=True),
        "colour": dataclasses.asdict(data.reference),
        "images": sorted({image.name for image in data.images} | seen.images),
        "patients": sorted({*data.patients} | seen.patients),
        "learnt_patients": sorted({*data.patients} | seen.learnt_patients),
        "step": config.schedule.steps,
    }

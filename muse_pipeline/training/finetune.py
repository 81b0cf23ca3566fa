"""From labelled images to a detector: what ``muse finetune CONFIG`` does."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from muse_pipeline.core.text import some_of
from muse_pipeline.inference.appearance import merge_references
from muse_pipeline.labels.statistics import appearance_reference, class_weights
from muse_pipeline.methods import METHODS
from muse_pipeline.methods.base import Method
from muse_pipeline.methods.distillation import DistillationTerm
from muse_pipeline.models.detector import NucleusDetector
from muse_pipeline.training.checkpoint import Checkpoint, load_checkpoint, load_detector_weights, save_checkpoint
from muse_pipeline.training.devices import open_fabric
from muse_pipeline.training.export_window import require_windows
from muse_pipeline.training.finetune_config import CARD_ONLY, UNSCORED, FinetuneConfig, require_known_names
from muse_pipeline.training.finetune_data import FinetuneData, read_finetune_data
from muse_pipeline.training.kept_pictures import keep_pictures
from muse_pipeline.training.loop import train
from muse_pipeline.training.provenance import describe_run
from muse_pipeline.training.resume import steps_done
from muse_pipeline.training.run_folder import RunFolder, plain_settings
from muse_pipeline.training.running import Running
from muse_pipeline.training.start import Seen, Start, find_teachers, load_teacher, read_start, seen_before, take_over
from muse_pipeline.training.tuning import compare_with_start
from muse_pipeline.training.validation import Validation


def finetune(config: FinetuneConfig, folder: Path, running: Running) -> Path:
    """Train and write ``checkpoint.pt``; settings, provenance and metrics lie beside it (``run_folder``).

    Args:
        config: of the run.
        folder: of the run; one that was stopped goes on there.
        running: how it computes and whom it tells.

    Raises:
        CheckpointError: the folder holds a run of another config, or the checkpoint to start from does not fit.
        ConfigError: a name in the config is not registered, or a class has no nucleus.
        DivergedError: a loss is no longer a number.
        LabelError: a label file is missing or broken, or a patient is in training and in validation.
        ProviderError: the devices are not there.
    """
    require_known_names(config)
    require_windows(config)  # now, not when the training is done
    run = RunFolder(Path(folder))
    start = read_start(config)
    begins_with = start and start.path
    sources = (*config.sources, *config.validation)
    taught_by = find_teachers(config)
    teachers = [load_teacher(path, config) for path in taught_by]
    provenance = describe_run(plain_settings(config, portable=True), sources, begins_with, taught_by)
    run.begin(config, provenance, _free_settings(config, run), running)
    torch.set_num_threads(running.threads)
    data = read_finetune_data(config, start)
    method, origin = _build_method(data, start, teachers)
    # All that a user may have got wrong is known by now: from here on there may be several processes.
    fabric = open_fabric(running.accelerator, running.devices, config.precision)
    seen = seen_before([*([begins_with] if begins_with else []), *taught_by], config.trust_pickle)
    meta = _describe(data, start, seen)

    def keep(step: int, scores: dict[str, float]) -> None:
        save_checkpoint(run.best, _trained(method, {**meta, "step": step, "scores": scores}))

    validate = Validation(method.trained(), data, keep) if data.held else None
    if fabric.is_global_zero:
        run.describe(config, provenance)
        keep_pictures(data.images, run.pictures)
        data.tell(run, running.say)
        running.say(f"{config.backbone} with a {config.head} head, from {origin}")
        if shared := sorted(seen.learnt_patients & {image.patient for image in data.held}):
            running.say(f"its validation flatters: what it begins with, or is taught by, learnt from {some_of(shared)}")
    windows = data.make_windows(fabric.device)
    train(
        method,
        windows,
        config.schedule,
        run,
        fabric,
        seed=config.seed,
        backbone_rate=config.backbone_rate,
        validate=validate,
        progress=running.progress,
    )
    if fabric.is_global_zero:
        leaves = _trained(method, {**meta, "step": config.schedule.steps})
        if validate:
            best = load_checkpoint(run.best)
            leaves = dataclasses.replace(best, meta={**best.meta, **meta})  # what the card says may have changed since
        save_checkpoint(run.checkpoint, leaves)
        if start and start.is_whole:
            load_detector_weights(method.trained(), leaves, run.checkpoint)
            for sentence in compare_with_start(data, start, method.trained()):
                running.say(sentence)
    return run.checkpoint


def _free_settings(config: FinetuneConfig, run: RunFolder) -> tuple[str, ...]:
    """What may change in the folder of a begun run; nothing that its scores depend on before its best is chosen."""
    if not config.validation or steps_done(run.resume) == config.schedule.steps:
        return CARD_ONLY
    return (*(name for name in CARD_ONLY if name != "export"), *UNSCORED)


def _build_method(data: FinetuneData, start: Start | None, teachers: list[NucleusDetector]) -> tuple[Method, str]:
    """What is trained, from the weights that the config names, and these in words."""
    config = data.config
    torch.manual_seed(config.seed)
    network = NucleusDetector(config.backbone, config.head, len(config.classes), config.n_rays)
    network.to(memory_format=torch.channels_last)  # a third less time per step on a CPU
    origin = take_over(network, start) if start else "random weights"
    weights = class_weights(data.images, len(config.classes))
    distillation = None
    if teachers:
        distillation = DistillationTerm(config.distillation.share, teachers, config.distillation.where)
        distillation.to(memory_format=torch.channels_last)
        origin += f", taught by {len(teachers)} trained before"
    method = METHODS[config.method](network, config.head, config.mpp, weights, config.consistency, distillation)
    return method, origin


def _describe(data: FinetuneData, start: Start | None, seen: Seen) -> dict[str, Any]:
    config = data.config
    appearance = appearance_reference(data.images, config.mpp)
    if start and start.is_whole:
        appearance = merge_references(start.appearance, appearance)
    learnt, held = ({image.patient for image in images} for images in (data.images, data.held))
    return {
        "kind": "detector",
        "backbone": config.backbone,
        "window_px": config.window_px,
        "mpp": config.mpp,
        "resample_positions": False,  # the table is as trained
        "config": plain_settings(config, portable=True),
        "colour": dataclasses.asdict(data.reference),
        "appearance": appearance and dataclasses.asdict(appearance),
        "images": sorted({image.name for image in data.images} | seen.images),
        "patients": sorted(learnt | held | seen.patients),  # the held ones choose weights
        "learnt_patients": sorted(learnt | seen.learnt_patients),
    }


def _trained(method: Method, meta: dict[str, Any]) -> Checkpoint:
    network = method.trained()
    return Checkpoint(network.backbone.state_dict(), network.head.state_dict(), meta)

"""Stages of a run: trainings that end in a checkpoint, and files that are prepared once.

A stage owns a folder. Running a stage again continues where it stopped, returns at once if it is finished, and rejects
a folder that was made from different inputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import torch

from muse_pipeline.core.errors import CheckpointError
from muse_pipeline.core.files import complete_file, find_json, require_own_folder, write_json
from muse_pipeline.data.augment import Prefetched
from muse_pipeline.training.checkpoint import Checkpoint, save_checkpoint, steps_done
from muse_pipeline.training.devices import is_first_process, open_fabric, share_batch_norms, wait_for_processes
from muse_pipeline.training.loop import Monitor, train
from muse_pipeline.training.method import Method
from muse_pipeline.training.run import Inputs, Log, Options, RunFolder, describe_run, plain_settings

if TYPE_CHECKING:
    from lightning_fabric import Fabric

C, D = TypeVar("C"), TypeVar("D")
STAGES = "stages"  # folder of the stages of a run that has several
MADE_FROM = "made-from.json"
DIVISION = ("schedule.accumulate",)  # can change with the number of devices, see ``checkpoint.load_resume_point``


def stage_folder(folder: Path, number: int, name: str) -> Path:
    """Folder of stage ``number`` of a run, counted from 1."""
    return folder / STAGES / f"{number}-{name}"


class Stage(ABC):
    """One step of a run.

    Args:
        folder: folder of the stage.
        name: name of the stage in messages.
    """

    def __init__(self, folder: Path, name: str):
        self.folder, self.name = Path(folder), name

    @property
    @abstractmethod
    def result(self) -> Path:
        """The file or folder that later stages read."""

    @abstractmethod
    def run(self, options: Options) -> Path:
        """Finish the stage and return its result."""


class TrainingStage(Stage, Generic[C, D]):
    """One training, from data to ``checkpoint.pt``: the parts that are the same for every method.

    Args:
        config: frozen dataclass with ``schedule``, ``seed`` and ``precision``.
        folder: folder of the stage.
        name: name of the stage in messages.

    Attributes:
        on_cpu: True if batches are made on the CPU and then moved to the device, False if they are made on the device.
    """

    on_cpu: ClassVar[bool] = False

    def __init__(self, config: C, folder: Path, name: str = "train"):
        super().__init__(folder, name)
        self.config, self.run_folder = config, RunFolder(Path(folder))

    @property
    def result(self) -> Path:
        """The checkpoint."""
        return self.run_folder.checkpoint

    def check(self) -> None:
        """Reject unusable settings, before any file is read."""

    @abstractmethod
    def inputs(self) -> Inputs:
        """Files that determine the result; a folder that contains a run with different files is rejected."""

    @abstractmethod
    def read(self, log: Log) -> D:
        """Read and check the data."""

    @abstractmethod
    def build(self, data: D) -> Method:
        """Build the networks and losses; random weights depend only on the seed."""

    @abstractmethod
    def batches(self, data: D, device: torch.device) -> Callable[[int], Any]:
        """A function that returns the batch with a given number on ``device``; the batch depends only on the number."""

    @abstractmethod
    def checkpoint(self, data: D, method: Method) -> Checkpoint:
        """The checkpoint of the finished training."""

    def free_settings(self) -> tuple[str, ...]:
        """Settings that may change when a run is continued; ``a.b`` is the setting ``b`` of ``a``."""
        return ("name",)

    def monitors(self, data: D, method: Method) -> Sequence[Monitor]:
        """Monitors of the run: validation, alarms, previews."""
        return ()

    def describe(self, data: D, log: Log) -> None:
        """Print a summary of the training data, and write pictures of it; called by the first process."""

    def finish(self, data: D, method: Method, log: Log) -> None:
        """Print the result; called by the first process once the checkpoint is written."""

    def run(self, options: Options) -> Path:
        """Train, or continue to train, and return the path of the checkpoint."""
        config, run = self.config, self.run_folder
        self.check()
        inputs = self.inputs()
        inputs.require_checkpoints()
        provenance = describe_run(plain_settings(config, portable=True), inputs)
        message = run.begin(config, provenance, (*self.free_settings(), *DIVISION), options.start_over)
        if run.is_finished(config):
            return run.checkpoint
        torch.set_num_threads(options.threads)
        if message:
            options.log(message)
        if done := steps_done(run.resume):
            options.log(f"continues after step {done:,} of {config.schedule.steps:,}")
        data = self.read(options.log)
        # Seeded after reading, which may use random numbers, so that initial weights depend only on the seed.
        torch.manual_seed(config.seed)
        method = self.build(data)
        # All mistakes of users are reported before this point, after which there may be several processes.
        fabric = open_fabric(options.accelerator, options.devices, config.precision, options.nodes)
        method = share_batch_norms(method, fabric.world_size, fabric.device)
        if fabric.is_global_zero:
            run.describe(config, provenance)
            self.describe(data, options.log)
        with self._stream(data, fabric, options) as batches:
            monitors = self.monitors(data, method)
            train(
                method,
                batches,
                config.schedule,
                run,
                fabric,
                seed=config.seed,
                monitors=monitors,
                progress=options.progress,
            )
        if fabric.is_global_zero:
            save_checkpoint(run.checkpoint, self.checkpoint(data, method))
            self.finish(data, method, options.log)
        fabric.barrier()  # the next stage of every process reads the checkpoint
        return run.checkpoint

    def _stream(self, data: D, fabric: Fabric, options: Options) -> Prefetched:
        loaders = options.loaders if options.loaders is not None else options.threads * (fabric.device.type == "cuda")
        batches = self.batches(data, torch.device("cpu") if self.on_cpu else fabric.device)
        if not self.on_cpu:
            return Prefetched(batches, fabric.world_size, loaders)
        return Prefetched(lambda number: fabric.to_device(batches(number)), fabric.world_size, loaders)


class PreparedStage(Stage):
    """A stage that writes files once, such as masks, labels or an index; its folder is complete or absent."""

    @property
    def result(self) -> Path:
        """The folder."""
        return self.folder

    @abstractmethod
    def made_from(self) -> dict[str, Any]:
        """Plain values that determine the contents of the stage: settings and checksums."""

    @abstractmethod
    def write(self, folder: Path, log: Log) -> None:
        """Write the stage into an empty folder."""

    def run(self, options: Options) -> Path:
        """Write the files in the first process, unless they exist, and return the result."""
        made_from = self.made_from()
        has_files = is_made(self.folder, made_from, options.start_over)
        wait_for_processes()  # so that all processes have looked before the folder is replaced
        if not has_files and is_first_process():
            torch.set_num_threads(options.threads)
            with complete_file(self.folder) as partial:
                partial.mkdir(parents=True)
                self.write(partial, options.log)
                write_json(partial / MADE_FROM, made_from)
        wait_for_processes()
        return self.result


def is_made(folder: Path, made_from: dict[str, Any], start_over: bool) -> bool:
    """True if ``folder`` exists and was made from the values ``made_from``.

    Args:
        folder: folder of a prepared stage.
        made_from: value of ``PreparedStage.made_from``.
        start_over: True to return False, instead of raising an error, if the folder was made from different inputs.
    """
    if not folder.is_dir():
        return False
    require_own_folder(folder, (folder / MADE_FROM).is_file())
    found = find_json(folder / MADE_FROM) or {}
    if found == made_from:
        return True
    if start_over:
        return False
    changed = sorted(name for name in found.keys() | made_from if found.get(name) != made_from.get(name))
    raise CheckpointError(
        f"{folder}: was made from different inputs ({', '.join(changed)} changed); choose another run folder, delete "
        "this one, or give --start-over"
    )

"""The registry of training methods, and their runs, which consist of stages.

A stage is a training that ends in a checkpoint, or files that are prepared once, and owns a folder.
Running it again continues where it stopped, returns at once if it is finished, and rejects a folder
that was made from different inputs.
"""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import torch

from muse_pipeline.cohort.lock import lock_results
from muse_pipeline.core.config import locate, parse_config, read_settings
from muse_pipeline.core.errors import CheckpointError, ConfigError
from muse_pipeline.core.files import complete_file, find_json, require_own_folder, write_json
from muse_pipeline.core.registry import Registry
from muse_pipeline.data.augment import Prefetched
from muse_pipeline.inference.model import checkpoint_from
from muse_pipeline.models.base import Backbone
from muse_pipeline.training.checkpoint import (
    Checkpoint,
    Seen,
    load_backbone,
    load_checkpoint,
    save_checkpoint,
    seen_before,
    steps_done,
)
from muse_pipeline.training.devices import (
    find_launcher,
    is_first_process,
    open_fabric,
    share_batch_norms,
    wait_for_processes,
)
from muse_pipeline.training.loop import Monitor, train
from muse_pipeline.training.method import Method
from muse_pipeline.training.run import Inputs, Log, Options, RunFolder, describe_run, plain_settings

if TYPE_CHECKING:
    from lightning_fabric import Fabric


C, D = TypeVar("C"), TypeVar("D")
STAGES = "stages"  # folder of the stages of a run that has several
MADE_FROM = "made-from.json"
# can change with the number of devices, see ``checkpoint.load_resume_point``
DIVISION = ("schedule.accumulate",)


def stage_folder(folder: Path, number: int, name: str) -> Path:
    """Folder of stage ``number`` of a run, counted from 1."""
    return folder / STAGES / f"{number}-{name}"


class Stage(ABC):
    """One step of a run, with a folder of its own, and a name for messages."""

    folder: Path
    name: str

    @property
    @abstractmethod
    def result(self) -> Path:
        """The file or folder that later stages read."""

    @abstractmethod
    def run(self, options: Options) -> Path:
        """Finish the stage and return its result."""


@dataclass
class TrainingStage(Stage, Generic[C, D]):
    """One training, from data to ``checkpoint.pt``: the parts that are the same for every method.

    ``config`` is a frozen dataclass with ``schedule``, ``seed`` and ``precision``.
    """

    # True if batches are made on the CPU, moved to the device and finished there; False if they are
    # made on the device
    on_cpu: ClassVar[bool] = False
    config: C
    folder: Path
    name: str = "train"

    def __post_init__(self) -> None:
        self.run_folder = RunFolder(self.folder)

    @property
    def result(self) -> Path:
        """The checkpoint."""
        return self.run_folder.checkpoint

    def check(self) -> None:
        """Reject unusable settings, before any file is read."""

    def inputs(self) -> Inputs:
        """Files that determine the result; a folder that contains a run with different files is
        rejected.
        """
        return Inputs.of(self.config)

    @cached_property
    def seen(self) -> Seen:
        """Training data of the initial weights and the teachers."""
        return seen_before(self.inputs().checkpoints, self._trusts_pickle)

    def begin_with(self, backbone: Backbone) -> None:
        """Load the initial weights, if the config names any, into a backbone."""
        if start := self.inputs().checkpoint:
            load_backbone(backbone, start, self._trusts_pickle)

    @property
    def _trusts_pickle(self) -> bool:
        return getattr(self.config, "trust_pickle", False)

    @abstractmethod
    def read(self, log: Log) -> D:
        """Read and check the data."""

    @abstractmethod
    def build(self, data: D) -> Method:
        """Build the networks and losses; random weights depend only on the seed."""

    @abstractmethod
    def batches(self, data: D, device: torch.device) -> Callable[[int], Any]:
        """A function that returns the batch with a given number on ``device``; the batch depends
        only on the number.

        With ``on_cpu``, the function runs in other processes, and its batches, for ``device``, are
        on the CPU.
        """

    def finish_batch(self, batch: Any) -> Any:
        """Finish a batch on the device; called if ``on_cpu``."""
        return batch

    @abstractmethod
    def checkpoint(self, data: D, method: Method) -> Checkpoint:
        """The checkpoint of the finished training."""

    def best(self, describe: Callable[[int, dict[str, float]], Checkpoint]) -> Checkpoint:
        """The weights with the best score, described as now, because the card may have changed
        since; ``describe`` is that of ``loop.BestWeights``.
        """
        best = load_checkpoint(self.run_folder.best)
        return replace(best, meta=describe(best.meta["step"], best.meta["scores"]).meta)

    def free_settings(self) -> tuple[str, ...]:
        """Settings that may change when a run is continued, by default those that only the model's
        card shows; ``a.b`` is the setting ``b`` of ``a``.
        """
        return CARD

    def monitors(self, data: D, method: Method) -> Sequence[Monitor]:
        """Monitors of the run: validation, alarms, previews."""
        return ()

    def describe(self, data: D, log: Log) -> None:
        """Print a summary of the training data, and write pictures of it; called by the first
        process.
        """

    def finish(self, data: D, method: Method, log: Log) -> None:
        """Print the result; called by the first process once the checkpoint is written."""

    def run(self, options: Options) -> Path:
        """Train, or continue to train, and return the path of the checkpoint."""
        config, run = self.config, self.run_folder
        self.check()
        inputs = self.inputs()
        inputs.require_checkpoints()
        provenance = describe_run(plain_settings(config, portable=True), inputs)
        message = run.begin(
            config, provenance, (*self.free_settings(), *DIVISION), options.start_over
        )
        if run.is_finished(config):
            return run.checkpoint
        torch.set_num_threads(options.threads)
        if message:
            options.log(message)
        if done := steps_done(run.resume):
            options.log(f"continues after step {done:,} of {config.schedule.steps:,}")
        data = self.read(options.log)
        # Seeded after reading, which may use random numbers, so that initial weights depend only on
        # the seed.
        torch.manual_seed(config.seed)
        method = self.build(data)
        # All mistakes of users are reported before this point, after which there may be several
        # processes.
        fabric = open_fabric(options.accelerator, options.devices, config.precision, options.nodes)
        method = share_batch_norms(method, fabric.world_size, fabric.device)
        if fabric.is_global_zero:
            run.describe(config, provenance)
            self.describe(data, options.log)
        with self._stream(data, fabric, options) as batches:
            reports = {"monitors": self.monitors(data, method), "progress": options.progress}
            train(method, batches, config.schedule, run, fabric, seed=config.seed, **reports)
        if fabric.is_global_zero:
            save_checkpoint(run.checkpoint, self.checkpoint(data, method))
            self.finish(data, method, options.log)
        fabric.barrier()  # the next stage of every process reads the checkpoint
        return run.checkpoint

    def _stream(self, data: D, fabric: Fabric, options: Options) -> Prefetched:
        loaders = (
            options.loaders
            if options.loaders is not None
            else options.threads * (fabric.device.type == "cuda")
        )
        batches = self.batches(data, fabric.device)
        finish = (lambda batch: self.finish_batch(fabric.to_device(batch))) if self.on_cpu else None
        return Prefetched(batches, fabric.world_size, loaders, finish)


class PreparedStage(Stage):
    """A stage that writes files once, such as masks, labels or an index; its folder is complete or
    absent.
    """

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
    """True if ``folder`` was made from these values; with ``start_over``, different inputs are no
    error.
    """
    if not folder.is_dir():
        return False
    require_own_folder(folder, (folder / MADE_FROM).is_file())
    recorded = find_json(folder / MADE_FROM) or {}
    if recorded == made_from or start_over:
        return recorded == made_from
    changed = sorted(
        name for name in recorded.keys() | made_from if recorded.get(name) != made_from.get(name)
    )
    raise CheckpointError(
        f"{folder}: was made from different inputs ({', '.join(changed)} changed); choose another"
        " run folder, delete this one, or give --start-over"
    )


class StageList(list[Stage]):
    """The stages of a run in ``folder``."""

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = folder

    def add(self, kind: Callable[..., Stage], name: str, *inputs: Any) -> Path:
        """Add the stage of a ``kind`` that is made from ``inputs``, and return its result."""
        self.append(kind(*inputs, stage_folder(self.folder, len(self) + 1, name), name))
        return self[-1].result


class Recipe(ABC):
    """The interface between a method and the engine; registered in ``RECIPES`` by
    ``methods/<name>/run.py``.

    Attributes:
        Config: frozen dataclass of the settings, with ``name`` and ``method``. Paths are relative
            to the folder of the sources; paths annotated as ``core.config.Weights`` are relative to
            the config's folder.
        ends_in_model: True if the checkpoint of a finished run is a detector, which ``muse train``
            also exports.
    """

    Config: ClassVar[type]
    ends_in_model: ClassVar[bool] = False

    @abstractmethod
    def stages(self, config: Any, folder: Path) -> Sequence[Stage]:
        """The stages of a run: either one in ``folder`` itself, or several, each in its
        ``stage_folder``.
        """

    def complete(self, values: dict[str, Any], folder: Path) -> dict[str, Any]:
        """Fill in settings that follow from other settings of a config file in ``folder``."""
        return values

    def describe(self, config: Any) -> dict[str, Any]:
        """Describe a future run to the workflow (``describe_model_run``)."""
        raise ConfigError(
            f"{config.name}: the workflow cannot train models with method '{config.method}'; run"
            " `muse train`"
        )


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Settings of every run that trains a model.

    Attributes:
        name: name of the model.
        licence: licence of the weights.
        training_data: description of the training data, for the card.
        limits: known limits, for the card.
        metrics: figures measured elsewhere, for the card.
    """

    name: str
    licence: str
    training_data: str
    limits: str = ""
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the ``classes`` of a method that has them, in order."""
        return tuple(one.name for one in self.classes)

    def select(self, kind: type) -> dict[str, Any]:
        """The settings of the base class ``kind`` alone, by name, for the config of a stage."""
        return {field.name: getattr(self, field.name) for field in fields(kind)}


CARD = tuple(field.name for field in fields(ModelSettings))


def describe_model_run(config: ModelSettings) -> dict[str, Any]:
    """Facts about a future run that ends in a model, for the workflow."""
    return {
        "name": config.name,
        "mpp": config.mpp,
        "backbone": config.backbone,
        "is_validated": bool(getattr(config, "validation", ())),
        "classes": [*config.class_names],
        "inputs": [str(file) for file in Inputs.of(config).files()],
    }


def require_distinct_classes(names: Sequence[str]) -> None:
    """Reject classes with the same name."""
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(
            f"classes: {', '.join(repeated)} is named more than once; name each class once"
        )


PLACEHOLDERS = ("what you trained on", "...")  # in the recipes of config/train


def require_training_data(text: str) -> None:
    """Reject a description of the training data that is still the placeholder of a recipe."""
    if any(part in text for part in PLACEHOLDERS):
        raise ConfigError(
            f"training_data: '{text}' is the placeholder of the recipe; name the slides or pictures"
            " and their licence, which the model card will state"
        )


RECIPES: Registry[type[Recipe]] = Registry("method", "muse_pipeline.methods", entry="run")


def load_run(
    path: Path,
    data: Path | None = None,
    changes: Iterable[str] = (),
    default: str | None = None,
    only: type | None = None,
) -> tuple[Recipe, Any]:
    """Read a config file and return its recipe and its settings.

    Args:
        path: the YAML file; its ``method`` names the recipe.
        data: folder to which paths of sources are relative; None for the file's folder, to which
            paths of checkpoints are always relative.
        changes: ``key=value`` changes of settings, as in ``core.config.read_settings``.
        default: method that is assumed if the file names none.
        only: the only accepted dataclass of settings; any if None.
    """
    values = read_settings(path, changes)
    folder = Path(path).parent.resolve()
    name = values.get("method", default)
    if name is None:
        raise ConfigError(
            f"{path}: setting 'method' is missing; choose one of {', '.join(RECIPES.names())}"
        )
    recipe = RECIPES[str(name)]()
    if only not in (None, recipe.Config):
        raise ConfigError(f"{path}: has method '{name}', not '{default}'; give a different config")
    values = recipe.complete(values, folder)
    is_guess = "method" not in values and name != "detector"
    where = f"{path} (names no method, so read as '{name}')" if is_guess else str(path)
    config = parse_config(values, recipe.Config, where)
    root = folder if data is None else Path(data).resolve()
    return recipe, locate(config, root, lambda weights: checkpoint_from(folder, weights))


def train_run(
    recipe: Recipe, config: Any, folder: Path, options: Options, until: str | None = None
) -> Path:
    """Finish a run, stage by stage, and return its ``checkpoint.pt``; finished stages are kept.

    ``until`` names the last stage to finish, whose result is returned then.
    """
    stages = recipe.stages(config, Path(folder))
    names = [stage.name for stage in stages]
    if until is not None and until not in names:
        raise ConfigError(f"--until {until}: the stages of this run are {', '.join(names)}")
    if find_launcher()[0]:  # all processes exist; otherwise the first stage that trains starts them
        open_fabric(options.accelerator, options.devices, "32-true", options.nodes)
    with lock_results(Path(folder), "a training") if is_first_process() else nullcontext():
        wait_for_processes()
        return _run_stages(stages, config, Path(folder), options, until)


def _run_stages(
    stages: Sequence[Stage], config: Any, folder: Path, options: Options, until: str | None
) -> Path:
    if [stage.folder for stage in stages] == [folder]:
        return stages[0].run(options)
    run = RunFolder(folder)
    run.require_own()
    for stage in stages:
        result = stage.run(options)
        if stage.name == until and stage is not stages[-1]:
            return result
    if is_first_process():
        run.describe(config, describe_run(plain_settings(config, portable=True), Inputs()))
        if (pictures := RunFolder(result.parent).pictures).is_dir():  # for the check of an export
            with complete_file(run.pictures) as partial:
                shutil.copytree(pictures, partial)
        with complete_file(run.checkpoint) as partial:
            shutil.copyfile(result, partial)
    return run.checkpoint

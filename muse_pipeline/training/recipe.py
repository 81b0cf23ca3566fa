"""The registry of training methods, and the runs, each of which consists of the stages of its method."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

from muse_pipeline.cohort.lock import lock_results
from muse_pipeline.core.config import locate, parse_config, read_settings
from muse_pipeline.core.errors import ConfigError
from muse_pipeline.core.files import complete_file
from muse_pipeline.core.registry import Registry
from muse_pipeline.inference.model import checkpoint_from
from muse_pipeline.training.devices import find_launcher, is_first_process, open_fabric, wait_for_processes
from muse_pipeline.training.run import Inputs, Options, RunFolder, describe_run, plain_settings
from muse_pipeline.training.stages import Stage


class Recipe(ABC):
    """The interface between a method and the engine; registered in ``RECIPES`` by ``methods/<name>/run.py``.

    Attributes:
        Config: frozen dataclass of the settings, with ``name`` and ``method``. Paths are relative to the folder of the
            sources; paths annotated as ``core.config.Weights`` are relative to the config's folder.
        ends_in_model: True if the checkpoint of a finished run is a detector, which ``muse train`` also exports.
    """

    Config: ClassVar[type]
    ends_in_model: ClassVar[bool] = False

    @abstractmethod
    def stages(self, config: Any, folder: Path) -> Sequence[Stage]:
        """The stages of a run: either one in ``folder`` itself, or several, each in its ``stages.stage_folder``."""

    def complete(self, values: dict[str, Any], folder: Path) -> dict[str, Any]:
        """Fill in settings that follow from other settings of a config file.

        Args:
            values: settings of the file.
            folder: folder of the file.
        """
        return values

    def describe(self, config: Any) -> dict[str, Any]:
        """Describe a future run to the workflow: ``name``, ``mpp``, ``classes`` and ``inputs`` (files)."""
        raise ConfigError(
            f"{config.name}: the workflow cannot train models with method '{config.method}'; run `muse train`"
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

    def of_model(self) -> dict[str, Any]:
        """The settings of ``ModelSettings`` alone, by name, for the config of a stage."""
        return {each.name: getattr(self, each.name) for each in fields(ModelSettings)}


PLACEHOLDERS = ("what you trained on", "...")  # in the recipes of config/train


def require_training_data(text: str) -> None:
    """Reject a description of the training data that is still the placeholder of a recipe."""
    if any(part in text for part in PLACEHOLDERS):
        raise ConfigError(
            f"training_data: '{text}' is the placeholder of the recipe; name the slides or pictures and their licence, "
            "which the model card will state"
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
        data: folder to which paths of sources are relative; None for the file's folder, to which paths of checkpoints
            are always relative.
        changes: ``key=value`` changes of settings, as in ``core.config.read_settings``.
        default: method that is assumed if the file names none.
        only: the only accepted dataclass of settings; any if None.
    """
    values, folder = read_settings(path, changes), Path(path).parent.resolve()
    name = values.get("method", default) if isinstance(values, dict) else default
    if name is None:
        raise ConfigError(f"{path}: setting 'method' is missing; choose one of {', '.join(RECIPES.names())}")
    recipe = RECIPES[str(name)]()
    if only not in (None, recipe.Config):
        raise ConfigError(f"{path}: has method '{name}', not '{default}'; give a different config")
    if isinstance(values, dict):
        values = recipe.complete(values, folder)
    is_guess = isinstance(values, dict) and "method" not in values and name != "detector"
    where = f"{path} (names no method, so read as '{name}')" if is_guess else str(path)
    config = parse_config(values, recipe.Config, where)
    root = folder if data is None else Path(data).resolve()
    return recipe, locate(config, root, lambda weights: checkpoint_from(folder, weights))


def train_run(recipe: Recipe, config: Any, folder: Path, options: Options, until: str | None = None) -> Path:
    """Finish a run, stage by stage; finished stages are kept.

    Args:
        recipe: recipe of the method.
        config: settings of the run.
        folder: folder of the run.
        options: devices, threads and callbacks of the run.
        until: name of the last stage to finish; all if None.

    Returns:
        The run's ``checkpoint.pt``, or the result of stage ``until``.
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


def _run_stages(stages: Sequence[Stage], config: Any, folder: Path, options: Options, until: str | None) -> Path:
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

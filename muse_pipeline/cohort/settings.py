"""The workflow's config: checks beyond its schema, and the files and names that follow from it."""

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from muse_pipeline.cohort.layout import store_name
from muse_pipeline.cohort.sheet import read_cells
from muse_pipeline.core.config import parse_yaml
from muse_pipeline.core.errors import ConfigError, LeftOutWarning, SheetError
from muse_pipeline.core.files import write_text
from muse_pipeline.core.text import find_similar, slug
from muse_pipeline.core.types import FROM_NUCLEI, MODEL_OF_MODE

PATTERNS = set('{}<>*?"')  # characters in paths that Snakemake expands as patterns


def require_plain_output(settings: Mapping[str, Any]) -> None:
    """Check that Snakemake does not read the name of the output folder as a pattern."""
    if patterns := sorted(PATTERNS.intersection(settings["output"])):
        raise ConfigError(
            f"config: output: {settings['output']} contains {' '.join(patterns)}, which Snakemake"
            " expands; rename it"
        )


def require_columns(settings: Mapping[str, Any]) -> None:
    """Check that the sheet has the columns named in ``statistics``; only "patient" may be
    missing.
    """
    try:
        # `muse sheet --check` prints them
        with warnings.catch_warnings(action="ignore", category=LeftOutWarning):
            read_cells(
                Path(settings["slides"]), *sorted({*settings["statistics"].values()} - {"patient"})
            )
    except SheetError as error:
        raise ConfigError(f"config: statistics: {error}") from error


def explain_schema_error(wrong: Any) -> str:
    """Return the message for a ``jsonschema.ValidationError``; for an unknown setting it suggests a
    known one.
    """
    setting = ".".join(map(str, wrong.absolute_path))
    if (
        wrong.validator == "type"
        and "string" in wrong.validator_value
        and isinstance(wrong.instance, (int, float))
    ):
        return (
            f"config: {setting}: {wrong.instance} is read as a number, or as true, false or null;"
            " write it in quotes "
            f'in a config file, as {setting}: "..."'
        )
    return f"config: {setting}{': ' if setting else ''}{_explain(wrong)}"


def _explain(wrong: Any) -> str:
    names = {
        "additionalProperties": wrong.schema.get("properties"),
        "required": wrong.validator_value,
    }
    choices = names.get(wrong.validator, ())
    unknown = [str(key) for key in wrong.instance if key not in choices] if choices else []
    for key in unknown:
        if similar := find_similar(key, choices):
            return f"unknown setting '{key}'; did you mean '{similar}'?"
    message = (
        f"unknown setting '{unknown[0]}'"
        if wrong.validator == "additionalProperties"
        else wrong.message
    )
    if (
        wrong.validator == "type"
        and "boolean" in wrong.validator_value
        and isinstance(wrong.instance, str)
    ):
        message += " (after --config write True or False)"
    return f"{message}; config/README.md explains the settings"


def require_fitting_model(settings: Mapping[str, Any], model: Mapping[str, Any]) -> None:
    """Check that a model, as `muse step model` describes it, suits the config."""
    if model.get("kind") == "regions":
        raise ConfigError(
            f"config: model: '{model['name']}' maps regions, not nuclei; give it as `regions` and"
            " choose another `model`"
        )
    if abs(model["mpp"] / settings["mpp"] - 1) > 1e-6:
        raise ConfigError(
            f"config: mpp is {settings['mpp']:g}, but model '{model['name']}' works at"
            f" {model['mpp']:g} um/px; set `mpp: {model['mpp']:g}` or choose another model"
        )
    of_mode, wrong = settings["mode"], ""
    if of_mode == "label-free" and len(model["classes"]) > 1:
        wrong = (
            f"is for models of one class, but model '{model['name']}' has"
            f" {', '.join(model['classes'])}"
        )
    elif of_mode == "supervised" and model["name"] == MODEL_OF_MODE["label-free"]:
        wrong = (
            f"is for models trained with labels, but model '{model['name']}' was trained without"
        )
    if wrong:
        raise ConfigError(f"mode {of_mode} {wrong}; leave one of the two settings out")
    if settings["regions"] == FROM_NUCLEI and len(model["classes"]) == 1:
        raise ConfigError(
            f"regions: {FROM_NUCLEI} needs classes of nuclei, but model '{model['name']}' has only "
            f"{model['classes'][0]}; leave regions out, or choose a model with several classes"
        )


def pretraining_codec(settings: Mapping[str, Any], pretrain_mpp: float) -> str:
    """The codec in ``pretrain_store``, for images at the um per pixel that pretraining reads."""
    codec = settings["pretrain_store"].get("codec", "zstd")
    store = store_name(pretrain_mpp)
    if codec != "zstd" and store in map(store_name, [settings["mpp"], *settings["extra_mpps"]]):
        raise ConfigError(
            f"config: pretrain_store: codec {codec} loses detail, but {store} is also the store of"
            " `mpp` or of one of `extra_mpps`; set `codec: zstd`, or pretrain at another mpp"
        )
    return codec


def name_stores(mpps: Iterable[float]) -> dict[str, float]:
    """The mpp of each store, keyed by the store's name."""
    named = {}
    for mpp in mpps:
        if named.setdefault(store_name(mpp), mpp) != mpp:
            other = named[store_name(mpp)]
            raise ConfigError(
                f"config: images at {other} and {mpp} um/px would both be {store_name(mpp)}; leave"
                " one of them out"
            )
    return named


def training_file(settings: Mapping[str, Any]) -> str | None:
    """The file of the training run that makes the config's model; None if the model is not
    trained.
    """
    model = settings["model"]
    if isinstance(model, str) and not model.endswith((".yaml", ".yml")):
        return None
    return run_file(model, Path(settings["output"], "training"))


def pretraining_run(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The setting ``pretrain`` as a mapping, with the run's file as ``run``; {} without
    pretraining.
    """
    run = settings["pretrain"]
    return {"run": run} if isinstance(run, str) else dict(run or {})


def pretraining_options(settings: Mapping[str, Any], model: Mapping[str, Any]) -> list[str]:
    """The arguments of `muse step pretrain-config` for the setting ``pretrain``, except the
    sheet and the folders.
    """
    given = pretraining_run(settings)
    own = {
        name: value
        for name, value in given.items()
        if name not in {"run", "exclude", "held_splits"}
    }
    file = given.get("run") or run_file(own, Path(settings["output"], "pretraining"))
    data = settings["train_data"] or (None if "run" in given else ".")
    judges = [training_file(settings), *training_data(settings)[1:]]
    words: dict[str, Iterable[str]] = {
        "--data": [data] if data else [],
        "--set": list(as_changes(own)) if "run" in given else [],
        "--exclude": given.get("exclude", []),
        "--judged-by": judges if model.get("is_validated") else [],
    }
    options = [word for flag, values in words.items() if values for word in (flag, *values)]
    held = given.get("held_splits")  # an empty list holds no slide back
    return [file, *options, *([] if held is None else ["--held-splits", *held])]


def complete_pretraining(
    settings: Mapping[str, Any], run: Mapping[str, Any], model: Mapping[str, Any]
) -> dict[str, Any]:
    """Add the codec of its images to a pretraining run, as `muse step pretrain-config` plans it,
    after a check that it suits the model, as `muse step model` describes it.
    """
    if model.get("backbone", run["backbone"]) != run["backbone"]:
        raise ConfigError(
            f"config: `pretrain` trains {run['backbone']}, but the training run '{model['name']}'"
            f" has {model['backbone']}; give both the same `backbone`"
        )
    return {**run, "codec": pretraining_codec(settings, run["mpp"])}


def training_data(settings: Mapping[str, Any]) -> list[str]:
    """``--data`` with the folder to which a run's paths are relative; empty if that is the folder
    of the run's file.
    """
    data = settings["train_data"] or (None if isinstance(settings["model"], str) else ".")
    return [] if data is None else ["--data", data]


def region_run(settings: Mapping[str, Any]) -> str | None:
    """The file of the training run that makes the config's region model; None if the model is not
    trained.
    """
    regions = settings["regions"]
    return regions if regions and regions.endswith((".yaml", ".yml")) else None


def slides_of_region_run(settings: Mapping[str, Any]) -> list[str]:
    """The option ``--set`` that adds the workflow's sheet and results to a region run's
    ``slide_labels``.
    """
    text = read_text(Path(settings["regions"]))
    values = parse_yaml(text or "", settings["regions"])
    if not isinstance(values, dict) or "slide_labels" not in values:
        return []
    given = values["slide_labels"] or {}
    locations = {"slides": settings["slides"], "stores": settings["output"]}
    missing = {
        name: str(Path(location).resolve())
        for name, location in locations.items()
        if name not in given
    }
    changes = list(as_changes({"slide_labels": missing}))
    return ["--set", *changes] if changes else []


def require_region_model(model: Mapping[str, Any]) -> None:
    """Check that a model, as `muse step model` describes it, maps regions."""
    if model.get("kind") != "regions":
        raise ConfigError(
            f"config: regions: '{model['name']}' finds nuclei, not regions; give a training run of"
            " method mil"
        )


def run_file(run: str | Mapping[str, Any], folder: Path) -> str:
    """Return the file of a run; a run that is given as settings is first written to ``folder``.

    Paths in the settings are relative to the working directory.
    """
    if isinstance(run, str):
        return run
    run = dict(run)
    if "checkpoint" in run:
        run["checkpoint"] = _from_here(run["checkpoint"])
    distillation = run.get("distillation")
    if isinstance(distillation, dict) and isinstance(distillation.get("teachers"), list):
        teachers = [_from_here(checkpoint) for checkpoint in distillation["teachers"]]
        run["distillation"] = {**distillation, "teachers": teachers}
    path = folder / f"{slug(run['name'])}.yaml"
    write_if_changed(
        path, yaml.safe_dump(json.loads(json.dumps(run)), allow_unicode=True, sort_keys=False)
    )
    return str(path)


def _from_here(checkpoint: Any) -> Any:
    """Make the path of a checkpoint absolute; names of built-in models and other values are
    returned unchanged.
    """
    has_suffix = isinstance(checkpoint, str) and Path(checkpoint).suffix
    return str(Path(checkpoint).resolve()) if has_suffix else checkpoint


def as_changes(settings: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield settings in the form of ``--set``, in which a.b=1 sets b of a to 1."""
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            yield from as_changes(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}={json.dumps(_as_number(value))}"


def _as_number(value: Any) -> Any:
    """Convert texts to numbers and booleans; Snakemake reads values in braces, as in `--config
    a='{b: 1}'`, as text.
    """
    if isinstance(value, list):
        return [_as_number(one) for one in value]
    if not isinstance(value, str):
        return value
    try:
        number = yaml.safe_load(value)
    except yaml.YAMLError:
        return value
    return number if isinstance(number, (bool, int, float)) else value


def read_text(path: Path) -> str | None:
    """Content of a file; None if it does not exist."""
    return path.read_text(encoding="utf-8") if path.exists() else None


def write_if_changed(path: Path, text: str) -> None:
    """Write a file unless it has this content already, so that a new modification time does not
    cause a rerun.
    """
    if read_text(path) != text:
        write_text(path, text)

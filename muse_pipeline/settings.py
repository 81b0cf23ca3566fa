"""The settings of a run, each described once.

The schema of the config, ``config/config.yaml``, the table in ``config/README.md`` and the options
of the verbs are generated from the descriptions (``docs/make_settings.py``). The settings of an
output are described in its module. No numerical package is imported here, because Snakemake and the
command-line parser import this module.
"""

import os
from collections.abc import Collection, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from muse_pipeline.cohort.settings import explain_schema_error
from muse_pipeline.core.config import read_settings
from muse_pipeline.core.errors import ConfigError
from muse_pipeline.core.setting import Setting, schema_of
from muse_pipeline.core.types import DOUBTS, FEATURE_SETS, FROM_NUCLEI, MODEL_OF_MODE, PROVIDERS
from muse_pipeline.outputs.base import list_outputs

_TEXT = {"type": "string", "minLength": 1}
_TEXTS = {"type": "array", "items": _TEXT}
_MPP = {"type": "number", "exclusiveMinimum": 0, "maximum": 2}

COHORT = (
    Setting("slides", "config/slides.tsv", {"type": "string"}, "the sheet of slides"),
    Setting(
        "output",
        "results",
        _TEXT,
        "folder of the results, with a folder per slide",
        'Its path must not contain any of `{}<>*?"`',
    ),
)
MODEL = (
    Setting(
        "mode",
        None,
        {"enum": list(MODEL_OF_MODE)},
        "`supervised` or `label-free`: how the model was trained; a label-free one has one class,"
        " Nucleus",
        "A `model` that is given too must fit. `null` is the built-in supervised model, or any"
        " `model`",
        job="detect",
    ),
    Setting(
        "model",
        None,
        {
            "type": ["string", "object", "null"],
            "minLength": 1,
            "properties": {"name": _TEXT},
            "required": ["name"],
        },
        "a built-in model or an `.onnx` file; `null` is the model of the mode, `compact` or"
        " `label_free`",
        "A name with or without its precision (`compact-fp32`, `compact-int8`); a path ending in"
        " `.onnx`; or a training run, which is done first: a path ending in `.yaml`, or its"
        " settings themselves",
        job="detect",
        metavar="MODEL",
    ),
    Setting(
        "pretrain",
        None,
        {
            "type": ["string", "object", "null"],
            "minLength": 1,
            "properties": {"run": _TEXT, "name": _TEXT, "exclude": _TEXTS, "held_splits": _TEXTS},
            "if": {"not": {"required": ["run"]}},
            "then": {"required": ["name"]},
        },
        "a run that first pretrains a backbone on the slides, without labels",
        "A path ending in `.yaml`, or `{run: PATH, ...}`, or the run's settings themselves"
        " ([below](#pretraining))",
    ),
    Setting(
        "train_data",
        None,
        {"type": ["string", "null"]},
        "folder to which paths in the files of these runs are relative; `null` is the folder of"
        " each file",
        "For a run given as settings in the config, `null` is the folder in which Snakemake is"
        " started",
    ),
    Setting(
        "provider",
        "cpu",
        {"enum": list(PROVIDERS)},
        "what runs the model; `auto` is `cuda` if it starts on this machine, else `cpu`",
        "`cuda` and `tensorrt` need the extra `gpu`, `openvino` the extra `openvino`, `torch`"
        " (PyTorch on the accelerator that it finds) and `torch-cpu` the extra `train`. A provider"
        " that does not start is rejected at once if the jobs run on this machine; there is no"
        " silent fallback. `auto` is resolved once, on the machine that plans the run, and results"
        " record the choice. Nuclei found on a GPU differ in the last digits",
        job="detect",
    ),
)
NUCLEI = (
    Setting(
        "proposals",
        None,
        {"type": ["object", "null"], "required": ["method"], "properties": {"method": _TEXT}},
        "nuclei found without labels, in addition to the model's, such as `{method: haematoxylin}`",
        "Written to `proposals.parquet` and `proposals.geojson.gz`; "
        "[docs/guide/label-free.md](../docs/guide/label-free.md) has the methods and their"
        " settings",
    ),
    Setting(
        "regions",
        None,
        {"type": ["string", "null"], "minLength": 1},
        "how to find the tissue region of every nucleus: `nuclei` (from the classes of the nuclei),"
        " a region model (`.onnx`), or a run that trains one (`.yaml`)",
        "Writes `regions.geojson` too ([docs/guide/regions.md](../docs/guide/regions.md)). If"
        " training or the model fails, only regions are missing, and the run ends with an error",
    ),
    Setting(
        "features",
        "basic",
        {"enum": list(FEATURE_SETS)},
        "measurements of every nucleus: `basic` has shape and stains, `all` also texture and"
        " neighbours",
        "See [docs/guide/features.md](../docs/guide/features.md)",
        job="nuclei",
    ),
    Setting(
        "third_stain",
        False,
        {"type": "boolean"},
        "find a stain in addition to haematoxylin and DAB, such as a red chromogen, and do not"
        " measure it as DAB",
        "See [docs/guide/ihc.md](../docs/guide/ihc.md#a-third-stain)",
        job="image",
    ),
)
COHORT_FILES = (
    Setting(
        "statistics",
        None,
        {
            "type": ["object", "null"],
            "additionalProperties": False,
            "properties": {"group": _TEXT, "patient": _TEXT},
            "required": ["group"],
        },
        "columns of the sheet with the groups to compare and the patients, such as `{group: label,"
        " patient: patient}`",
        "Writes `statistics.tsv` and a section of the report "
        "([docs/guide/features.md](../docs/guide/features.md#groups-of-patients))",
        job="report",
    ),
    Setting(
        "include_doubtful",
        [],
        {"type": "array", "items": {"enum": list(DOUBTS)}},
        "findings despite which numbers stay in totals and statistics, marked: `stain`, `scale`,"
        " `same`, `classes`, `regions`, `membranes`",
        "See [docs/guide/confidence.md](../docs/guide/confidence.md#what-totals-leave-out)",
        job="report",
    ),
)
IMAGES = (
    Setting(
        "mpp",
        0.5,
        _MPP,
        "um per pixel of the image that the model reads; must be the model's",
        job="image",
    ),
    Setting(
        "extra_mpps",
        [],
        {"type": "array", "items": _MPP},
        "um per pixel of further images, such as `[0.25]`",
    ),
    Setting(
        "pretrain_store",
        {"codec": "zstd"},
        {
            "type": "object",
            "additionalProperties": False,
            "properties": {"codec": {"enum": ["zstd", "jpeg"], "default": "zstd"}},
        },
        "`{codec: jpeg}` compresses an image that only pretraining reads, with loss",
        "The JPEG quality is 90 ([size](../docs/guide/store.md#for-pretraining)). An image that"
        " detection or `extra_mpps` also need must be lossless, and `jpeg` is rejected for it",
    ),
    Setting(
        "keep_stores",
        True,
        {"type": "boolean"},
        "keep images and shards after the last step that needs them",
    ),
    Setting(
        "max_corrupt",
        0.01,
        {"type": "number", "minimum": 0, "maximum": 1},
        "fraction of a slide's tissue that may be unreadable; a slide with more is rejected",
        job="image",
        metavar="F",
    ),
    Setting(
        "shards",
        1,
        {"type": "integer", "minimum": 1},
        "number of shards into which a slide's detection is divided, one job each; it does not"
        " change results",
        "Lets several GPUs or nodes share a slide (profile `slurm-gpu`), or the cores of this"
        " machine a large slide; with the profile `slurm` a slide is one job, which runs its shards"
        " in turn and requests more time",
        job="detect",
        metavar="N",
    ),
)


def list_groups() -> list[tuple[Setting, ...]]:
    """All settings, grouped as in ``config/config.yaml``."""
    outputs = tuple(setting for output in list_outputs() for setting in output.all_settings())
    return [COHORT, MODEL, NUCLEI, outputs, COHORT_FILES, IMAGES]


def list_settings(*jobs: str) -> dict[str, Setting]:
    """All settings, keyed by name; if ``jobs`` of the workflow are given, only settings that they
    read.
    """
    return {
        setting.name: setting
        for group in list_groups()
        for setting in group
        if not jobs or setting.job in jobs
    }


def list_run_settings() -> list[Setting]:
    """The settings that are options of ``muse run``."""
    of_name = list_settings()
    outputs = [setting for output in list_outputs() for setting in output.all_settings()]
    typed = [setting for setting in outputs if not setting.in_file_only]
    return [*map(of_name.__getitem__, ("mode", "model", "provider", "features")), *typed]


def read_run_config(path: Path | None, of_workflow: Collection[str] = ()) -> dict[str, Any]:
    """Read a config for a run without the workflow; the settings ``of_workflow`` must have their
    defaults. Without a file, all settings have their defaults.
    """
    config = complete_config(read_settings(path)) if path else {}
    for name in of_workflow:
        if config.get(name):
            raise ConfigError(f"{path}: only the workflow has the setting {name}; leave it out")
    return config


class RunSettings(dict[str, Any]):
    """Settings of a run, read by name or as attributes; settings that are not given have their
    defaults.

    Steps use up to ``threads`` threads, which does not change results.

    Example:
        >>> settings = RunSettings({"csv": True})
        >>> settings.csv, settings.features
        (True, 'basic')
    """

    def __init__(self, values: Mapping[str, Any] | None = None, threads: int = 1):
        of_name = list_settings()
        if unknown := [name for name in values or {} if name not in of_name]:
            raise ConfigError(f"unknown setting '{unknown[0]}'; known: {', '.join(of_name)}")
        super().__init__(complete(_defaults() | dict(values or {})))
        self.threads = threads

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def complete_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Check a config, fill in defaults, and complete it."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    schema = schema_of(list_settings().values())
    if wrong := best_match(Draft202012Validator(schema).iter_errors(config)):
        raise ConfigError(explain_schema_error(wrong))
    return complete(_defaults() | config)


def _defaults() -> dict[str, Any]:
    return {name: setting.default for name, setting in list_settings().items()}


def complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """Complete a config, which satisfies the schema and has its defaults, with everything that its
    settings imply.
    """
    settings = _at_home(dict(config))
    # 1.0e+5 is a whole number in the schema, but not on a command line
    for name in ("shards", "max_features"):
        if settings[name] is not None:
            settings[name] = int(settings[name])
    settings["model"] = settings["model"] or MODEL_OF_MODE[settings["mode"]]
    for output in list_outputs(settings):
        settings |= output.complete(settings)
    if settings["pretrain"]:
        settings["proposals"] = settings["proposals"] or {"method": "haematoxylin"}
    return settings


def require_available(settings: Mapping[str, Any]) -> None:
    """Check, before anything runs, that the packages and models for the settings are available."""
    for output in list_outputs(settings):
        if output.requires and not find_spec(output.requires[0]):
            package, extra = output.requires
            raise ConfigError(
                f"{output.name}: needs the package '{package}', which is not installed; install the"
                f" extra `{extra}`, or leave {output.name} out"
            )
    if settings["regions"] not in (None, FROM_NUCLEI):
        from muse_pipeline.inference.model import find_region_model

        find_region_model(settings["regions"])


def _at_home(value: Any) -> Any:
    """Expand ~ to the user's home folder, as a shell does, in a text or in all texts of a
    dictionary or list.
    """
    if isinstance(value, dict):
        return {name: _at_home(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_at_home(item) for item in value]
    # `Path.expanduser` would change URLs.
    return os.path.expanduser(value) if isinstance(value, str) else value  # noqa: PTH111

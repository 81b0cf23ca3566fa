"""Run one step of a slide, as a rule of the workflow does.

    muse step tile SLIDE --info slide.json --tissue tissue.npz -o image-500nm.zarr

The options of a step are the parameters of the function of that name in `muse_pipeline/steps.py`
or, for those that read the config of a run, in `muse_pipeline/pipeline.py`.
"""

import argparse
import re
from collections.abc import Callable
from importlib import import_module
from inspect import Parameter, getdoc, signature
from pathlib import Path
from typing import Any

from muse_pipeline.cli.arguments import (
    Parser,
    at_least_one,
    fraction,
    not_negative,
    parse_stain,
    positive,
)
from muse_pipeline.core.errors import ConfigError
from muse_pipeline.core.types import FEATURE_SETS, GEOJSON_FRAMES

# Steps, each with the module that has its function.
STEPS = {
    **dict.fromkeys(("fetch", "tissue", "tile", "detect", "stitch"), "steps"),
    **dict.fromkeys(("geojson", "spatialdata", "propose", "partner"), "steps"),
    **dict.fromkeys(("image", "nuclei", "overlay"), "pipeline"),
}
# Further commands of the workflow, which are modules of this folder.
COMMANDS = ("model", "pretrain-config", "proposer", "import-checkpoint")
TYPES: dict[str, dict[str, Any]] = {  # of options, keyed by the name or the annotation
    "mpp": {"type": positive, "metavar": "UM"},
    "threads": {"type": at_least_one, "metavar": "N"},
    "max_features": {"type": at_least_one, "metavar": "N"},
    "max_corrupt": {"type": fraction, "metavar": "F"},
    "stain": {"type": parse_stain, "metavar": "NAME"},
    "codec": {"choices": ("zstd", "jpeg")},
    "frame": {"choices": GEOJSON_FRAMES},
    "bool": {"action": "store_true"},
    "Path": {"type": Path, "metavar": "PATH"},
    "Written": {"type": Path, "metavar": "PATH"},
    "Sequence[Path]": {"type": Path, "nargs": "+", "metavar": "PATH"},
    "Sequence[str]": {"nargs": "*"},
    "Sequence[float]": {"type": not_negative, "nargs": "+", "metavar": "OD"},
}
MODELS = ("Predictor", "Embedder")
PIXELS = {
    "store": "image store in which the nuclei were found",
    "colour": "stains of the slide (colour.json)",
    "artefacts": "find artefacts, write them here, and flag nuclei in them",
    "": "measurements of every nucleus, in the pixels of --store",
}


def add_arguments(parser: Parser) -> None:
    steps = parser.add_subparsers(dest="step", metavar="STEP", required=True)
    layout = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    for name in (*STEPS, *COMMANDS):
        text = _describe(name)
        summary = " ".join(text.partition("\n\n")[0].split())
        step = steps.add_parser(name, help=summary, description=text, **layout)
        if name in STEPS:
            function = find_step(name)
            writes = _add_parameters(step, function)
            step.set_defaults(writes=writes)
        else:
            module = _import_command(name)
            module.add_arguments(step)
            step.set_defaults(run=module.run, writes={"output", "resolved"})


def find_step(name: str) -> Callable[..., Any]:
    """The function of a step."""
    return getattr(import_module(f"muse_pipeline.{STEPS[name]}"), name)


def _import_command(name: str) -> Any:
    return import_module(f"muse_pipeline.cli.{name.replace('-', '_')}")


def _describe(name: str) -> str:
    """The docstring of a step, up to its arguments."""
    documented = find_step(name) if name in STEPS else _import_command(name)
    text = (getdoc(documented) or name).partition("\n\nArgs:")[0].replace("``", "`")
    return text.replace(", and return warnings", "")


def _add_parameters(parser: Parser, function: Callable[..., Any]) -> set[str]:
    """Add an option for every parameter, and return the names of those that are written."""
    texts = dict(re.findall(r"^    (\w+): ((?:.|\n     +)+)", getdoc(function) or "", re.M))
    writes = {"ledger"}
    for position, (name, parameter) in enumerate(signature(function).parameters.items()):
        kind, text = parameter.annotation.removesuffix(" | None"), texts.get(name, "")
        text = " ".join(text.split()).rstrip(".").replace("``", "`").replace("%", "%%")
        if kind in MODELS:
            built_in = "compact" if kind == "Predictor" else None
            parser.add_argument("--model", default=built_in, metavar="MODEL", help=text)
            parser.add_provider()
            continue
        if kind == "Pixels":
            for field in ("store", "colour", "artefacts"):
                parser.add_path(f"--{field}", "PATH", PIXELS[field])
            writes.add("artefacts")
            parser.add_argument("--features", choices=FEATURE_SETS, default="none", help=PIXELS[""])
            continue
        writes |= {name} if kind == "Written" else set()
        how = {"help": text, **TYPES.get(name, TYPES.get(kind, {}))}
        if kind == "bool" or parameter.default is not Parameter.empty:
            how |= {} if kind == "bool" else {"default": parameter.default}
        else:
            how |= {"required": True} if position else {"metavar": name.upper()}
        short = ["-o"] if name == "output" else []
        is_option = position or "default" in how
        flags = [*short, f"--{name.replace('_', '-')}"] if is_option else [name]
        parser.add_argument(*flags, **how)
    parser.add_ledger()
    return writes


def run(args: argparse.Namespace) -> None:
    """Call the function of the step; its result are warnings."""
    function = find_step(args.step)
    given = {
        name: LOADERS.get(parameter.annotation.removesuffix(" | None"), getattr)(args, name)
        for name, parameter in signature(function).parameters.items()
    }
    args.warnings += function(**given) or ()


def _load_model(args: argparse.Namespace, name: str) -> Any:
    """Load the model of ``--model`` as a step needs it; None without a model."""
    from muse_pipeline.inference.embed import Embedder
    from muse_pipeline.inference.model import choose_provider, find_model
    from muse_pipeline.inference.predictor import Predictor

    if args.model is None:
        return None
    provider = choose_provider(args.provider)
    network = Embedder if name == "embedder" else Predictor
    return network(find_model(args.model, provider), provider)


def _choose_pixels(args: argparse.Namespace, _: str) -> Any:
    from muse_pipeline.steps import Pixels

    if args.features == "none" and not args.artefacts:
        return None
    if not (args.store and args.colour):
        raise ConfigError("--features and --artefacts need pixels; give --store and --colour too")
    return Pixels(args.store, args.colour, args.features, args.artefacts)


LOADERS = {"Predictor": _load_model, "Embedder": _load_model, "Pixels": _choose_pixels}

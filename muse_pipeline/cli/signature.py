"""Arguments of a verb from the parameters of its function: names, defaults and annotations give
the options, and the docstring's section `Args:` their help.

Positional-only parameters are positional arguments, and so is a first parameter without a default,
unless it is keyword-only.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from inspect import Parameter, getdoc, signature
from pathlib import Path
from typing import Any

from muse_pipeline.cli.arguments import (
    STANDARD_OUTPUT,
    Parser,
    at_least_one,
    fraction,
    json_file,
    not_negative,
    parse_organ,
    parse_results,
    parse_stain,
    path_or_url,
    positive,
    read_settings,
    zero_or_more,
)
from muse_pipeline.core.errors import ConfigError
from muse_pipeline.core.types import (
    ACCELERATORS,
    DOUBTS,
    FEATURE_SETS,
    GEOJSON_FRAMES,
    MODEL_PRECISIONS,
    SCALINGS,
)

# Annotations of parameters.
Results = Path  # a file or folder of results, which must exist
Location = Path | str  # a file, a folder or the URL of a slide
Positive = NotNegative = Fraction = float
AtLeastOne = ZeroOrMore = int
RunOptions = dict | None  # settings of a run that have options, keyed by name
Verb = str  # the verb itself, which is no argument

_PATH: dict[str, Any] = {"type": Path, "metavar": "PATH"}
_REPEATED: dict[str, Any] = {"action": "append", "default": []}
# Properties of arguments, keyed by the parameter or its annotation.
TYPES: dict[str, dict[str, Any]] = {
    "mpp": {"type": positive, "metavar": "UM"},
    "threads": {"type": at_least_one, "metavar": "N"},
    "sheet": {"type": Path, "metavar": "TSV"},
    "max_features": {"type": at_least_one, "metavar": "N"},
    "max_corrupt": {"type": fraction, "metavar": "F"},
    "stain": {"type": parse_stain, "metavar": "NAME"},
    "codec": {"choices": ("zstd", "jpeg")},
    "frame": {"choices": GEOJSON_FRAMES},
    "provider": {
        "help": (
            "cpu, cuda, tensorrt, openvino, torch (the accelerator that PyTorch finds), torch-cpu,"
            ' or "auto": cuda if it starts here, else cpu'
        )
    },
    "precision": {"choices": MODEL_PRECISIONS},
    "scaling": {"choices": SCALINGS},
    "changes": {
        "flag": "--set",
        "dest": "changes",
        "metavar": "KEY=VALUE",
        "nargs": "+",
        "action": "extend",
        "default": [],
    },
    "exclude": {"nargs": "+", "action": "extend", "default": []},
    "held_splits": {"nargs": "*", "action": "extend"},
    "judged_by": {**_PATH, "nargs": "+", "action": "append", "default": []},
    "pictures": {"nargs": 2, "action": "append", "metavar": ("FOLDER", "UM")},
    "accelerator": {"choices": ACCELERATORS},
    "organ": {"type": parse_organ, "metavar": "NAME"},
    "organs": {"flag": "--organ", "dest": "organs", "metavar": "[CLASS=]NAME", **_REPEATED},
    "include_doubtful": {"choices": DOUBTS, **_REPEATED},
    "json": {"nargs": "?", "type": json_file, "const": STANDARD_OUTPUT, "metavar": "FILE"},
    "bool": {"action": "store_true"},
    "int": {"type": int},
    "float": {"type": float},
    "Positive": {"type": positive},
    "NotNegative": {"type": not_negative},
    "Fraction": {"type": fraction},
    "AtLeastOne": {"type": at_least_one},
    "ZeroOrMore": {"type": zero_or_more},
    "Path": _PATH,
    "Written": _PATH,
    "Results": {"type": parse_results, "metavar": "PATH"},
    "Sequence[Location]": {"type": path_or_url, "nargs": "+"},
    "Sequence[Path]": {**_PATH, "nargs": "+"},
    "Sequence[str]": {"nargs": "+"},
    "Sequence[float]": {"type": not_negative, "nargs": "+", "metavar": "OD"},
}
MODELS = ("Predictor", "Embedder")
PIXELS = {
    "store": "image store in which the nuclei were found",
    "colour": "stains of the slide (colour.json)",
    "artefacts": "find artefacts, write them here, and flag nuclei in them",
    "": "measurements of every nucleus, in the pixels of --store",
}


def add_verb(parser: Parser, module: Any, words: Sequence[str] = ()) -> None:
    """Add the arguments of a verb, which is given with ``words``, and set the function that runs
    it.
    """
    if hasattr(module, "add_arguments"):
        module.add_arguments(parser, words)
    else:
        add_parameters(parser, module.run)


def add_parameters(parser: Parser, function: Callable[..., Any]) -> None:
    """Add an argument for every parameter, and set the function that is called with them."""
    texts = dict(re.findall(r"^    (\w+): ((?:.|\n     +)+)", getdoc(function) or "", re.M))
    writes = {"ledger"}
    for position, (name, parameter) in enumerate(signature(function).parameters.items()):
        kind, text = _kind(parameter), texts.get(name, "")
        text = " ".join(text.split()).rstrip(".").replace("``", "`").replace("%", "%%")
        if kind in MODELS:
            built_in = "compact" if kind == "Predictor" else None
            parser.add_argument("--model", default=built_in, metavar="MODEL", help=text)
            parser.add_argument("--provider", default="cpu", **TYPES["provider"])
        elif kind == "Pixels":
            writes.add("artefacts")
            for field in ("store", "colour", "artefacts"):
                parser.add_argument(f"--{field}", **_PATH, help=PIXELS[field])
            parser.add_argument("--features", choices=FEATURE_SETS, default="none", help=PIXELS[""])
        elif kind == "RunOptions":
            from muse_pipeline.settings import list_run_settings

            parser.add_settings(list_run_settings())
        elif kind != "Verb":
            writes |= {name} if kind == "Written" else set()
            _add_parameter(parser, parameter, position, text)
    parser.set_defaults(run=lambda args: call(function, args), writes=writes)


def _add_parameter(parser: Parser, parameter: Parameter, position: int, text: str) -> None:
    name, kind = parameter.name, _kind(parameter)
    how = {"help": text, **TYPES.get(name, TYPES.get(kind, {}))}
    has_default = parameter.default is not Parameter.empty
    if has_default and "action" not in how:
        how["default"] = parameter.default
    is_option = position or has_default or parameter.kind is Parameter.KEYWORD_ONLY
    if parameter.kind is Parameter.POSITIONAL_ONLY or not is_option:
        how |= {"metavar": name.upper(), **({"nargs": "?"} if has_default else {})}
        parser.add_argument(name, **how)
        return
    how |= {} if has_default else {"required": True}
    short = ["-o"] if name == "output" else []
    parser.add_argument(*short, how.pop("flag", f"--{name.replace('_', '-')}"), **how)


def _kind(parameter: Parameter) -> str:
    return parameter.annotation.removesuffix(" | None")


def call(function: Callable[..., Any], args: argparse.Namespace) -> Any:
    """Call a function with the arguments of its parameters; append the warnings that it returns to
    those of its ledger.
    """
    given, in_order = {}, []
    for name, parameter in signature(function).parameters.items():
        given[name] = LOADERS.get(_kind(parameter), getattr)(args, name)
        if parameter.kind is Parameter.POSITIONAL_ONLY:
            in_order.append(given.pop(name))
    result = function(*in_order, **given)
    if isinstance(result, list):
        args.warnings += result
        return None
    return result


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


def _read_options(args: argparse.Namespace, _: str) -> dict[str, Any]:
    from muse_pipeline.settings import list_run_settings

    return read_settings(args, list_run_settings())


LOADERS = {
    "Predictor": _load_model,
    "Embedder": _load_model,
    "Pixels": _choose_pixels,
    "RunOptions": _read_options,
}

"""Run one step of a slide, as a rule of the workflow does.

    muse step tile SLIDE --info slide.json --tissue tissue.npz -o image-500nm.zarr

The options of a step are the parameters of the function of that name in `muse_pipeline/steps/`
or, for those that read the config of a run, in `muse_pipeline/pipeline.py`.
"""

import argparse
from collections.abc import Callable, Sequence
from importlib import import_module
from inspect import getdoc
from pathlib import Path
from typing import Any

from muse_pipeline.cli.arguments import Parser
from muse_pipeline.cli.signature import add_parameters

# Steps, each with the module that has its function.
STEPS = {
    **dict.fromkeys(("fetch", "inspect", "tissue", "tile", "detect", "stitch"), "steps"),
    **dict.fromkeys(("geojson", "spatialdata", "propose", "partner"), "steps"),
    **dict.fromkeys(("image", "nuclei", "overlay", "proposals"), "pipeline"),
}
# Further commands of the workflow, which are modules of this folder.
COMMANDS = ("anndata", "model", "pretrain-config", "proposer", "import-checkpoint")


def add_arguments(parser: Parser, words: Sequence[str] = ()) -> None:
    """Add the step that ``words`` begin with, or all steps, whose libraries take long to load."""
    known = (*STEPS, *COMMANDS)
    steps = parser.add_subparsers(dest="step", metavar="STEP", required=True)
    layout = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    for name in set(words[:1]).intersection(known) or known:
        function, documented = find_step(name)
        text = (getdoc(documented) or name).partition("\n\nArgs:")[0].replace("``", "`")
        text = text.replace(", and return warnings", "")
        summary = " ".join(text.partition("\n\n")[0].split())
        step = steps.add_parser(name, help=summary, description=text, **layout)
        add_parameters(step, function)
        if name in STEPS:
            what = "record the outcome of the step, for the report"
            step.add_argument("--ledger", type=Path, metavar="JSON", help=what)


def find_step(name: str) -> tuple[Callable[..., Any], Any]:
    """The function of a step, and what documents it."""
    if name in STEPS:
        function = getattr(import_module(f"muse_pipeline.{STEPS[name]}"), name)
        return function, function
    module = import_module(f"muse_pipeline.cli.{name.replace('-', '_')}")
    return module.run, module

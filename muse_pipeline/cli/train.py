"""Train a model as a config describes, by the `method` detector, mil, muse, psm, trident or unit.

Writes into the run folder: checkpoint.pt, the resolved config.yaml, provenance.json, metrics.jsonl
and curves.png. A method with several stages has a folder for each under stages/, and psm also
writes <name>.onnx. The same command continues a run that was stopped. `muse finetune`, `muse
pretrain` and `muse psm` are for configs without a method.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from textwrap import TextWrapper

from muse_pipeline.cli.arguments import Parser, TrainingOutput, share_of_cores, text_columns
from muse_pipeline.cli.signature import AtLeastOne, Positive, Verb, ZeroOrMore, add_parameters
from muse_pipeline.core.types import ACCELERATORS, Written

# Descriptions, keyed by verb, of the verbs for a single method. METHODS contains the method that
# each verb uses for a config without a method.
DESCRIPTIONS = {
    "finetune": (
        """Train a nucleus detector on labelled images, as a config describes.

Like `muse train` with `method: detector`. Writes into the run folder: checkpoint.pt, the resolved
config.yaml, provenance.json, metrics.jsonl and curves.png. The same command continues a run that
was stopped.
"""
    ),
    "pretrain": (
        """Pretrain a backbone on tissue without labels, as a config describes (MUSE).

Like `muse train` with `method: muse`. Writes into the run folder: checkpoint.pt (a backbone, for
`muse finetune`), the resolved config.yaml, provenance.json, metrics.jsonl, curves.png and
views.png. The same command continues a run that was stopped; a run that collapses ends with an
error. See docs/guide/pretraining.md.
"""
    ),
    "psm": (
        """Train a nucleus detector on tissue without labels, as a config describes (PSM).

Like `muse train` with `method: psm`. Each stage has its own folder under stages/. The same command
continues a run that was stopped, and keeps finished stages. At the end, <name>.onnx is exported
into the run folder. See docs/guide/label-free.md.
"""
    ),
}
METHODS = {"finetune": "detector", "pretrain": "muse", "psm": "psm"}


def add_arguments(parser: Parser, _: Sequence[str] = ()) -> None:
    parser.add_argument(
        "--list", action=_ListRecipes, nargs=0, help="list configs to copy and edit, and exit"
    )
    add_parameters(parser, train)


class _ListRecipes(argparse.Action):
    """Prints the first sentence of every config that is installed with the package, and exits."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from muse_pipeline.cohort.study import list_recipes

        recipes = list_recipes()
        wrapper = TextWrapper(text_columns(), subsequent_indent=" " * 23)
        for path in recipes:
            wrapper.initial_indent = f"{path.stem:23}"
            print(*wrapper.wrap(_first_sentence(path.read_text(encoding="utf-8"))), sep="\n")
        print(f"copy one, such as {recipes[0].with_stem('my_labels')}, and edit it")
        parser.exit()


def _first_sentence(text: str) -> str:
    """The first sentence of the comment with which a config begins."""
    # a command, indented further, ends the sentence
    lines = takewhile(re.compile(r"# \S").match, text.splitlines())
    return re.split(r"[.;] ", " ".join(line.removeprefix("# ") for line in lines))[0].rstrip(".:")


def train(
    config: Path,
    output: Written,
    verb: Verb,
    until: str | None = None,
    threads: AtLeastOne | None = None,
    accelerator: str = ACCELERATORS[0],
    loaders: ZeroOrMore | None = None,
    devices: AtLeastOne = 1,
    nodes: AtLeastOne = 1,
    minutes: Positive | None = None,
    start_over: bool = False,
    data: Path | None = None,
    changes: Sequence[str] = (),
) -> None:
    """Train the model.

    Args:
        config: config of the run (YAML), such as one of --list
        output: folder of the run
        verb: verb that was given, for the method of a config without a method
        until: last stage to finish (default: all)
        threads: threads of each process (default: OMP_NUM_THREADS, else all cores that this process
            may use)
        accelerator: training device
        loaders: threads (MUSE, TriDeNT: processes) that prepare batches (default: that of --threads
            with a GPU, else 0)
        devices: number of GPUs, or of processes on a CPU, per node; each takes `batch` windows
        nodes: number of machines on which srun or torchrun starts this command
        minutes: longest duration of all trainings of a detector in a single process
        start_over: discard a run with other settings, data or weights in the folder; otherwise an
            error
        data: folder to which the config's paths are relative
        changes: change settings of the config, such as schedule.steps=100
    """
    from muse_pipeline.training.devices import is_first_process
    from muse_pipeline.training.recipe import load_run, train_run
    from muse_pipeline.training.run import Options

    changes = [*changes, f"minutes={minutes}"] if minutes else changes
    recipe, run = load_run(config, data, changes, METHODS.get(verb))
    shown = TrainingOutput()
    options = Options(
        accelerator=accelerator,
        threads=share_of_cores(threads, devices),
        devices=devices,
        nodes=nodes,
        loaders=loaders,
        compares_threads=not (threads or os.environ.get("OMP_NUM_THREADS")),
        start_over=start_over,
        log=shown.log if is_first_process() else lambda line: None,
        progress=shown.progress,
    )
    checkpoint = train_run(recipe, run, output, options, until)
    if not is_first_process():
        return
    print(checkpoint)
    if recipe.ends_in_model and until is None:
        from muse_pipeline.export.onnx import export_onnx

        model = output / f"{run.name}.onnx"
        export_onnx(checkpoint, model)
        print(model)

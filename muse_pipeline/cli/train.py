"""Train a model as a config describes, by the `method` detector, mil, muse, psm, trident or unit.

Writes into the run folder: checkpoint.pt, the resolved config.yaml, provenance.json, metrics.jsonl
and curves.png. A method with several stages has a folder for each under stages/, and psm also
writes <name>.onnx. The same command continues a run that was stopped. `muse finetune`, `muse
pretrain` and `muse psm` are for configs without a method.
"""

import argparse
import os
import re
from itertools import takewhile
from pathlib import Path
from textwrap import TextWrapper

from muse_pipeline.cli.arguments import (
    Parser,
    at_least_one,
    positive,
    share_of_cores,
    text_columns,
    zero_or_more,
)

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


def add_arguments(parser: Parser) -> None:
    parser.add_argument("config", type=Path, help="config of the run (YAML), such as one of --list")
    parser.add_argument(
        "--list", action=_ListRecipes, nargs=0, help="list configs to copy and edit, and exit"
    )
    parser.add_output("FOLDER", "folder of the run")
    parser.add_argument("--until", metavar="STAGE", help="last stage to finish (default: all)")
    parser.add_compute()
    parser.add_argument(
        "--loaders",
        type=zero_or_more,
        help=(
            "threads (MUSE, TriDeNT: processes) that prepare batches (default: that of --threads"
            " with a GPU, else 0)"
        ),
    )
    parser.add_argument(
        "--devices",
        type=at_least_one,
        default=1,
        help="number of GPUs, or of processes on a CPU, per node; each takes `batch` windows",
    )
    parser.add_argument(
        "--nodes",
        type=at_least_one,
        default=1,
        help="number of machines on which srun or torchrun starts this command",
    )
    if parser.prog == "muse finetune":
        parser.add_number(
            "--minutes", positive, "N", "longest duration of all trainings of a single process"
        )
    parser.add_flag(
        "--start-over",
        "discard a run with other settings, data or weights in the folder; otherwise an error",
    )
    parser.add_config(
        "detector.schedule.steps=100" if parser.prog == "muse psm" else "schedule.steps=100"
    )


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
    lines = takewhile(
        re.compile(r"# \S").match, text.splitlines()
    )  # a command, indented further, ends the sentence
    return re.split(r"[.;] ", " ".join(line.removeprefix("# ") for line in lines))[0].rstrip(".:")


def run(args: argparse.Namespace) -> None:
    from muse_pipeline.cli.arguments import TrainingOutput
    from muse_pipeline.training.devices import is_first_process
    from muse_pipeline.training.recipe import load_run, train_run
    from muse_pipeline.training.run import Options

    changes = [*args.set, f"minutes={args.minutes}"] if getattr(args, "minutes", None) else args.set
    recipe, config = load_run(args.config, args.data, changes, METHODS.get(args.verb))
    output = TrainingOutput()
    options = Options(
        accelerator=args.accelerator,
        threads=share_of_cores(args.threads, args.devices),
        devices=args.devices,
        nodes=args.nodes,
        loaders=args.loaders,
        compares_threads=not (args.threads or os.environ.get("OMP_NUM_THREADS")),
        start_over=args.start_over,
        log=output.log if is_first_process() else lambda line: None,
        progress=output.progress,
    )
    checkpoint = train_run(recipe, config, args.output, options, args.until)
    if not is_first_process():
        return
    print(checkpoint)
    if recipe.ends_in_model and args.until is None:
        from muse_pipeline.export.onnx import export_onnx

        model = args.output / f"{config.name}.onnx"
        export_onnx(checkpoint, model)
        print(model)

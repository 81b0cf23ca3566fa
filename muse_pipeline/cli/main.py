"""Dispatch ``muse VERB``: parse, run, turn a user's mistake into one sentence and exit status 2."""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Iterable
from itertools import takewhile
from pathlib import Path
from textwrap import TextWrapper
from typing import NoReturn

from muse_pipeline.cli.arguments import text_columns
from muse_pipeline.cohort.ledgers import record_step
from muse_pipeline.core.errors import MissingPackageError, MuseError, OutputError

# As `muse --help` lists them; each verb is a module beside this file.
GROUPS = {
    "to begin with": "run preflight doctor sheet",
    "from glass to QuPath step by step": (
        "fetch inspect tissue register tile image regions propose detect stitch embed geojson overlay report view "
        "suggest"
    ),
    "to train": "outline train finetune pretrain-config pretrain import-checkpoint psm synthesize export",
    "to judge results and models": "statistics evaluate probe compare card proposer",
    "tools": "anndata spatialdata check-geojson demo-slide",
}
OF_THE_WORKFLOW = ("nuclei", "partner", "model")  # not in the list of `muse --help`
VERBS = (*" ".join(GROUPS.values()).split(), *OF_THE_WORKFLOW)
WRITES = frozenset({"output", "ledger", "csv", "table", "reliability", "resolved", "json"})  # unless a verb has its own
TRAINING_PACKAGES = ("torch", "lightning_fabric", "onnx", "onnxscript", "matplotlib", "skimage")  # of the extra `train`


class Parser(argparse.ArgumentParser):
    """What is wrong with the words themselves is one sentence too."""

    def error(self, message: str) -> NoReturn:
        """Print the error and the command for help."""
        self.exit(2, f"{self.prog}: {message}; see `{self.prog} --help`\n")

    def parse_known_args(self, args=None, namespace=None):
        """Reject unknown options before missing ones, since the missing one may be misspelt."""
        if self._subparsers is not None:  # the sub-parsers do it
            return super().parse_known_args(args, namespace)
        for word in takewhile(lambda word: word != "--", args or ()):
            name = word.partition("=")[0]
            if name.startswith("--") and not any(known.startswith(name) for known in self.options()):
                self.reject(name, self.options())
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.reject(unknown[0].partition("=")[0], self.options())
        return namespace, unknown

    def options(self) -> list[str]:
        """Every option's names."""
        return [name for action in self._actions for name in action.option_strings]

    def reject(self, word: str, known: Iterable[str]) -> NoReturn:
        """Report the unknown ``word`` and the nearest known one."""
        from difflib import get_close_matches

        if near := get_close_matches(word, known):
            nearest = max(near, key=lambda name: sorted(name) == sorted(word))  # `--modle` is `--model`, not `--mode`
            self.exit(2, f"{self.prog}: there is no '{word}'; did you mean '{nearest}'?\n")
        self.error(f"there is no '{word}'")


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; the exit status is 0, or 2 for a mistake that the user can fix."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        return run_verb(arguments)
    except MuseError as error:
        if os.environ.get("MUSE_DEBUG"):
            raise
        print(f"muse {arguments[0]}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader, as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python still has to flush
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        print(f"muse {arguments[0]}: interrupted; run it again to finish", file=sys.stderr)
        return 130


def run_verb(arguments: list[str]) -> int:
    """Parse and run one verb, its ledger included; errors come out as exceptions.

    A verb appends warnings for its ledger to ``args.warnings``.
    """
    args = parse(arguments)
    if hasattr(args, "ledger") or args.verb in {"run", "image", *OF_THE_WORKFLOW}:
        # Matrices are small, and starting NumPy's threads takes 40 ms.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    _require_inputs_kept(args)
    with record_step(getattr(args, "ledger", None), args.verb, _folders(args)) as args.warnings:
        try:
            return args.run(args) or 0
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] not in TRAINING_PACKAGES:
                raise
            raise MissingPackageError(
                f"needs the package '{error.name}', which is not installed; install the extra `train` "
                "(see docs/guide/own-model.md)"
            ) from error


def parse(arguments: list[str]) -> argparse.Namespace:
    """What the words mean; ends the process with one sentence where they mean nothing."""
    parser = build_parser(arguments)
    if arguments and not arguments[0].startswith("-") and arguments[0] not in VERBS:
        parser.reject(arguments[0], VERBS)
    return parser.parse_args(arguments)


def _require_inputs_kept(args: argparse.Namespace) -> None:
    """Raise an error if a file would be written over one that is read, or over another that is written.

    Raises:
        OutputError: two of the arguments mean one file.
    """
    written: set[Path] = set()
    named = {name: value if isinstance(value, list) else [value] for name, value in vars(args).items()}
    read = {path.resolve() for name in named.keys() - args.writes for path in named[name] if isinstance(path, Path)}
    for name in sorted(named.keys() & args.writes):
        for path in named[name]:
            if not isinstance(path, Path) or path.is_dir():  # a folder is added to
                continue
            if path.resolve() in read | written:
                raise OutputError(f"--{name} {path}: is another file of this command too; give it a name of its own")
            written.add(path.resolve())


def _folders(args: argparse.Namespace) -> list[Path]:
    """Where the files lie that the command names, those last that it names first: outputs come after inputs."""
    files = [value for value in vars(args).values() if isinstance(value, Path)]
    return [*(path.parent for path in reversed(files)), Path()]


def build_parser(arguments: list[str]) -> argparse.ArgumentParser:
    """The parser; when ``arguments`` begin with a verb, only that verb's module is loaded."""
    from muse_pipeline import __version__

    parser = Parser(prog="muse", usage="muse VERB ...", formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"muse-pipeline {__version__}")
    subparsers = parser.add_subparsers(prog="muse", dest="verb", metavar="VERB", required=True, help=argparse.SUPPRESS)
    chosen = [verb for verb in VERBS if arguments and verb == arguments[0]] or VERBS
    summaries = {}
    for verb in chosen:
        module = importlib.import_module(f"muse_pipeline.cli.{verb.replace('-', '_')}")
        summaries[verb] = module.__doc__.strip().splitlines()[0]
        subparser = subparsers.add_parser(
            verb, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        module.add_arguments(subparser)
        subparser.set_defaults(run=module.run, writes=getattr(module, "WRITES", WRITES))
    parser.description = _list_verbs(summaries)
    return parser


def _list_verbs(summaries: dict[str, str]) -> str:
    """Description of ``muse`` and its verbs, by group; argparse supports one list only."""
    wrapper = TextWrapper(text_columns() - 2, subsequent_indent=" " * 23)
    lines = ["From H&E whole-slide images to nuclei in QuPath; `muse VERB --help` has details."]
    for group, verbs in GROUPS.items():
        lines += ["", f"{group}:"]
        for verb in verbs.split():
            wrapper.initial_indent = f"    {verb:19}"
            lines += wrapper.wrap(summaries.get(verb, ""))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

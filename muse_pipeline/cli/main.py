"""Entry point of ``muse VERB``: parse the arguments, run the verb, and exit with status 2 after a
user's mistake.
"""

import argparse
import errno
import importlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from textwrap import TextWrapper
from types import ModuleType

from muse_pipeline.cli.arguments import Parser, text_columns
from muse_pipeline.cli.signature import add_verb
from muse_pipeline.cohort.ledgers import record_step
from muse_pipeline.core.environment import write_any_text
from muse_pipeline.core.errors import MissingPackageError, MuseError, OutputError

# Verbs as in `muse --help`, in the order of use; each has its own module in this folder, except
# those in MODULES.
GROUPS = {
    "before a run": "doctor sheet workflow preflight",
    "a run and its results": "run view statistics",
    "further files of a slide": "embed bins",
    "a model of your own": "finetune pretrain train export evaluate",
}
MORE = {  # only in `muse help all`
    "single steps of a run": "step register regions report",
    "more about models": "import-model psm synthesize card",
    "tools": "qupath-script demo-slide",
}
# module of each verb that has none of its own
MODULES = dict.fromkeys(("finetune", "pretrain", "psm"), "train")
VERBS = tuple(" ".join([*GROUPS.values(), *MORE.values()]).split())
SMALL_MATRICES = ("run", "step", "embed", "register")
BROKEN_PIPE = 128 + 13  # SIGPIPE, which Windows does not have
EXTRAS = {  # the packages that each extra installs, by the names of their modules
    "train": ("torch", "lightning_fabric", "onnx", "onnxscript", "matplotlib", "skimage"),
    "geo": ("geopandas", "pandas"),
    "spatial": ("anndata", "h5py", "zarr"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; return the exit status: 0, 2 for a mistake that the user can fix, or above 128
    if interrupted.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    name = " ".join(["muse", *arguments[: 1 + (arguments[:1] == ["step"])]])
    write_any_text()
    try:
        return run_verb(arguments)
    except MuseError as error:
        if os.environ.get("MUSE_DEBUG"):
            raise
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        # Python flushes the rest here at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except KeyboardInterrupt:
        print(f"{name}: interrupted; run it again to finish", file=sys.stderr)
        return 130
    except OSError as error:  # any first use of a path may raise these
        if error.errno == errno.ENAMETOOLONG:
            what = f"{Path(error.filename).name}: a name in this path is too long; shorten it"
        elif isinstance(error, PermissionError) and error.filename:
            what = (
                f"{error.filename}: access is denied; change its permissions or those of its folder"
            )
        else:
            raise
        print(f"{name}: {what}", file=sys.stderr)
        return 2


def run_verb(arguments: list[str]) -> int:
    """Parse and run one verb, write its ledger, and return the exit status; errors are passed on.

    A verb appends warnings for its ledger to ``args.warnings``.
    """
    args = parse(arguments)
    if args.verb in SMALL_MATRICES:  # starting NumPy's threads takes 40 ms
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    _require_inputs_kept(args)
    step = getattr(args, "step", args.verb)
    with record_step(getattr(args, "ledger", None), step) as args.warnings:
        try:
            return args.run(args) or 0
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            extra = next((extra for extra, packages in EXTRAS.items() if package in packages), None)
            if extra is None:
                raise
            raise MissingPackageError(
                f"needs the package '{error.name}', which is not installed; install the extra"
                f" `{extra}` (docs/guide/systems.md)"
            ) from error


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line; exit with a message if it is invalid, or with the help if it asks for
    help.
    """
    groups = GROUPS
    if arguments[:1] == ["help"]:
        topic = arguments[1:]
        if topic == ["all"]:
            groups, topic = {**GROUPS, **MORE}, []
        arguments = [*topic, "--help"]
    arguments = arguments or ["--help"]
    parser = build_parser(arguments, groups)
    if not arguments[0].startswith("-") and arguments[0] not in VERBS:
        from muse_pipeline.cli.step import COMMANDS, STEPS

        parser.reject(arguments[0], [*VERBS, *(f"step {name}" for name in (*STEPS, *COMMANDS))])
    return parser.parse_args(arguments)


def _require_inputs_kept(args: argparse.Namespace) -> None:
    """Check that no output would overwrite an input or another output."""
    written = set()
    named = {
        name: value if isinstance(value, list) else [value] for name, value in vars(args).items()
    }
    read = {
        path.resolve()
        for name in named.keys() - args.writes
        for path in named[name]
        if isinstance(path, Path)
    }
    for name in sorted(named.keys() & args.writes):
        for path in named[name]:
            if not isinstance(path, Path) or path.is_dir():  # a folder is not overwritten
                continue
            if path.resolve() in read | written:
                raise OutputError(
                    f"--{name} {path}: is already an input or another output of this command; give"
                    " a different path"
                )
            written.add(path.resolve())


def build_parser(
    arguments: list[str], groups: Mapping[str, str] = GROUPS
) -> argparse.ArgumentParser:
    """Build the parser; import only the module of the verb in ``arguments`` or, without a verb,
    those of ``groups``.
    """
    from muse_pipeline import __version__

    parser = Parser(
        prog="muse", usage="muse VERB ...", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"muse-pipeline {__version__}")
    subparsers = parser.add_subparsers(
        prog="muse", dest="verb", metavar="VERB", required=True, help=argparse.SUPPRESS
    )
    chosen = [verb for verb in VERBS if arguments and verb == arguments[0]]
    summaries = {}
    for verb in chosen or " ".join(groups.values()).split():
        module = import_verb(verb)
        text = (
            getattr(module, "DESCRIPTIONS", {}).get(verb)
            or module.__doc__
            or _read_docstring(module.__file__)
        )
        summaries[verb] = text.strip().splitlines()[0]
        subparser = subparsers.add_parser(
            verb, description=text, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if chosen:  # the list of all verbs needs no options, which would take long to load
            add_verb(subparser, module, arguments[1:])
    parser.description = _list_verbs(summaries, groups)
    return parser


def import_verb(verb: str) -> ModuleType:
    """Import the module of a verb."""
    # Verbs import most modules in ``run``, so that help and errors about arguments appear at once.
    return importlib.import_module(f"muse_pipeline.cli.{MODULES.get(verb, verb).replace('-', '_')}")


def _read_docstring(file: str) -> str:
    """Read the docstring of a module from its file, because ``PYTHONOPTIMIZE=2`` removes it from
    the module.
    """
    import ast

    return ast.get_docstring(ast.parse(Path(file).read_text(encoding="utf-8")))


def _list_verbs(summaries: Mapping[str, str], groups: Mapping[str, str]) -> str:
    """Describe ``muse`` and its verbs, grouped by purpose; argparse itself can only print a single
    list.
    """
    wrapper = TextWrapper(text_columns() - 2, subsequent_indent=" " * 23)
    lines = ["From H&E whole-slide images to nuclei in QuPath."]
    for group, verbs in groups.items():
        lines += ["", f"{group}:"]
        for verb in verbs.split():
            wrapper.initial_indent = f"    {verb:19}"
            lines += wrapper.wrap(summaries.get(verb, ""))
    lines += ["", "`muse help VERB` describes a verb, `muse help all` lists every verb."]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

"""The parser of the command line, types of numbers that it checks, and functions that print
results.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterable
from itertools import takewhile
from pathlib import Path
from shutil import get_terminal_size
from typing import Any, NoReturn

from muse_pipeline.core.config import Between
from muse_pipeline.core.environment import count_cores
from muse_pipeline.core.errors import ConfigError, OutputError
from muse_pipeline.core.files import json_text, write_json
from muse_pipeline.core.setting import Setting, plain
from muse_pipeline.core.text import find_similar

# Options of other programs for a GPU, and those of ours that choose one.
OF_GPU = frozenset({"--gpu", "--gpus", "--cuda", "--device", "--use-gpu"})
ON_GPU = ("--provider", "--accelerator")
LEAST_COLUMNS = 60  # narrower text is unreadable


def text_columns() -> int:
    """Width of printed text in columns: that of the terminal, but at least 60; 100 if there is no
    terminal.
    """
    return max(get_terminal_size((100, 24)).columns, LEAST_COLUMNS)


def _number_type(limits: Between, kind: type[int] | type[float] = float) -> Callable[[str], float]:
    """The ``type`` of an argument that must be a number within ``limits``."""

    def parse(text: str) -> float:
        try:
            limits.require(number := kind(text), "argument")
        except (ValueError, OverflowError) as error:
            noun = "whole number" if kind is int else "number"
            raise argparse.ArgumentTypeError(f"'{text}' is not a {noun} {limits}") from error
        return number

    return parse


at_least_one = _number_type(Between(1), int)
zero_or_more = _number_type(Between(0), int)
positive = _number_type(Between(0, is_open=True))
not_negative = _number_type(Between(0))
fraction = _number_type(Between(0, 1))


def path_or_url(text: str) -> Path | str:
    """Parse a path on this machine, or the URL of a slide."""
    from muse_pipeline.slides.remote import SlideUrl, is_url

    return SlideUrl(text) if is_url(text) else Path(text)


def parse_results(text: str) -> Path:
    """Parse the path of results, a folder or a file, that must exist."""
    if not Path(text).exists():
        raise OutputError(f"{text}: does not exist; give the output folder of `muse run`")
    return Path(text)


def parse_stain(text: str) -> str:
    from muse_pipeline.core.specimen import STAINS, name_stain

    if stain := name_stain(text):
        return stain
    raise argparse.ArgumentTypeError(f"'{text}' is none of {', '.join(STAINS)}")


def parse_organ(text: str) -> str:
    """Parse the name of an organ, in any form of ``core.specimen.ORGANS``."""
    from muse_pipeline.core.specimen import describe_organ_fault

    if fault := describe_organ_fault(text):
        raise argparse.ArgumentTypeError(fault)
    return text


def read_settings(args: argparse.Namespace, settings: Iterable[Setting]) -> dict[str, Any]:
    """Return the values, keyed by name, of those settings that the command line has, of the ones
    for which ``Parser.add_settings`` added options.
    """
    values, given = {}, vars(args)
    for setting in settings:
        name = setting.name
        parts = {part: given[part] for part in setting.parts if given[part] is not None}
        if parts and setting.default and name in given:
            raise ConfigError(
                f"{setting.option} and --{min(parts)} contradict each other; give one of them"
            )
        if parts or name in given:
            values[name] = parts or given[name]
    return values


def share_of_cores(threads: int | None, processes: int = 1) -> int:
    """Number of threads for each process: --threads, OMP_NUM_THREADS or else an equal share of the
    cores.
    """
    of_openmp = os.environ.get("OMP_NUM_THREADS", "")
    return (
        threads
        or (int(of_openmp) if of_openmp.isdecimal() else 0)
        or max(1, count_cores() // processes)
    )


def _any_number(text: str) -> float:
    """Parse a number; its range is checked later, together with the other settings."""
    try:
        return float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number") from error


_NUMBERS = {"integer": at_least_one, "number": fraction}  # keyed by the JSON type of the setting


class TrainingOutput:
    """Prints the messages of a training run and, in a terminal, a progress bar below them."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._begin = (0, 0.0)  # first step of this training that was shown, and its time

    def log(self, line: str) -> None:
        from tqdm import tqdm

        tqdm.write(line, file=sys.stderr)

    def progress(self, done: int, steps: int, losses: dict[str, float]) -> None:
        """Show the progress of a training run; see ``progress`` in ``training.run.Options``."""
        from tqdm import tqdm

        words = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
        if not sys.stderr.isatty():
            self.log(f"step {done} of {steps}{self._describe_rest(done, steps)}: {words}")
            return
        if self._bar is not None and done <= self._bar.n:  # the training before has ended early
            self._bar.close()
            self._bar = None
        if self._bar is None:
            self._bar = tqdm(total=steps, unit=" steps")
        self._bar.set_postfix_str(words)
        self._bar.update(done - self._bar.n)
        if done == steps:  # a further stage needs a new bar
            self._bar.close()
            self._bar = None

    def _describe_rest(self, done: int, steps: int) -> str:
        """Remaining time of the training at the mean speed so far; "" at its first line and its
        end.
        """
        first, begin = self._begin
        if done <= first or not first:
            self._begin = done, time.monotonic()
            return ""
        if done == steps:
            self._begin = 0, 0.0
            return ""
        minutes = (time.monotonic() - begin) / (done - first) * (steps - done) / 60
        return f" (about {max(minutes, 1):.0f} min left)"


STANDARD_OUTPUT = Path("-")


def json_file(text: str) -> Path:
    """Parse the path of a JSON file; reject other names, so that a slide given after ``--json`` is
    not overwritten.
    """
    if not text.lower().endswith(".json") and text != str(STANDARD_OUTPUT):
        raise argparse.ArgumentTypeError(
            f"'{text}' does not end in .json; give a JSON file, or put --json last"
        )
    return Path(text)


def show_result(text: str, result: Any, file: Path | None) -> None:
    """Print the result as ``text``, and write it to ``file`` if given; for ``--json`` without FILE,
    print only JSON.
    """
    if file == STANDARD_OUTPUT:
        print(json_text(result), end="", flush=True)
        return
    print(text, flush=True)  # flushed, so that the text precedes errors in a log
    if file:
        write_json(file, result)


class Parser(argparse.ArgumentParser):
    """A parser that adds defaults to the help, and reports a mistake in the command line as a short
    message.
    """

    def add_argument(self, *names: str, **properties: Any) -> argparse.Action:
        """Add an argument; its help ends with its default, if that is a text or number."""
        action = super().add_argument(*names, **properties)
        if type(action.default) in {str, int, float} and action.default not in {
            "",
            argparse.SUPPRESS,
        }:
            action.help += " (default: %(default)s)"
        return action

    def error(self, message: str) -> NoReturn:
        """Print the error and the command that shows help, and exit."""
        self.exit(2, f"{self.prog}: {message}; see `{self.prog} --help`\n")

    def parse_known_args(self, args=None, namespace=None):
        """Report unknown options before missing options, because an unknown one may be a
        misspelling.
        """
        if self._subparsers is not None:  # the sub-parsers report unknown options
            return super().parse_known_args(args, namespace)
        for word in takewhile(lambda word: word != "--", args or ()):
            name = word.partition("=")[0]
            if name.startswith("--") and not any(
                option.startswith(name) for option in self.options()
            ):
                self.reject(name, self.options())
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.reject(unknown[0].partition("=")[0], self.options())
        return namespace, unknown

    def options(self) -> list[str]:
        """The names of all options."""
        return [name for action in self._actions for name in action.option_strings]

    def reject(self, word: str, vocabulary: Iterable[str]) -> NoReturn:
        """Report the unknown ``word`` and the nearest of the known words, ``vocabulary``, and
        exit.
        """
        if word in OF_GPU and (option := next((o for o in ON_GPU if o in vocabulary), None)):
            self.exit(2, f"{self.prog}: there is no '{word}'; give {option} cuda for a GPU\n")
        if similar := find_similar(word, vocabulary):
            self.exit(2, f"{self.prog}: there is no '{word}'; did you mean '{similar}'?\n")
        self.error(f"there is no '{word}'")

    def add_settings(self, settings: Iterable[Setting]) -> None:
        """Add an option for each of these settings of a run; ``read_settings`` returns their
        values.
        """
        for setting in settings:
            self._add_option(setting)
            for name, schema in setting.parts.items():
                kind = {"nargs": "*"} if schema["type"] == "array" else {"type": _any_number}
                lead = "" if setting.default else f"{setting.option} with different "
                what = lead + schema["description"]
                self.add_argument(
                    f"--{name.replace('_', '-')}", **kind, metavar=setting.metavar, help=what
                )

    def _add_option(self, setting: Setting) -> None:
        text = plain(setting.text).replace("%", "%%")
        types = setting.types
        if "boolean" in types:
            text = f"do not {text}" if setting.default else text
            how = {"action": "store_false" if setting.default else "store_true"}
        elif "array" in types:
            how = {"nargs": "*"}
        else:
            choices = [choice for choice in setting.schema.get("enum", ()) if choice]
            how = {"type": _NUMBERS.get(types[0]) if types else None, "choices": choices or None}
            text += f" (default: {setting.default})" if setting.default else ""
        how |= {} if "action" in how else {"metavar": setting.metavar}
        hidden = {"dest": setting.name, "default": argparse.SUPPRESS}
        self.add_argument(setting.option, **hidden, **how, help=text)

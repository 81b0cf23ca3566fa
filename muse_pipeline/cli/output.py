"""Printed output of the verbs: progress of training, and results as text or JSON."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from muse_pipeline.core.files import json_text, write_json


class TrainingOutput:
    """Prints the reports of a training run: above a bar on a terminal, in lines elsewhere."""

    def __init__(self) -> None:
        self._bar: Any = None

    def say(self, line: str) -> None:
        """Print a line."""
        from tqdm import tqdm

        tqdm.write(line, file=sys.stderr)

    def progress(self, done: int, steps: int, losses: dict[str, float]) -> None:
        """Show the progress of a training run, as ``training.run.Options`` calls it."""
        from tqdm import tqdm

        words = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
        if not sys.stderr.isatty():
            self.say(f"step {done} of {steps}: {words}")
            return
        if self._bar is None:
            self._bar = tqdm(total=steps, unit=" steps")
        self._bar.set_postfix_str(words)
        self._bar.update(done - self._bar.n)
        if done == steps:  # another stage may follow
            self._bar.close()
            self._bar = None


STANDARD_OUTPUT = Path("-")


def add_json_argument(parser: argparse.ArgumentParser, what: str) -> None:
    """Add ``--json`` to a verb; ``what`` describes the content."""
    parser.add_argument(
        "--json",
        nargs="?",
        type=json_file,
        const=STANDARD_OUTPUT,
        metavar="FILE",
        help=f"{what} as JSON, in FILE beside what is printed; without FILE printed instead",
    )


def json_file(text: str) -> Path:
    """The path of a JSON file; other names are rejected, so that a slide given after ``--json`` is not overwritten."""
    if not text.lower().endswith(".json") and text != str(STANDARD_OUTPUT):
        raise argparse.ArgumentTypeError(f"'{text}' does not end in .json; name such a file, or give --json last")
    return Path(text)


def show_result(text: str, found: Any, file: Path | None) -> None:
    """Print the result as ``text``, and write it to the ``file`` of ``--json``; or print it as JSON only."""
    if file == STANDARD_OUTPUT:
        print(json_text(found), end="", flush=True)
        return
    print(text, flush=True)  # before what is wrong, in a log that has both
    if file:
        write_json(file, found)


def add_ledger_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--ledger`` to a verb."""
    parser.add_argument("--ledger", type=Path, metavar="JSON", help="record how the step ended, for the report")

"""What a verb has found: in words, and as JSON where it is asked for."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from muse_pipeline.files import json_text, write_json

STANDARD_OUTPUT = Path("-")


def add_json_argument(parser: argparse.ArgumentParser, what: str) -> None:
    """Give a verb its ``--json``; ``what`` says what it holds."""
    parser.add_argument(
        "--json",
        nargs="?",
        type=json_file,
        const=STANDARD_OUTPUT,
        metavar="FILE",
        help=f"{what} as JSON, in FILE beside what is printed; without FILE printed instead",
    )


def json_file(text: str) -> Path:
    """The name of a JSON file; of another nothing is written over, such as a slide that stands behind ``--json``."""
    if not text.lower().endswith(".json") and text != str(STANDARD_OUTPUT):
        raise argparse.ArgumentTypeError(f"'{text}' does not end in .json; name such a file, or give --json last")
    return Path(text)


def show_result(text: str, found: Any, file: Path | None) -> None:
    """Print what was found in words, and write it to the ``file`` of ``--json``; or print it as JSON alone."""
    if file == STANDARD_OUTPUT:
        print(json_text(found), end="", flush=True)
        return
    print(text, flush=True)  # before what is wrong, in a log that has both
    if file:
        write_json(file, found)

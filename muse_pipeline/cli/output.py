"""What verbs print and record: progress, results, ledgers."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from muse_pipeline.core.environment import own_processor_seconds, peak_memory_mib
from muse_pipeline.core.errors import MuseError
from muse_pipeline.core.files import json_text, write_json
from muse_pipeline.core.text import count_noun, one_line


@contextmanager
def show_progress(unit: str) -> Iterator[Callable[[int, int], None]]:
    """Give a function that takes (done, total)."""
    from tqdm import tqdm

    with tqdm(unit=f" {unit}", disable=not sys.stderr.isatty(), leave=False) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show


@contextmanager
def say_how_busy(work: str, threads: int) -> Iterator[None]:
    """Print when the block ends how long ``work`` took, a part of a run, and how busy its threads were.

    Nothing is printed of less than a second, of which starting the threads is a large part.
    """
    started, used = time.monotonic(), own_processor_seconds()
    yield
    seconds, busy = time.monotonic() - started, own_processor_seconds() - used
    if seconds >= 1:
        share = f"{100 * busy / seconds / threads:.0f} % busy"
        print(f"{work} took {seconds:.1f} s on {count_noun(threads, 'thread')}, {share}")


class TrainingOutput:
    """Prints what a training reports: beside a bar on a terminal, in lines elsewhere."""

    def __init__(self) -> None:
        self._bar: Any = None

    def say(self, line: str) -> None:
        """Print a line."""
        from tqdm import tqdm

        tqdm.write(line, file=sys.stderr)

    def progress(self, done: int, steps: int, losses: dict[str, float]) -> None:
        """Show how far a training is; see ``training.run.Options``."""
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


def add_ledger_argument(parser: argparse.ArgumentParser) -> None:
    """Give a verb its ``--ledger``."""
    parser.add_argument("--ledger", type=Path, metavar="JSON", help="record how the step ended, for the report")


@contextmanager
def record_step(path: Path | None, step: str) -> Iterator[list[str]]:
    """Write {step, status, reason, seconds, peak_memory_mib} to ``path`` when the block ends, however it ends.

    What the block appends to the list that it gets is written too, as ``warnings``.

    An older entry goes first, so that a step killed from outside is not taken for the one before it.
    """
    if path is not None:
        with suppress(OSError):  # what cannot be removed cannot be written either, and that is said at the end
            if path.is_file():
                path.unlink()
    _forget_peak_memory()
    started = time.monotonic()
    status, reason = "ok", ""
    warnings: list[str] = []
    try:
        yield warnings
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            status, reason = "interrupted", "was interrupted; run it again"
        else:
            status = "failed"
            reason = str(error) if isinstance(error, MuseError) else f"unexpected {type(error).__name__}: {error}"
        raise
    finally:
        if path is not None:
            entry = {
                "step": step,
                "status": status,
                "reason": one_line(reason),
                "seconds": round(time.monotonic() - started, 3),
                "peak_memory_mib": peak_memory_mib(),
                **({"warnings": warnings} if warnings else {}),
            }
            _write_quietly_after_failure(path, entry)


def _write_quietly_after_failure(path: Path, entry: dict) -> None:
    try:
        write_json(path, entry)
    except OSError:
        if entry["status"] == "ok":  # after a failure the first error is the one to report
            raise


def _forget_peak_memory() -> None:
    """Let the peak start anew, for steps that share a process (Linux; elsewhere it grows from step to step)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")

"""What became of a step: one small JSON per slide and step, kept whether the step ended well or not."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from muse_pipeline.errors import MuseError
from muse_pipeline.files import write_json
from muse_pipeline.surroundings import peak_memory_mib
from muse_pipeline.wording import one_line


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

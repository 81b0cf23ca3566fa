"""Progress and processor use of a step that takes long."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from muse_pipeline.core.environment import own_processor_seconds
from muse_pipeline.core.text import count_noun


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

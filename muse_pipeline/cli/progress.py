"""A progress bar on a terminal, nothing in a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from muse_pipeline.surroundings import own_processor_seconds
from muse_pipeline.wording import count_noun


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


@contextmanager
def show_steps(total: int) -> Iterator[tuple[Callable[[str], None], Callable[[int, dict[str, float]], None]]]:
    """Give a function that says a sentence and one that takes (steps done, losses).

    On a terminal the losses stand beside a bar; in a log file each call is a line.
    """
    from tqdm import tqdm

    on_terminal = sys.stderr.isatty()
    with tqdm(total=total, unit=" steps", disable=not on_terminal) as bar:

        def say(sentence: str) -> None:
            bar.write(sentence, file=sys.stderr)

        def show(done: int, losses: dict[str, float]) -> None:
            words = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
            if on_terminal:
                bar.set_postfix_str(words)
                bar.update(done - bar.n)
            else:
                say(f"step {done} of {total}: {words}")

        yield say, show

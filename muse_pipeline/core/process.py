"""Threads, memory and progress of this process."""

from __future__ import annotations

import ctypes
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from muse_pipeline.core.environment import all_processor_seconds
from muse_pipeline.core.text import count_noun

T, R = TypeVar("T"), TypeVar("R")


def map_in_order(
    function: Callable[[T], R],
    items: Iterable[T],
    threads: int,
    ahead: int = 1,
    make_pool: Callable[[int], Any] = ThreadPoolExecutor,
) -> Iterator[R]:
    """Map items on ``threads`` threads; yield results in order, with at most ``threads`` +
    ``ahead`` in progress.

    A larger ``ahead`` keeps the threads busy while the caller spends a long time on one result.
    ``make_pool`` returns a context manager with a method ``submit`` like an executor's.
    """
    with make_pool(threads) as pool:
        waiting = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) == threads + ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


# a function with the first four arguments of ``map_in_order``
MapInOrder = Callable[..., Iterator[Any]]

LARGE = 4 << 20  # bytes; masks of large slides are larger, blocks of pixels smaller
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # constants of glibc's <malloc.h>


def return_large_arrays() -> None:
    """Make this process return large arrays to the system as soon as they are freed.

    By default glibc keeps freed arrays of up to 32 MB for later use, so that a step would hold the
    memory of all freed masks of a slide until it ends. With other C libraries this has no effect.
    """
    with suppress(OSError, AttributeError, TypeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, LARGE)
        libc.mallopt(_M_TRIM_THRESHOLD, 2 * LARGE)


@contextmanager
def show_progress(unit: str) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar during the block, and yield a function of (done, total) that updates
    it.
    """
    from tqdm import tqdm

    with tqdm(unit=f" {unit}", disable=not sys.stderr.isatty(), leave=False) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show


@contextmanager
def print_load(work: str, threads: int) -> Iterator[None]:
    """Print how long ``work`` took and how busy its threads were, at the end of a block of at least
    a second.
    """
    started, used = time.monotonic(), all_processor_seconds()
    yield
    seconds = time.monotonic() - started
    busy = all_processor_seconds() - used
    if seconds >= 1:
        print(
            f"{work} took {seconds:.1f} s on {count_noun(threads, 'thread')},"
            f" {busy / seconds / threads:.0%} busy"
        )

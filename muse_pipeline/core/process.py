"""Threads and memory of this process."""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

T, R = TypeVar("T"), TypeVar("R")


def map_in_order(function: Callable[[T], R], items: Iterable[T], threads: int, ahead: int = 1) -> Iterator[R]:
    """``map`` on ``threads`` threads, results in order, never more than ``threads`` + ``ahead`` items under way.

    More than one ahead keeps the threads at work where what is done with a result takes as long as several items.
    """
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) == threads + ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


LARGE = 4 << 20  # bytes: the masks of a large slide, not the blocks that its pixels are read in
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's <malloc.h>


def return_large_arrays() -> None:
    """Let large arrays go back to the system when they are freed, for the rest of this process.

    Left alone, glibc learns to keep arrays of up to 32 MB for the next ones; a step that frees a few masks of a slide
    then holds them all until it ends. Does nothing where the C library is another.
    """
    with suppress(OSError, AttributeError, TypeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, LARGE)
        libc.mallopt(_M_TRIM_THRESHOLD, 2 * LARGE)

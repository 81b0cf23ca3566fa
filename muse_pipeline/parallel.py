"""Work on several threads whose results come in the order of what is worked on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
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

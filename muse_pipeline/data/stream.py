"""Streams of training batches: one seed per step, and batches made ahead by threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Annotated, Any, Self

from muse_pipeline.core.config import Between


class Prefetched:
    """The same batches as those of ``batches``, made ahead by threads; a batch depends on its number alone.

    The end of a ``with`` block cancels batches that were read ahead.

    Args:
        batches: number -> batch, called from several threads.
        stride: difference between the numbers that this process asks for.
        threads: number of threads that make batches; 0 makes each when it is asked for.
    """

    def __init__(self, batches: Callable[[int], Any], stride: int, threads: int):
        self._batches, self._stride, self._ahead = batches, stride, 2 * threads
        self._pool = ThreadPoolExecutor(threads, "batch") if threads else None
        self._waiting: dict[int, Future] = {}

    def __call__(self, number: int) -> Any:
        """The batch of ``number``."""
        if self._pool is None:
            return self._batches(number)
        wanted = range(number, number + self._stride * (self._ahead + 1), self._stride)
        for old in [one for one in self._waiting if one not in wanted]:
            self._waiting.pop(old).cancel()
        for one in wanted:
            if one not in self._waiting:
                self._waiting[one] = self._pool.submit(self._batches, one)
        return self._waiting.pop(number).result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


MAX_SEED = 1 << 40  # with which a seed of any step fits into 64 bits
Seed = Annotated[int, Between(0, MAX_SEED)]
SEED_STRIDE = 1_000_003  # numbers of two seeds do not meet below a million batches


def seed_of_step(seed: int, step: int) -> int:
    """Seed (int) of ``step`` in the run of ``seed``."""
    return seed * SEED_STRIDE + step

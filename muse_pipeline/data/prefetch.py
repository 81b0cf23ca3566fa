"""Batches that are prepared in advance, on threads or in processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from threading import Thread
from typing import Any, Self

import cv2
import torch

from muse_pipeline.core.errors import ProviderError


class Prefetched:
    """Batches that threads prepare in advance; the end of a ``with`` block cancels those that have not been started.

    ``batches``, called from several threads, makes the batch of an index. Successive indices of this process differ by
    ``stride``. With 0 ``loaders``, every batch is made on request. With ``finish``, ``batches``, which is then pickled,
    is called in other processes, and each thread calls ``finish`` on the batch.
    """

    def __init__(
        self,
        batches: Callable[[int], Any],
        stride: int,
        loaders: int,
        finish: Callable[[Any], Any] | None = None,
    ):
        self._batches, self._stride, self._ahead, self._finish = batches, stride, 2 * loaders, finish
        self._threads = ThreadPoolExecutor(loaders, "batch") if loaders else None
        self._processes = None
        if loaders and finish is not None:
            # While threads run Python code, the thread that trains waits for them at each of its operations.
            context = multiprocessing.get_context("spawn")  # a process with threads must not be forked
            self._processes = ProcessPoolExecutor(loaders, context, _begin_process, (batches,))
        self._waiting: dict[int, Future] = {}

    def __call__(self, number: int) -> Any:
        """The batch whose index is ``number``."""
        if self._threads is None:
            return self._make(number)
        wanted = range(number, number + self._stride * (self._ahead + 1), self._stride)
        for old in [index for index in self._waiting if index not in wanted]:
            self._waiting.pop(old).cancel()
        for index in wanted:
            if index not in self._waiting:
                self._waiting[index] = self._threads.submit(self._make, index)
        return self._waiting.pop(number).result()

    def _make(self, number: int) -> Any:
        if self._processes is None:
            batch = self._batches(number)
        else:
            try:
                batch = self._processes.submit(_make_batch, number).result()
            except BrokenProcessPool as error:
                raise ProviderError(
                    "a process that prepares batches was ended by the system, perhaps because memory ran out; continue "
                    "the run with fewer --loaders"
                ) from error
        return batch if self._finish is None else self._finish(batch)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for pool in filter(None, (self._threads, self._processes)):
            pool.shutdown(cancel_futures=True)


_of_process: list[Callable[[int], Any]] = []  # in a process that makes batches: the function that makes them


def _begin_process(batches: Callable[[int], Any]) -> None:
    """Prepare this process, which ends with its parent, for ``_make_batch``."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C ends the parent
    Thread(target=_end_with_parent, daemon=True).start()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    _of_process.append(batches)


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _make_batch(number: int) -> Any:
    return _of_process[-1](number)

"""Streams of training batches: one seed per step, and batches made ahead by threads or by worker processes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from muse_pipeline.core.errors import MuseError


class Prefetched:
    """The same batches as those of ``batches``, sooner: what is drawn depends on a number alone.

    The end of a ``with`` block cancels batches that were read ahead.

    Args:
        batches: number -> batch, called from several threads.
        stride: from one number to the next that this process asks for.
        threads: that make batches; 0 makes each when it is asked for.
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


class WorkerBatches:
    """The same batches as those of ``batches``, made by worker processes and moved to the device.

    Unlike threads, worker processes do not share one interpreter lock. The end of a ``with`` block stops them.

    Args:
        batches: number -> batch on the CPU; called in processes forked from this one.
        stride: from one number to the next that this process asks for.
        workers: processes; 0 makes each batch when it is asked for.
        to_device: moves a batch.
        pin: copy batches into page-locked memory, from which they are moved to a GPU while it computes.
    """

    def __init__(
        self,
        batches: Callable[[int], Any],
        stride: int,
        workers: int,
        to_device: Callable[[Any], Any] = lambda batch: batch,
        pin: bool = False,
    ):
        self._batches, self._stride, self._workers = batches, stride, workers
        self._to_device, self._pin = to_device, pin
        self._ahead: Iterator[Any] | None = None
        self._next = -1

    def __call__(self, number: int) -> Any:
        """The batch of ``number``, on the device.

        Raises:
            MuseError: a worker could not make it.
        """
        if not self._workers:
            return self._to_device(self._batches(number))
        if number != self._next:
            self._ahead = self._begin(number)
        self._next = number + self._stride
        batch = next(self._ahead)
        if isinstance(batch, MuseError):
            raise batch
        return self._to_device(batch)

    def _begin(self, number: int) -> Iterator[Any]:
        return iter(
            DataLoader(
                _Numbered(self._batches),
                batch_size=None,
                sampler=range(number, sys.maxsize, self._stride),
                num_workers=self._workers,
                pin_memory=self._pin,
                multiprocessing_context="fork",
                worker_init_fn=_use_one_thread,
                generator=torch.Generator(),  # else a number is drawn from the generator that methods draw from
            )
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._ahead = None


class _Numbered(Dataset):
    """Batches by number; errors of users are passed on, since a ``DataLoader`` would replace their message."""

    def __init__(self, batches: Callable[[int], Any]):
        self._batches = batches

    def __getitem__(self, number: int) -> Any:
        try:
            return self._batches(number)
        except MuseError as error:
            return error


def _use_one_thread(worker: int) -> None:
    cv2.setNumThreads(1)


MAX_SEED = 1 << 40  # with which a seed of any step fits into 64 bits
SEED_STRIDE = 1_000_003  # apart enough that the random numbers of no two seeds' runs meet


def seed_of_step(seed: int, step: int) -> int:
    """Of ``step`` in the run of ``seed``."""
    return seed * SEED_STRIDE + step

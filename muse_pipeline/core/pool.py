"""Processes that make long calls at the same time."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from importlib import import_module
from threading import Thread
from typing import Any, Self, TypeVar

from muse_pipeline.core.environment import set_apart

T, R = TypeVar("T"), TypeVar("R")


class ProcessPool:
    """This process and ``n`` others that make calls at the same time; the others first call
    ``start``, while they have a single thread, and import ``modules``.

    Unlike those of ``slides.isolation``, the processes may start processes themselves. They end
    with this one, even if it is killed.
    """

    def __init__(self, n: int, start: Callable[[], None], modules: Sequence[str]):
        # A fork of a process with threads, such as pyarrow's, could wait forever for one of them.
        context = multiprocessing.get_context("spawn")
        self._executor = ProcessPoolExecutor(n, context, _begin, (start, tuple(modules)))

    def map(
        self, function: Callable[[T], R], items: Iterable[T], here: Callable[[T], R]
    ) -> Iterator[tuple[T, R]]:
        """Yield items with their results, in the order of completion.

        This process calls ``here``, which gives the same results as ``function``. If another
        process is killed, for example because memory is short, this one makes its calls.
        """
        before = {child.pid for child in multiprocessing.active_children()}
        calls = {self._executor.submit(function, item): item for item in items}
        set_apart({child.pid for child in multiprocessing.active_children()} - before)
        for call in reversed(list(calls)):
            if call.cancel():
                item = calls.pop(call)
                yield item, here(item)
                for done in [call for call in calls if call.done() and not call.cancelled()]:
                    yield calls[done], _result(done, here, calls.pop(done))
        for call in as_completed(calls):
            yield calls[call], _result(call, here, calls[call])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if kind:  # Ctrl+C, for instance: running calls are not waited for
            for process in multiprocessing.active_children():
                process.kill()
        self._executor.shutdown(cancel_futures=True)


def _result(call: Future[R], here: Callable[[T], R], item: T) -> R:
    try:
        return call.result()
    except BrokenProcessPool:
        return here(item)


def _begin(start: Callable[[], None], modules: Sequence[str]) -> None:
    """Prepare a process: Ctrl+C ends its parent, and it ends with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    start()
    parent = multiprocessing.parent_process()

    def wait() -> None:
        parent.join()
        os._exit(1)

    Thread(target=wait, daemon=True).start()
    for name in modules:
        import_module(name)

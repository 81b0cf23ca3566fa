"""A read that does not end is given up, and its thread is left to itself: nobody can stop one that is inside of C.

A slide may send its decoder around a loop, or lie on a disk that no longer answers. ``inspect`` opens it in a process
of its own (``slides.guard``); the steps after it read thousands of regions, each of which gets its time here.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

from muse_pipeline.errors import HangingReadError

T = TypeVar("T")

LIMIT_S = 600.0  # for a few megapixels: also from a slow network disk, seconds
N_WAITS = 60  # a process that is suspended meanwhile loses one of them, not all its time


def call_in_time(doing: str, function: Callable[..., T], *arguments: Any) -> T:
    """``function(*arguments)`` on another thread, if it ends within ``LIMIT_S``; what it raises is raised here.

    Args:
        doing: the slide and what is done with it, for the sentence.
        function: what may hang.
        arguments: of the function.

    Raises:
        HangingReadError: it has not ended in time.
    """
    helper = _idle_helper()
    ended = helper.begin(function, arguments)
    for _ in range(N_WAITS):
        try:
            ended.exception(LIMIT_S / N_WAITS)
        except TimeoutError:
            continue
        _idle.append(helper)
        try:
            return ended.result()
        finally:
            del ended  # an error holds this frame, which would hold the error
    raise HangingReadError(
        f"{doing} has not ended after {LIMIT_S:g} s, so the slide is damaged or its disk hangs; "
        "copy it again from its source, and run the same command again"
    )


class _Helper:
    """A thread that makes one call after another; a new one for each would cost time and memory."""

    def __init__(self):
        self._calls: SimpleQueue[tuple[Future, Callable[..., Any], tuple]] = SimpleQueue()
        Thread(target=self._serve, daemon=True).start()  # a daemon: the end of the program does not wait for it

    def begin(self, function: Callable[..., T], arguments: tuple) -> Future[T]:
        """Make the call; the helper must be idle."""
        ended: Future[T] = Future()
        self._calls.put((ended, function, arguments))
        return ended

    def _serve(self) -> None:
        while True:
            _call(*self._calls.get())


def _call(ended: Future, function: Callable[..., Any], arguments: tuple) -> None:
    try:
        ended.set_result(function(*arguments))
    except BaseException as error:
        ended.set_exception(error)
    finally:
        del ended  # as above


def _idle_helper() -> _Helper:
    try:
        return _idle.pop()
    except IndexError:
        return _Helper()


_idle: list[_Helper] = []
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_idle.clear)  # threads stay behind

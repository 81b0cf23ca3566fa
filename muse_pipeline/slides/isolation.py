"""Calls that may crash, hang or exhaust memory on damaged files, made on timed threads or in other
processes.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from concurrent.futures import Future
from contextlib import suppress
from functools import lru_cache
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from threading import Thread, local
from typing import Any, Self, TypeVar
from weakref import WeakSet

from muse_pipeline.core.environment import choose_start_method, limit_memory
from muse_pipeline.core.errors import HangingReadError, MuseError, ProcessError, SlideError
from muse_pipeline.core.process import MapInOrder, map_in_order

T, R = TypeVar("T"), TypeVar("R")

LIMIT_S = 600.0  # a few megapixels take seconds, even from a slow network disk
# of another process, in addition to what it uses when a call starts (Linux only)
MEMORY_BYTES = 6 << 30
MOST_THREADS = 4  # number of threads of one process that detect or stitch
MANY_WINDOWS = 100  # number of windows of a model in 10 mm2
# the limit is divided into waits, so that a suspended process loses at most one, however long it
# sleeps
N_WAITS = 60


class Call(Future):
    """A call on another thread; ``doing`` names the slide and operation, and ``hangs`` is True if
    it timed out.
    """

    def __init__(self, function: Callable[..., Any], arguments: tuple, doing: str):
        super().__init__()
        self.doing, self.hangs = doing, False
        self._function, self._arguments = function, arguments

    def make(self) -> None:
        """Run the call on the current thread."""
        if not self.set_running_or_notify_cancel():
            return
        _of_thread.call = self
        try:
            self.set_result(self._function(*self._arguments))
        except BaseException as error:
            self.set_exception(error)
            del self  # avoids a cycle: the exception refers to this frame
        finally:
            del _of_thread.call

    def result(self) -> Any:
        """Wait for the result, and return it."""
        for _ in range(N_WAITS):
            if futures.wait([self], LIMIT_S / N_WAITS).done:
                try:
                    return super().result()
                finally:
                    del self  # avoids a cycle, as in ``make``
        self.hangs = True
        raise HangingReadError(
            f"{self.doing} has not ended after {LIMIT_S:g} s, so the slide is damaged or its disk"
            " hangs; copy it again from its source, and run the same command again"
        )


_of_thread = local()


def current_call() -> Call | None:
    """The call that is being made on this thread; None if there is none."""
    return getattr(_of_thread, "call", None)


class TimedThreads:
    """A pool of ``n`` threads for calls that may hang.

    Closing it waits at most 10 s, and the program ends without waiting.
    """

    def __init__(self, n: int):
        self._n, self._calls = n, SimpleQueue()
        self._open: WeakSet[Call] = WeakSet()  # weak: threads and queue keep unfinished calls alive
        for _ in range(n):
            Thread(target=_make_calls, args=(self._calls,), daemon=True).start()

    def submit(self, function: Callable[..., Any], *arguments: Any, doing: str = "a read") -> Call:
        """Queue a call for the first free thread."""
        call = Call(function, arguments, doing)
        self._open.add(call)
        self._calls.put(call)
        return call

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        begun = [call for call in self._open if not call.cancel()]
        for _ in range(self._n):
            self._calls.put(None)
        futures.wait(begun, LIMIT_S / N_WAITS)


def _make_calls(calls: SimpleQueue[Call | None]) -> None:
    while (call := calls.get()) is not None:
        call.make()
        del call  # otherwise it would be kept alive until the next call


def call_in_time(doing: str, function: Callable[..., T], *arguments: Any) -> T:
    """Call ``function(*arguments)`` on another thread, for at most ``LIMIT_S``; its exceptions are
    raised here.

    A nested call, including one within ``map_in_time``, is made on the current thread, which
    already has a time limit. The slide and operation in ``doing`` appear in the message.
    """
    if outer := current_call():
        outer.doing = doing
        return function(*arguments)
    with TimedThreads(1) as threads:
        return threads.submit(function, *arguments, doing=doing).result()


def map_in_time(function: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    """Like ``process.map_in_order``, but with a limit of ``LIMIT_S`` for each result, including its
    reads of the slide.

    The function reads with ``call_in_time``, and the ``doing`` of the read appears in messages.
    This is faster than ``map_in_order`` with ``call_in_time`` for every item, which passes each
    result between threads twice, with a core idle each time.
    """
    return map_in_order(function, items, threads, make_pool=TimedThreads)


def call_isolated(function: Callable[..., Any], path: Path, *arguments: Any) -> Any:
    """Call ``function(path, *arguments)`` in another process; its exceptions are raised here.

    The process is reused, because importing the readers takes longer than opening a slide, but it
    is stopped after a failed call. If a call crashes a reused process, it is repeated in a new one,
    as an earlier file may be the cause.
    """
    with suppress(IndexError, _CrashError):
        return _idle_workers.pop().call(function, (path, *arguments))
    return _Worker().call(function, (path, *arguments))


def map_in_processes(
    function: Callable[[T], R], items: Iterable[T], threads: int, ahead: int = 1
) -> Iterator[R]:
    """Like ``process.map_in_order``, but the calls are made in other processes, which are kept for
    later calls.
    """
    with TemporaryDirectory(prefix="muse-") as folder:
        path = Path(folder, "function")
        path.write_bytes(pickle.dumps(function))

        def call(item: T) -> R:
            try:
                return call_isolated(_call_stored, path, item)
            except SlideError as error:  # its message is about a file
                raise ProcessError(
                    "a process ran out of memory or time, or was killed; run the step with fewer"
                    " --threads"
                ) from error

        yield from map_in_order(call, items, threads, ahead)


def choose_map(threads: int, n_windows: int, in_processes: bool = True) -> MapInOrder:
    """``map_in_processes`` for many threads and a large slide, if the caller may start processes,
    or ``map_in_order``.

    Threads of one process run Python code in turns, so more than ``MOST_THREADS`` hardly save time;
    processes take a second to start.
    """
    pays = threads > MOST_THREADS and n_windows >= MANY_WINDOWS
    return map_in_processes if in_processes and pays else map_in_order


def _call_stored(path: Path, item: Any) -> Any:
    return _read_function(path)(item)


@lru_cache(1)
def _read_function(path: Path) -> Callable[[Any], Any]:
    import cv2

    cv2.setNumThreads(1)
    return pickle.loads(path.read_bytes())


def start_isolated() -> None:
    """Fork the process of the next ``call_isolated``, if this process has no threads yet that
    forbid it.
    """
    if choose_start_method() == "fork":
        _idle_workers.append(_Worker())


class _CrashError(SlideError):
    """The process of a call crashed."""


class _Worker:
    """A process that makes calls one after another."""

    def __init__(self):
        context = multiprocessing.get_context(choose_start_method())
        self.connection, other_end = context.Pipe()
        inherited = self.connection if context.get_start_method() == "fork" else None
        self.process = context.Process(target=_serve, args=(other_end, inherited), daemon=True)
        self.process.start()
        # If this process kept the other end open, the connection would not close when the worker
        # ends.
        other_end.close()

    def call(self, function: Callable[..., Any], arguments: tuple) -> Any:
        """Return the result of a call; afterwards the process waits for the next one, or ends if
        the call failed.
        """
        path, has_returned = arguments[0], False
        try:
            self.connection.send((function, arguments, MEMORY_BYTES))
            if not self.connection.poll(LIMIT_S):
                raise SlideError(
                    f"{path}: not read within {LIMIT_S:g} s, so it is damaged or its disk"
                    " hangs; copy it again from its source"
                )
            has_returned, result = self.connection.recv()
        except (EOFError, ConnectionError) as error:
            self.process.join()
            raise _CrashError(
                f"{path}: crashes its reader (exit {self.process.exitcode}), so it is damaged; "
                "copy it again from its source, or convert it to OME-TIFF"
            ) from error
        finally:
            if has_returned:
                _idle_workers.append(self)
            else:
                self.stop()
        if not has_returned:
            raise result
        return result

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.join()
        self.connection.close()


_idle_workers: list[_Worker] = []
if hasattr(os, "register_at_fork"):  # a fork cannot use the processes of its parent
    os.register_at_fork(after_in_child=_idle_workers.clear)


def _serve(connection: Connection, inherited: Connection | None) -> None:
    """Main loop of the process: make calls until the other end is closed, for example because the
    caller ends.

    A forked process closes its ``inherited`` copy of the caller's end, which would keep the
    connection open.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C ends the caller, which ends this process
    if inherited:
        inherited.close()
    with suppress(EOFError, ConnectionError):
        while True:
            function, arguments, memory_bytes = connection.recv()
            limit_memory(memory_bytes)
            answer = _answer(function, arguments, memory_bytes)
            try:
                connection.send(answer)
            except Exception as error:  # an exception that cannot be pickled is sent as text
                connection.send(
                    (False, RuntimeError(f"{type(answer[1]).__name__}: {answer[1]} ({error})"))
                )


def _answer(function: Callable[..., Any], arguments: tuple, memory_bytes: int) -> tuple[bool, Any]:
    """True and the result of the call, or False and the exception that it raised."""
    try:
        return True, function(*arguments)
    except MemoryError:
        return False, SlideError(
            f"{arguments[0]}: takes more than {memory_bytes / 2**30:g} GiB of memory to open, so"
            " its header is damaged; copy it again from its source, or convert it to a tiled,"
            " pyramidal TIFF"
        )
    except MuseError as error:
        return False, error
    except Exception as error:  # a bug: kept with its traceback
        error.add_note(traceback.format_exc())
        return False, error

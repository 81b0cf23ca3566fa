"""Reading files that may crash, hang or exhaust memory: in another process, or with a timeout."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.util import get_temp_dir
from pathlib import Path
from queue import SimpleQueue
from threading import Thread, local
from typing import Any, Self, TypeVar
from weakref import WeakSet

from muse_pipeline.core.errors import HangingReadError, MuseError, OutputError, SlideError
from muse_pipeline.core.process import map_in_order


@dataclass(frozen=True)
class Limits:
    """Limits of a reader.

    Attributes:
        seconds: wall-clock time.
        memory_bytes: memory in addition to that of this process when the reader starts (Linux).
    """

    seconds: float = 600.0
    memory_bytes: int = 6 << 30


LIMITS = Limits()
LONGEST_TMPDIR = 70  # bytes; a socket's address holds 103, about 30 of them for names that multiprocessing adds


def call_isolated(function: Callable[..., Any], path: Path, *arguments: Any, limits: Limits = LIMITS) -> Any:
    """``function(path, *arguments)`` in another process; its exceptions are raised here.

    Raises:
        SlideError: the process crashed on ``path``, hung, or exceeded the memory limit.
    """
    ((_, result),) = map_isolated(function, [(path, *arguments)], limits=limits)
    if isinstance(result, Exception):
        raise result
    return result


def map_isolated(
    function: Callable[..., Any], calls: Iterable[tuple], n_processes: int = 1, limits: Limits = LIMITS
) -> Iterator[tuple[int, Any]]:
    """Every call of ``function`` in another process, ``n_processes`` at the same time, in the order of completion.

    A process makes further calls, also for a later ``map_isolated``: importing the readers takes longer than opening a
    slide. A process whose call failed is ended. A call that crashes a process which made other calls before is repeated
    in a new one, so that no file is rejected for damage done by another.

    Args:
        function: function whose first argument is the file to open.
        calls: arguments of each call.
        n_processes: number of processes.
        limits: limits of each call.

    Yields:
        number of the call and its result, or the exception that it raised or caused.
    """
    waiting, busy = iter(enumerate(calls)), {}
    try:
        while True:
            while len(busy) < n_processes and (call := next(waiting, None)):
                worker = _idle_workers.pop() if _idle_workers else _Worker(function)
                busy[worker.begin(function, call[1], limits)] = call[0], worker
            if not busy:
                return
            deadline = min(worker.deadline for _, worker in busy.values())
            for receiver in wait(list(busy), max(deadline - time.monotonic(), 0)) or _overdue(busy):
                number, worker = busy.pop(receiver)
                result = worker.result()
                if worker.has_crashed and worker.n_calls > 1:
                    again = _Worker(function)
                    busy[again.begin(function, worker.arguments, limits)] = number, again
                else:
                    yield number, result
    finally:
        for _, worker in busy.values():
            worker.stop()
        while len(_idle_workers) > 1:
            _idle_workers.pop().stop()


class _Worker:
    """A process that makes one call after the other."""

    def __init__(self, function: Callable[..., Any]):
        context = _context(function)
        self.connection, other_end = context.Pipe()
        inherited = self.connection if context.get_start_method() == "fork" else None
        self.process = context.Process(target=_serve, args=(other_end, inherited), daemon=True)
        self.process.start()
        other_end.close()
        self.n_calls, self.has_crashed = 0, False

    def begin(self, function: Callable[..., Any], arguments: tuple, limits: Limits) -> Connection:
        """Start a call; the connection is ready to be read when it ends."""
        self.arguments, self.limits = arguments, limits
        self.n_calls += 1
        self.deadline = time.monotonic() + limits.seconds
        with suppress(BrokenPipeError):  # the process died while it was idle
            self.connection.send((function, arguments, limits.memory_bytes))
        return self.connection

    def result(self) -> Any:
        """Result of the call, or the reason why there is none."""
        path, has_returned = self.arguments[0], False
        try:
            if not self.connection.poll():
                return SlideError(
                    f"{path}: not read within {self.limits.seconds:g} s, so it is damaged or its disk hangs; "
                    "copy it again from its source"
                )
            has_returned, result = self.connection.recv()
            return result
        except (EOFError, ConnectionResetError):
            self.has_crashed = True
            self.process.join()
            return SlideError(
                f"{path}: crashes its reader (exit {self.process.exitcode}), so it is damaged; "
                "copy it again from its source, or convert it to OME-TIFF"
            )
        finally:
            if has_returned:
                _idle_workers.append(self)
            else:
                self.stop()

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.join()
        self.connection.close()


_idle_workers: list[_Worker] = []


def _context(function: Callable[..., Any]) -> Any:
    """The way to start processes: forked from this one if it has a single thread, which saves reimporting readers.

    Otherwise a fork could wait forever for a thread that it does not have, for example of OpenCV; then processes are
    forked from a small server that has only imported ``function``.
    """
    if sys.platform == "win32":
        return multiprocessing.get_context("spawn")
    if _has_one_thread():
        return multiprocessing.get_context("fork")
    _shorten_folder_of_sockets()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([function.__module__])
    return context


def _shorten_folder_of_sockets() -> None:
    """Put the socket of the server into /tmp if TMPDIR is too long for the address of a socket.

    Raises:
        OutputError: /tmp cannot be written to.
    """
    if len(os.fsencode(tempfile.gettempdir())) <= LONGEST_TMPDIR:
        return
    kept, tempfile.tempdir = tempfile.tempdir, "/tmp"
    try:
        get_temp_dir()  # multiprocessing keeps the first one that it makes
    except OSError as error:
        raise OutputError(
            f"TMPDIR={kept} is too long for the address of a socket, and /tmp cannot be written to "
            f"({error.strerror}); set TMPDIR to a folder with a shorter path"
        ) from error
    finally:
        tempfile.tempdir = kept


def _has_one_thread() -> bool:
    """True if this process has a single thread, libraries included; False if unknown."""
    try:
        return len(list(Path("/proc/self/task").iterdir())) == 1
    except OSError:
        return False


def _overdue(busy: dict[Connection, tuple[int, _Worker]]) -> list[Connection]:
    return [receiver for receiver, (_, worker) in busy.items() if worker.deadline <= time.monotonic()]


def _serve(connection: Connection, inherited: Connection | None) -> None:
    """Main loop of the process: make calls until the other end is closed, also by the death of the caller.

    Args:
        connection: connection that receives the calls.
        inherited: other end of the connection, of which a fork has a copy that would keep it open.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C ends the caller, which ends this process
    if inherited:
        inherited.close()
    with suppress(EOFError):
        while True:
            function, arguments, memory_bytes = connection.recv()
            _limit_memory(memory_bytes)
            answer = _answer(function, arguments, memory_bytes)
            try:
                connection.send(answer)
            except Exception as error:  # an exception that cannot be pickled is sent as text
                connection.send((False, RuntimeError(f"{type(answer[1]).__name__}: {answer[1]} ({error})")))


def _answer(function: Callable[..., Any], arguments: tuple, memory_bytes: int) -> tuple[bool, Any]:
    """True and the result of the call, or False and the exception that it raised."""
    try:
        return True, function(*arguments)
    except MemoryError:
        return False, SlideError(
            f"{arguments[0]}: takes more than {memory_bytes / 2**30:g} GiB of memory to open, so its header is "
            "damaged; copy it again from its source, or convert it to a tiled, pyramidal TIFF"
        )
    except MuseError as error:
        return False, error
    except Exception as error:  # a bug: kept with its traceback
        error.add_note(_traceback(error))
        return False, error


def _traceback(error: Exception) -> str:
    import traceback

    return "".join(traceback.format_exception(error))


def _limit_memory(n_bytes: int) -> None:
    with suppress(ImportError, OSError, ValueError):  # only Linux has a memory limit
        import resource

        held = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + n_bytes, resource.getrlimit(resource.RLIMIT_AS)[1]))


T, R = TypeVar("T"), TypeVar("R")

LIMIT_S = 600.0  # a few megapixels take seconds, even from a slow network disk
N_WAITS = 60  # a process that is suspended loses one of them, not all its time


def call_in_time(doing: str, function: Callable[..., T], *arguments: Any) -> T:
    """``function(*arguments)`` on another thread, if it ends within ``LIMIT_S``; its exceptions are raised here.

    Within such a call, or one of ``map_in_time``, it is made on the same thread, which has its time limit already.

    Args:
        doing: slide and operation, for the message.
        function: call that may hang.
        arguments: arguments of the call.

    Raises:
        HangingReadError: the call timed out.
    """
    if (outer := getattr(_of_thread, "call", None)) is not None:
        outer.doing = doing
        return function(*arguments)
    pool = _idle_pool()
    call = pool.submit(function, *arguments, doing=doing)
    try:
        return call.result()
    finally:
        if call.ended.done():
            _idle.append(pool)
        del call  # its exception refers to this frame, which would refer to the exception


def map_in_time(function: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    """``process.map_in_order`` with at most ``LIMIT_S`` for every result, during which the slide may be read.

    Faster than ``call_in_time`` in every item of a ``map_in_order``, where a result changes threads twice: each time a
    core is idle until the thread that waits for the result runs.

    Args:
        function: function that reads by ``call_in_time``, whose ``doing`` appears in messages.
        items: items to map, in order.
        threads: number of calls that are made at the same time.

    Raises:
        HangingReadError: a call timed out.
    """
    return map_in_order(function, items, threads, make_pool=TimedThreads)


class Call:
    """A call on another thread.

    Attributes:
        ended: future of the result.
        doing: slide and operation.
        hangs: True if the call timed out.
    """

    def __init__(self, function: Callable[..., Any], arguments: tuple, doing: str):
        self.ended: Future = Future()
        self.doing, self.hangs = doing, False
        self._function, self._arguments = function, arguments

    def make(self) -> None:
        """Make the call; runs on the thread that the call is for."""
        if not self.ended.set_running_or_notify_cancel():
            return
        _of_thread.call = self
        try:
            self.ended.set_result(self._function(*self._arguments))
        except BaseException as error:
            self.ended.set_exception(error)
        finally:
            del _of_thread.call, self  # as above

    def result(self) -> Any:
        """Wait for the result.

        Raises:
            HangingReadError: the call timed out.
        """
        for _ in range(N_WAITS):
            with suppress(TimeoutError):
                self.ended.exception(LIMIT_S / N_WAITS)
                break
        else:
            self.hangs = True
            raise HangingReadError(
                f"{self.doing} has not ended after {LIMIT_S:g} s, so the slide is damaged or its disk hangs; "
                "copy it again from its source, and run the same command again"
            )
        try:
            return self.ended.result()
        finally:
            del self  # as above


_of_thread = local()


def current_call() -> Call:
    """The call that this thread makes."""
    return _of_thread.call


class TimedThreads:
    """Threads whose calls may hang: neither their end nor that of the program waits for them without limit.

    Args:
        n: number of threads.
    """

    def __init__(self, n: int):
        self._n, self._calls = n, SimpleQueue()
        self._open: WeakSet[Future] = WeakSet()  # threads and queue hold those that have not ended
        for _ in range(n):
            Thread(target=_make_calls, args=(self._calls,), daemon=True).start()

    def submit(self, function: Callable[..., Any], *arguments: Any, doing: str = "a read") -> Call:
        """Make a call on the first thread that is free."""
        call = Call(function, arguments, doing)
        self._open.add(call.ended)
        self._calls.put(call)
        return call

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        begun = [ended for ended in self._open if not ended.cancel()]
        for _ in range(self._n):
            self._calls.put(None)
        futures.wait(begun, LIMIT_S / N_WAITS)


def _make_calls(calls: SimpleQueue[Call | None]) -> None:
    while (call := calls.get()) is not None:
        call.make()
        del call  # not held until the next one comes


def _idle_pool() -> TimedThreads:
    """A pool of one thread; a new one per call would cost time and memory."""
    try:
        return _idle.pop()
    except IndexError:
        return TimedThreads(1)


_idle: list[TimedThreads] = []
if hasattr(os, "register_at_fork"):  # a fork has neither the threads nor the processes of its parent
    os.register_at_fork(after_in_child=_idle.clear)
    os.register_at_fork(after_in_child=_idle_workers.clear)

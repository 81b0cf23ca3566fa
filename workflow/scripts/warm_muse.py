"""Run the steps of slides as forks of a process that has loaded all libraries, which saves a second per step.

    python warm_muse.py serve SOCKET                # started by the workflow; ends when its standard input is closed
    python warm_muse.py call SOCKET VERB ...        # stands in for `muse` in the workflow's jobs

A step gets the arguments, environment, folder and standard files of its caller, and ends if that ends. If the process
cannot be reached, the caller runs `muse` itself. This is for Linux only, because libraries on other systems start
threads.
"""

import contextlib
import json
import os
import select
import signal
import socket
import sys

STEPS = (
    *("cli.image", "cli.detect", "cli.nuclei", "pipeline", "slides.inspect", "slides.openslide", "slides.tiffslide"),
    *("tissue.find", "tissue.outline", "tissue.colour", "store.store", "store.write", "inference.detect"),
    *("inference.predictor", "inference.stitch", "inference.region_lookup", "features.measure", "qupath.write"),
    *("report.slide_summary",),
)
MODULES = *(f"muse_pipeline.{name}" for name in STEPS), "tiffslide", "numpy.random", "tqdm"
FILES = (0, 1, 2)  # standard input, output and error
N_BYTES = 8  # number of bytes in which a request's length is sent


def call(path, arguments):
    """Let the warm process run a step, and return the step's exit status."""
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupted step still sends its exit status
    while (spare := os.open(os.devnull, os.O_RDWR)) in FILES:  # opens standard files that are closed
        pass
    os.close(spare)
    with socket.socket(socket.AF_UNIX) as server:
        try:
            server.connect(path)
        except OSError:
            signal.signal(signal.SIGINT, interrupt)
            os.execv(sys.executable, [sys.executable, "-P", "-m", "muse_pipeline.cli.main", *arguments])
        folder = os.getcwd()  # noqa: PTH109 - importing pathlib would take a fifth of the time of a call
        is_ignored = interrupt == signal.SIG_IGN
        request = json.dumps([arguments, folder, dict(os.environ), is_ignored]).encode()
        socket.send_fds(server, [len(request).to_bytes(N_BYTES)], FILES)
        server.sendall(request)
        answer = server.recv(1)
    if not answer:
        print("muse: the process that runs the steps has ended", file=sys.stderr)
    return answer[0] if answer else 1


def serve(path):
    """Wait for requests until standard input is closed, and fork a process for each.

    Returns:
        In a fork, the arguments of the step to run; in the original process, None.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C must only interrupt the steps
    signal.signal(signal.SIGCHLD, reap)
    load_modules()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(64)
        while sys.stdin not in select.select([sys.stdin, listener], [], [])[0]:
            caller, _ = listener.accept()
            if os.fork():
                caller.close()
                continue
            listener.close()
            return supervise(caller)


def reap(*_):
    """Collect the forks that have ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def load_modules():
    """Import the modules of the steps, except ONNX Runtime, because forks do not inherit its threads.

    Arrow's memory allocator also has a thread, but supports forks.
    """
    import gc
    import importlib
    import warnings

    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    for name in MODULES:
        with contextlib.suppress(ImportError):  # an optional library is missing
            importlib.import_module(name)
    gc.freeze()  # because a garbage collection would copy the memory that forks share


def supervise(caller):
    """Fork the step, wait until it ends, and send its exit status; stop it if the caller or the workflow ends.

    Returns:
        In the step, its arguments; the supervising process exits.
    """
    length, files, _, _ = socket.recv_fds(caller, N_BYTES, len(FILES))
    with caller.makefile("rb") as request:
        text = request.read(int.from_bytes(length))
    if not length or len(text) < int.from_bytes(length):  # the caller was killed early
        os._exit(1)
    arguments, *state = json.loads(text)
    ended, ending = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(ending)
    step = os.fork()
    if not step:
        become(caller, files, *state)
        return arguments
    ready, _, _ = select.select([caller, sys.stdin, ended], [], [])
    if ended not in ready:
        os.kill(step, signal.SIGKILL if sys.stdin in ready else signal.SIGTERM)
    _, status = os.waitpid(step, 0)
    code = os.waitstatus_to_exitcode(status)
    with contextlib.suppress(OSError):
        caller.send(bytes([code if code >= 0 else 128 - code]))
    os._exit(0)


def become(caller, files, folder, environment, is_ignored):
    """Adopt the files, folder, environment and interrupt handling of the caller."""
    import tempfile

    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN if is_ignored else signal.default_int_handler)
    caller.close()
    for file, own in zip(files, FILES, strict=True):
        os.dup2(file, own)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # because the caller's TMPDIR may differ


if __name__ == "__main__":
    role, path, *arguments = sys.argv[1:]
    if role == "call":
        sys.exit(call(path, arguments))
    step = serve(path)
    if step:
        from muse_pipeline.cli.main import main

        sys.argv = ["muse", *step]
        sys.exit(main(step))

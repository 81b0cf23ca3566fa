"""Packages and hardware of this machine, and functions that differ between operating systems."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Lock
from typing import IO

PACKAGES = (
    "numpy",
    "zarr",
    "numcodecs",
    "tifffile",
    "imagecodecs",
    "opencv-python-headless",
    "pyarrow",
    "shapely",
)


@dataclass(frozen=True)
class Finding:
    """One package or device that the pipeline may use."""

    topic: str  # name of the package or device
    usable: bool  # True if it can be used here
    found: str  # versions or amounts; if it cannot be used, the reason and the remedy


def examine_environment() -> list[Finding]:
    """Examine all packages and devices, and return the findings in a fixed order."""
    return [
        Finding(
            "python",
            True,
            f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        ),
        _find_openslide(),
        _find_package("reader tiffslide", "tiffslide"),
        _find_package("reader image", "pillow"),
        _find_package("JPEG tiles", "simplejpeg"),
        *_find_runtimes(),
        _find_gpus(),
        _find_package(
            "training", "torch", remedy="not installed; install the extra `train` to train models"
        ),
        _find_package(
            "slides by URL",
            "s3fs",
            remedy="not installed; install the extra `remote` to fetch slides",
        ),
        _find_package("workflow", "snakemake"),
        Finding(
            "packages",
            True,
            ", ".join(f"{name} {_version(name) or 'missing'}" for name in PACKAGES),
        ),
        Finding("cores", True, f"{count_cores()} available of {os.cpu_count()}"),
        _find_memory(),
        Finding(
            "memory limit",
            has_limit := Path("/proc/self/statm").exists(),
            "applies to processes that open slides"
            if has_limit
            else "none on this system for damaged slides",
        ),
        _find_scratch(),
    ]


def find_versions(names: Iterable[str]) -> dict[str, str]:
    """Versions of those distributions that are installed, keyed by name."""
    return {name: version for name in names if (version := _version(name))}


def count_cores() -> int:
    """Number of cores that this process may use, given its affinity and the quota of its container
    (cgroup).
    """
    allowed = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    quota = _read_text("/sys/fs/cgroup/cpu.max").split()  # "200000 100000", or "max 100000"
    if not quota:  # cgroup version 1, where -1 means no quota
        quota = [
            _read_text(f"/sys/fs/cgroup/cpu/cpu.cfs_{what}_us").strip()
            for what in ("quota", "period")
        ]
    if len(quota) == 2 and all(map(str.isdigit, quota)):
        allowed = min(allowed, max(1, round(int(quota[0]) / int(quota[1]))))
    return allowed


def forget_peak_memory() -> None:
    """Reset the peak memory of this process (Linux only; elsewhere the peak is that of all steps so
    far).
    """
    with suppress(OSError):
        # Writing 5 resets only the peak of the resident memory (proc(5)).
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


_apart: set[int] = set()  # ids of child processes that run steps themselves


def set_apart(pids: Iterable[int]) -> None:
    """Leave these child processes out of the costs of the steps of this process."""
    _apart.update(pids)


def _children() -> Iterator[tuple[float, int]]:
    """Processor seconds and resident bytes of each child process of a step; a single one only opens
    slides.
    """
    # loaded by the first that starts a process
    multiprocessing = sys.modules.get("multiprocessing")
    children = multiprocessing.active_children() if multiprocessing else []
    children = [child for child in children if child.pid not in _apart]
    if len(children) > 1:
        import psutil

        for child in children:
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(child.pid)
                yield sum(process.cpu_times()[:2]), process.memory_info().rss


def peak_memory_mib() -> int:
    """Largest resident memory of this process so far (Linux: since its last reset), and that of its
    child processes.
    """
    return _own_peak_mib() + round(sum(size for _, size in _children()) / (1 << 20))


def _own_peak_mib() -> int:
    import re

    # The kernel's figure is better than ``ru_maxrss``, which starts from the peak of the parent
    # process.
    status = Path("/proc/self/status")
    if status.exists() and (
        stated := re.search(rb"^VmHWM:\s*(\d+) kB", status.read_bytes(), re.MULTILINE)
    ):
        return round(int(stated[1]) / (1 << 10))
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        memory = psutil.Process().memory_info()
        return round(getattr(memory, "peak_wset", memory.rss) / (1 << 20))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1 << 20 if sys.platform == "darwin" else 1 << 10))


def limit_memory(n_bytes: int) -> None:
    """Limit the memory of this process to what it uses now plus ``n_bytes`` (Linux only)."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        held = (
            int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
            * resource.getpagesize()
        )
        resource.setrlimit(
            resource.RLIMIT_AS, (held + n_bytes, resource.getrlimit(resource.RLIMIT_AS)[1])
        )


def choose_start_method() -> str:
    """The start method for child processes: "fork" if this process certainly has a single thread,
    otherwise "spawn".

    A fork of a process with several threads, for example OpenCV's, could wait forever for a thread
    that does not exist in the fork. The environment variable MUSE_START_METHOD=spawn prevents
    forks.
    """
    try:
        n_threads = len(list(Path("/proc/self/task").iterdir()))
    except OSError:
        return "spawn"
    may_fork = n_threads == 1 and os.environ.get("MUSE_START_METHOD") != "spawn"
    return "fork" if may_fork else "spawn"


def lock_file(file: IO[bytes], shared: bool = False) -> None:
    """Lock a file, opened only once in this process, against others until it is closed; Windows
    ignores ``shared``.
    """
    try:
        import fcntl
    except (
        ImportError
    ):  # Windows; a locked byte cannot be read there, so lock one far beyond the end of the file
        import msvcrt

        file.seek(1 << 30)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except PermissionError as error:
            raise BlockingIOError(*error.args) from error
        return
    # Not flock, whose lock would also be held by forks of this process.
    fcntl.lockf(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


@cache
def reserve_gpu() -> None:
    """Restrict this process, before it uses a GPU, to one NVIDIA GPU that no other process of this
    user has reserved.

    The reservation ends with the process. If all GPUs are reserved, one of them is shared. A GPU
    that the driver has lost is not in the driver's list, so the next process uses a different one.
    """
    import subprocess
    import tempfile

    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        names = visible.split(",")
    else:
        try:
            names = [
                line for line in _ask_nvidia_smi("uuid", check=False) if line.startswith("GPU-")
            ]
        except (
            OSError,
            subprocess.SubprocessError,
        ):  # there is no NVIDIA driver, or it does not answer
            return
    if len(names) < 2:
        return
    user = os.getuid() if hasattr(os, "getuid") else ""
    for name in names:
        with suppress(OSError):
            lock = Path(tempfile.gettempdir(), f"muse-gpu-{user}-{name}.lock")
            lock_file(_RESERVED.enter_context(lock.open("ab")))
            break
    else:
        name = names[os.getpid() % len(names)]
    os.environ["CUDA_VISIBLE_DEVICES"] = name


_RESERVED = ExitStack()  # locks that are held until the process ends


def read_at(file: int, n_bytes: int, offset: int) -> bytes:
    """Read at most ``n_bytes`` at an offset of a file, given its descriptor; safe to call from
    several threads.
    """
    if hasattr(os, "pread"):
        return os.pread(file, n_bytes, offset)
    with _POSITION:  # Windows
        os.lseek(file, offset, os.SEEK_SET)
        return os.read(file, n_bytes)


_POSITION = Lock()  # guards the position of an open file, which all threads share


def link_folder(link: Path, target: str, folder: Path) -> None:
    """Link to ``target``, which may be relative to the link's later location; or else copy
    ``folder``, the same folder.

    Where links are not allowed, a folder with hard links or copies of the files is made.
    """
    try:
        link.symlink_to(target, target_is_directory=True)
    except (OSError, NotImplementedError):  # Windows may not allow the user to make links
        try:
            shutil.copytree(folder, link, copy_function=os.link)
        except (OSError, shutil.Error):  # the folder is on a different disk
            shutil.copytree(folder, link, dirs_exist_ok=True)


def write_any_text() -> None:
    """Make standard output and error accept any text: in UTF-8, or with escapes in a terminal
    without UTF-8.
    """
    for stream in (sys.stdout, sys.stderr):
        if "utf" not in (getattr(stream, "encoding", None) or "utf").lower() and hasattr(
            stream, "reconfigure"
        ):
            stream.reconfigure(
                encoding=None if stream.isatty() else "utf-8", errors="backslashreplace"
            )


def all_processor_seconds() -> float:
    """Processor time used so far by this process and its child processes."""
    return sum(os.times()[:4]) + sum(seconds for seconds, _ in _children())


def _find_package(
    topic: str, name: str, remedy: str = "missing; install muse-pipeline again"
) -> Finding:
    version = _version(name)
    return Finding(
        topic, version is not None, f"{name} {version}" if version else f"{name} {remedy}"
    )


def _find_openslide() -> Finding:
    topic = "reader openslide"
    try:
        import openslide
    except (ImportError, OSError) as error:  # only one of the package and the library is installed
        return Finding(
            topic, False, f"cannot be loaded ({error}); pip install openslide-python openslide-bin"
        )
    return Finding(
        topic,
        True,
        f"openslide-python {openslide.__version__}, library {openslide.__library_version__}",
    )


def _find_runtimes() -> Iterator[Finding]:
    topic = "model runtime"
    installed = find_versions(("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino"))
    if len(installed) > 1:
        yield Finding(
            topic,
            False,
            f"{' and '.join(installed)} exclude each other; uninstall all and install one",
        )
        return
    try:
        import onnxruntime
    except ImportError:
        yield Finding(
            topic,
            False,
            "onnxruntime is not installed; install the extra `cpu`, `gpu` or `openvino`",
        )
        return
    yield Finding(topic, True, f"{next(iter(installed), 'onnxruntime')} {onnxruntime.__version__}")


def _find_gpus() -> Finding:
    import subprocess

    try:
        listed = _ask_nvidia_smi("name,memory.total,driver_version", check=True)
    except FileNotFoundError:
        return Finding(
            "gpu", False, "none found (there is no nvidia-smi); everything also runs on the CPU"
        )
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("gpu", False, f"nvidia-smi fails ({error}); check the driver")
    return Finding("gpu", bool(listed), "; ".join(listed) or "none listed")


def _ask_nvidia_smi(fields: str, check: bool) -> list[str]:
    """Query these fields, and return a line per GPU; with ``check``, raise an error if nvidia-smi
    fails.
    """
    import subprocess

    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=20, check=check
    ).stdout.splitlines()


def _find_memory() -> Finding:
    import psutil

    total = psutil.virtual_memory().total
    limit = (
        _read_text("/sys/fs/cgroup/memory.max")
        or _read_text("/sys/fs/cgroup/memory/memory.limit_in_bytes")  # cgroup version 1
    ).strip()
    usable = min(total, int(limit)) if limit.isdigit() else total
    return Finding("memory", True, f"{usable / 2**30:.1f} GiB usable of {total / 2**30:.1f}")


def _find_scratch() -> Finding:
    import tempfile

    try:
        folder = tempfile.gettempdir()
        with tempfile.TemporaryFile() as file:
            file.write(b"x")
    except OSError as error:
        folder = tempfile.tempdir or "every folder for temporary files"
        return Finding(
            "scratch",
            False,
            f"{folder} cannot be written ({error.strerror}); set TMPDIR to another folder",
        )
    return Finding(
        "scratch",
        True,
        f"{folder} is writable, {shutil.disk_usage(folder).free / 2**30:.1f} GiB free",
    )


@cache
def _version(name: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _read_text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii")
    except OSError:
        return ""

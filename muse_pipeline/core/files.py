"""Files that appear under their final name only when they are complete."""

from __future__ import annotations

import errno
import glob
import gzip
import json
import os
import platform
import shutil
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from muse_pipeline.core.errors import GeoJSONError, MuseError, OutputError

DAY_S = 86_400
_REPLACED = "replaced."  # prefix of an older folder that is being replaced


@contextmanager
def complete_file(path: Path | str) -> Iterator[Path]:
    """Give a temporary neighbour to write to; rename it to ``path`` if the block succeeds, else remove it.

    Works for files and folders (an existing folder of that name is replaced by a folder, but never by a file).
    Temporary files that killed processes left for the same path are removed first.

    Raises:
        OutputError: the folder cannot be written to or the disk is full.
    """
    path = Path(path)
    who = f"{platform.node()}-{os.getpid()}.partial"
    partial, replaced = path.with_name(f".{path.name}.{who}"), path.with_name(f".{path.name}.{_REPLACED}{who}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for abandoned in _abandoned(path):
            remove(abandoned)
        remove(partial)
        yield partial
        _make_way(path, partial, replaced)
        partial.replace(path)
        remove(replaced)
    except MuseError:
        raise
    except PermissionError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}); choose another output folder") from error
    except (OSError, RuntimeError) as error:  # the latter is raised by torch
        if disk := find_full_disk(error, [path.parent]):
            remove(partial)
            raise OutputError(f"{path}: cannot be written {disk}") from error
        if not _concerns_output(error, {str(partial), str(path.parent)}):
            raise
        raise OutputError(f"{path}: cannot be written ({error.strerror}); choose another output folder") from error
    finally:
        with suppress(OSError):  # if nothing can be removed, nothing was written
            remove(partial)


# EEXIST: a file where a folder should be. EFBIG: larger than files may be there.
_NOT_WRITABLE = {errno.EACCES, errno.EEXIST, errno.ENOTDIR, errno.EROFS, errno.EFBIG}


def _concerns_output(error: OSError | RuntimeError, names: set[str]) -> bool:
    """True if an error is about the path that is written, not about one that is read meanwhile."""
    return isinstance(error, OSError) and (error.errno in _NOT_WRITABLE or error.filename in names)


def _abandoned(path: Path) -> Iterator[Path]:
    """Temporary files for ``path`` left by killed processes of this machine, or a day old if of another machine."""
    for partial in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        host, _, pid = partial.name.removeprefix(f".{path.name}.").removesuffix(".partial").rpartition("-")
        if host.removeprefix(_REPLACED) == platform.node() and pid.isdigit():
            if not _is_at_work(int(pid)):
                yield partial
        elif time.time() - partial.stat().st_mtime > DAY_S:
            yield partial


def _is_at_work(pid: int) -> bool:
    """True if the process is running (zombies excluded)."""
    import psutil

    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:  # another user's
        return True


def _make_way(path: Path, partial: Path, replaced: Path) -> None:
    """Move an older folder aside; removing it in place would leave it incomplete for a while, or for good if killed."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OutputError(f"{path}: is a device or a pipe; give the name of a file")
    if not path.is_dir() or path.is_symlink():
        return
    if not partial.is_dir():
        raise OutputError(f"{path}: is a folder; add the name of a file")
    remove(replaced)
    path.rename(replaced)


def require_own_folder(path: Path, is_ours: bool = False) -> None:
    """Raise an error if a folder that this package did not create would be replaced.

    Args:
        path: folder, which need not exist.
        is_ours: the folder may be replaced.

    Raises:
        OutputError: the folder contains something else.
    """
    if path.is_dir() and any(path.iterdir()) and not is_ours:
        raise OutputError(f"{path}: is a folder that this command did not create; choose another one")


def remove(path: Path) -> None:
    """Delete a file or folder if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def open_geojson(path: Path | str) -> Iterator[BinaryIO]:
    """Open the text of a GeoJSON file: plain, gzip, or a zip with one of these, whatever its name.

    Raises:
        GeoJSONError: the file is missing, its compression is damaged, or the zip contains none or several.
    """
    try:
        with ExitStack() as stack:
            file = stack.enter_context(Path(path).open("rb"))
            if file.peek(2).startswith(b"PK"):
                archive = stack.enter_context(zipfile.ZipFile(file))
                file = stack.enter_context(open_member(archive, _only_geojson(archive, path)))
            if file.peek(2).startswith(b"\x1f\x8b"):
                file = stack.enter_context(gzip.open(file))
            yield file
    except FileNotFoundError as error:
        raise GeoJSONError(f"{path}: no such file; give the path of a GeoJSON file") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise GeoJSONError(f"{path}: the gzip compression is damaged ({error}); export it again") from error
    except zipfile.BadZipFile as error:
        raise GeoJSONError(f"{path}: the zip file cannot be unpacked ({error}); export it again") from error
    except OSError as error:
        raise GeoJSONError(f"{path}: cannot be read ({error.strerror}); give the path of a GeoJSON file") from error


def open_member(archive: zipfile.ZipFile, name: str) -> BinaryIO:
    """Open a file in a zip.

    Raises:
        zipfile.BadZipFile: the zip is damaged, compressed by an unknown method, or needs a password.
    """
    try:
        return archive.open(name)
    except (NotImplementedError, RuntimeError) as error:
        raise zipfile.BadZipFile(str(error)) from error


def list_geojson(archive: zipfile.ZipFile) -> list[str]:
    """Names of the GeoJSON files in a zip, without those that macOS adds."""
    suffixes = (".geojson", ".json", ".geojson.gz", ".json.gz")
    names = [name for name in archive.namelist() if name.lower().endswith(suffixes)]
    return [name for name in names if not name.startswith("__MACOSX/")]


def _only_geojson(archive: zipfile.ZipFile, path: Path | str) -> str:
    names = list_geojson(archive)
    if len(names) != 1:
        found = f"{len(names)} GeoJSON files ({', '.join(names[:3])})" if names else "no .geojson or .json file"
        raise GeoJSONError(f"{path}: the zip contains {found}, expected one; unpack it and give that file")
    return names[0]


def sha256_of(path: Path | str) -> str:
    """SHA-256 (hex) of a file."""
    import hashlib

    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_name(path: Path, how: str) -> str:
    """Name of a file derived from ``path`` in one way; it changes when the file is rewritten."""
    import hashlib

    found = path.stat()
    return hashlib.sha256(f"{path.resolve()} {found.st_size} {found.st_mtime_ns} {how}".encode()).hexdigest()[:16]


def write_json(path: Path | str, values: Any) -> None:
    """Write readable JSON with sorted keys, complete or not at all.

    Raises:
        ValueError: a number is not finite, which JSON does not have.
    """
    text = json_text(values)
    with complete_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def json_text(values: Any) -> str:
    """JSON text as ``write_json`` writes it."""
    return json.dumps(values, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def read_json(path: Path | str) -> Any:
    """Read a JSON file that a step of this package wrote.

    Raises:
        OSError, ValueError: the file cannot be read or is not valid JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


FULL = {errno.ENOSPC, errno.EDQUOT}
PROBE_BYTES = 1 << 16
PLENTY_BYTES = 1 << 30  # free: more than was removed of an unfinished output


@dataclass(frozen=True)
class FullDisk:
    """The cause of a failed write, as the end of a message.

    Attributes:
        folder: folder on the full disk; None if no disk that was checked is full.
        number: ENOSPC, or EDQUOT if the user's quota is exceeded.
    """

    folder: Path | None
    number: int

    def __str__(self) -> str:
        """Free space at this moment: call it after the unfinished output is removed."""
        reason = os.strerror(self.number)
        return f"({reason}): {self._where()}; make room and run the same command again (finished results are kept)"

    def _where(self) -> str:
        if self.folder is None:
            return "a disk that it writes or logs to is full"
        disk = next(each for each in (self.folder, *self.folder.parents) if each.is_mount())
        if self.number == errno.ENOSPC:
            return f"{disk} has {_free_bytes(disk) / 1e6:,.1f} MB free"
        return f"your quota on {disk} is exceeded, in bytes or in files"


def find_full_disk(error: OSError | RuntimeError, folders: Sequence[Path]) -> FullDisk | None:
    """The full disk that caused ``error``, or None if the cause was another.

    A failed write does not name its disk, and errors of torch and tifffile do not even contain the reason. So the disks
    are probed, before the unfinished output is removed.

    Args:
        error: the exception.
        folders: one or more folders that were written to, the likeliest first; that of temporary files is probed too if
            the error is about a full disk.
    """
    code = getattr(error, "errno", None)
    if code not in {None, *FULL} or isinstance(error, (RecursionError, NotImplementedError)):
        return None
    asked = [_nearest(folder) for folder in (*folders, *(_temporary_folder() if code else []))]
    unwritable = (FullDisk(folder, number) for folder in asked if (number := _write_error(folder)))
    if (full := next(unwritable, None)) or code is None:
        return full
    fullest = min(asked, key=_free_bytes)  # the file that filled it may be removed already
    is_another = code == errno.ENOSPC and _free_bytes(fullest) > PLENTY_BYTES  # that of a log
    return FullDisk(None if is_another else fullest, code)


def _temporary_folder() -> list[Path]:
    with suppress(FileNotFoundError):  # every candidate disk is full
        return [Path(tempfile.gettempdir())]
    return []


def _nearest(folder: Path) -> Path:
    """The folder, or its nearest existing parent."""
    folder = folder.resolve()
    return next(each for each in (folder, *folder.parents) if each.is_dir())


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def _write_error(folder: Path) -> int | None:
    """Error number of a disk that does not accept a few more bytes."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(PROBE_BYTES))
    except OSError as error:
        return error.errno if error.errno in FULL else None
    return None

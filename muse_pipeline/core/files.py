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
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from muse_pipeline.core.errors import GeoJSONError, MuseError, OutputError

DAY_S = 86_400
_REPLACED = "replaced."  # an older folder whose place the new one takes


@contextmanager
def complete_file(path: Path | str) -> Iterator[Path]:
    """Give a temporary neighbour to write to; rename it to ``path`` when the block ends well, else remove it.

    Works for files and for folders (an existing folder of that name is replaced, but never by a file). What a killed
    process has left of the same file goes first.

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
    except (OSError, RuntimeError) as error:  # the latter is what torch raises
        if disk := find_full_disk(error, [path.parent]):
            remove(partial)
            raise OutputError(f"{path}: cannot be written {disk}") from error
        if not _is_of_the_place(error, {str(partial), str(path.parent)}):
            raise
        raise OutputError(f"{path}: cannot be written ({error.strerror}); choose another output folder") from error
    finally:
        with suppress(OSError):  # where nothing can be removed, nothing was written
            remove(partial)


# EEXIST: a file where a folder should be. EFBIG: larger than files may be there.
_NO_PLACE = {errno.EACCES, errno.EEXIST, errno.ENOTDIR, errno.EROFS, errno.EFBIG}


def _is_of_the_place(error: OSError | RuntimeError, names: set[str]) -> bool:
    """Whether an error tells of where something was written, and not of what was read meanwhile."""
    return isinstance(error, OSError) and (error.errno in _NO_PLACE or error.filename in names)


def _abandoned(path: Path) -> Iterator[Path]:
    """What killed processes left of ``path``: here, those that are gone; of other machines, what is a day old."""
    for partial in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        host, _, pid = partial.name.removeprefix(f".{path.name}.").removesuffix(".partial").rpartition("-")
        if host.removeprefix(_REPLACED) == platform.node() and pid.isdigit():
            if not _is_at_work(int(pid)):
                yield partial
        elif time.time() - partial.stat().st_mtime > DAY_S:
            yield partial


def _is_at_work(pid: int) -> bool:
    """Whether a process lives; one that was killed and that nobody has buried yet does not."""
    import psutil

    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:  # somebody else's
        return True


def _make_way(path: Path, partial: Path, replaced: Path) -> None:
    """Move an older folder aside: removed in its place it would be there in part for a while, or for good if killed."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OutputError(f"{path}: is a device or a pipe, not the name of a file; give one")
    if not path.is_dir() or path.is_symlink():
        return
    if not partial.is_dir():
        raise OutputError(f"{path}: is a folder, not the name of a file; add a name to it")
    remove(replaced)
    path.rename(replaced)


def require_own_folder(path: Path, is_ours: bool = False) -> None:
    """Spare a folder of somebody's own, which ``complete_file`` would replace with all that lies in it.

    Args:
        path: of the folder; there or not.
        is_ours: it may be replaced, whatever it holds.

    Raises:
        OutputError: the folder holds something else.
    """
    if path.is_dir() and any(path.iterdir()) and not is_ours:
        raise OutputError(f"{path}: is a folder with something else in it; name a new one")


def remove(path: Path) -> None:
    """Delete a file or folder if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def open_geojson(path: Path | str) -> Iterator[BinaryIO]:
    """Open the text of a GeoJSON file, which may be in gzip or the only GeoJSON file of a zip, whatever its name.

    Raises:
        GeoJSONError: there is no such file, its compression is damaged, or the zip holds none or several.
    """
    try:
        with Path(path).open("rb") as file:
            start = file.read(4)
            file.seek(0)
            if start.startswith(b"PK"):
                with zipfile.ZipFile(file) as archive, open_member(archive, _only_geojson(archive, path)) as member:
                    yield member
            elif start.startswith(b"\x1f\x8b"):
                with gzip.open(file) as unzipped:
                    yield unzipped
            else:
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
        zipfile.BadZipFile: it is damaged, compressed by an unknown method, or needs a password.
    """
    try:
        return archive.open(name)
    except (NotImplementedError, RuntimeError) as error:
        raise zipfile.BadZipFile(str(error)) from error


def list_geojson(archive: zipfile.ZipFile) -> list[str]:
    """The names of the GeoJSON files in a zip; what macOS adds to a zip is none."""
    names = [name for name in archive.namelist() if name.lower().endswith((".geojson", ".json"))]
    return [name for name in names if not name.startswith("__MACOSX/")]


def _only_geojson(archive: zipfile.ZipFile, path: Path | str) -> str:
    names = list_geojson(archive)
    if len(names) != 1:
        found = f"{len(names)} GeoJSON files ({', '.join(names[:3])})" if names else "no .geojson or .json file"
        raise GeoJSONError(f"{path}: the zip holds {found}, where one is expected; unpack it and give that file")
    return names[0]


def sha256_of(path: Path | str) -> str:
    """SHA-256 (hex) of a file."""
    import hashlib

    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path | str, values: Any) -> None:
    """Write readable JSON with sorted keys, complete or not at all.

    Raises:
        ValueError: a number is not finite, which JSON does not have.
    """
    text = json_text(values)
    with complete_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def json_text(values: Any) -> str:
    """As ``write_json`` writes them."""
    return json.dumps(values, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def read_json(path: Path | str) -> Any:
    """Read a JSON file that one of our steps wrote.

    Raises:
        OSError, ValueError: it cannot be read, or is no JSON that anybody would write.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


FULL = {errno.ENOSPC, errno.EDQUOT}
PROBE_BYTES = 1 << 16
PLENTY_BYTES = 1 << 30  # free: more than was removed of what a step had begun


@dataclass(frozen=True)
class FullDisk:
    """What stopped a write, in words for the end of a sentence.

    Attributes:
        folder: lies on the disk; None where none of those that were asked is full.
        number: ENOSPC, or EDQUOT where it is one user's share of it that is used up.
    """

    folder: Path | None
    number: int

    def __str__(self) -> str:
        """What is free is what is free now: to be asked after what was begun is removed."""
        reason = os.strerror(self.number)
        return f"({reason}): {self._where()}; make room and run the same command again, what is finished stays"

    def _where(self) -> str:
        if self.folder is None:
            return "a disk that it writes or logs to is full"
        disk = next(each for each in (self.folder, *self.folder.parents) if each.is_mount())
        if self.number == errno.ENOSPC:
            return f"{disk} has {_free_bytes(disk) / 1e6:,.1f} MB free"
        return f"your share of {disk} is used up, in bytes or in files"


def find_full_disk(error: OSError | RuntimeError, folders: Sequence[Path]) -> FullDisk | None:
    """The full disk that ``error`` came of, or None if it came of something else.

    A write that fails names no disk, and torch and tifffile do not even say why theirs failed. So the disks are asked,
    which has to be before what was begun is removed.

    Args:
        error: what went wrong.
        folders: where something was written, one or more, the likeliest first; that of temporary files is asked too if
            the error speaks of a full disk.
    """
    said = getattr(error, "errno", None)
    if said not in {None, *FULL} or isinstance(error, (RecursionError, NotImplementedError)):
        return None
    asked = [_nearest(folder) for folder in (*folders, *(_temporary_folder() if said else []))]
    refused = (FullDisk(folder, number) for folder in asked if (number := _refusal(folder)))
    if (full := next(refused, None)) or said is None:
        return full
    fullest = min(asked, key=_free_bytes)  # what filled it was removed already
    is_another = said == errno.ENOSPC and _free_bytes(fullest) > PLENTY_BYTES  # a log's
    return FullDisk(None if is_another else fullest, said)


def _temporary_folder() -> list[Path]:
    with suppress(FileNotFoundError):  # every disk that it could lie on is full
        return [Path(tempfile.gettempdir())]
    return []


def _nearest(folder: Path) -> Path:
    """The folder, or the first above it that is there."""
    folder = folder.resolve()
    return next(each for each in (folder, *folder.parents) if each.is_dir())


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def _refusal(folder: Path) -> int | None:
    """The error number of a disk that does not take a few bytes more."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(PROBE_BYTES))
    except OSError as error:
        return error.errno if error.errno in FULL else None
    return None

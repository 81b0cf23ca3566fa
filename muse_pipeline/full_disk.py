"""A disk that takes no more: which one it is, and how much it has left."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

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

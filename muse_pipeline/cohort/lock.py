"""A lock on a folder of results: one run at a time, of the workflow, ``muse run`` or a training,
writes to it.
"""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO

from muse_pipeline.core.environment import lock_file
from muse_pipeline.core.errors import OutputError

NAME = ".lock"


@contextmanager
def lock_results(folder: Path, program: str) -> Iterator[None]:
    """Keep other runs out of a folder of results, which is created if missing, until the block or
    the process ends.

    Other runs show the name of the ``program`` in their error message.
    """
    path = folder / NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        opened = path.open("ab+", buffering=0)
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({error.strerror}); choose another output folder"
        ) from error
    with opened as file:
        try:
            lock_file(file)
        except BlockingIOError as error:
            raise OutputError(_describe(folder, file)) from error
        except OSError as error:
            print(
                f"{folder}: this disk has no locks ({error.strerror}); start no other run there"
                " until this one ends"
            )
        since = datetime.now().astimezone().isoformat(" ", "minutes")
        with suppress(OSError):  # a full disk, which the next write reports
            file.truncate(0)
            file.write(
                f"{program} (process {os.getpid()} on {platform.node()}, since {since})".encode()
            )
        yield


def find_other_run(folder: Path) -> str | None:
    """Describe in a sentence the run that has locked a folder of results; None if it is not
    locked.
    """
    with suppress(FileNotFoundError), (folder / NAME).open("rb") as file:
        try:
            lock_file(file, shared=True)
        except BlockingIOError:
            return _describe(folder, file)
        except OSError:  # a disk that has no locks
            return None
    return None


def _describe(folder: Path, file: IO[bytes]) -> str:
    file.seek(0)
    holder = file.read().decode() or "another run"
    return (
        f"{folder}: {holder} is writing results there; wait until it ends, stop it, or choose"
        " another output folder"
    )

"""Files that appear under their final name only when they are complete."""

from __future__ import annotations

import csv
import errno
import glob
import gzip
import json
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from muse_pipeline.core.content import name_content
from muse_pipeline.core.errors import LabelError, MuseError, OutputError

DAY_S = 86_400
# EEXIST: there is a file where a folder should be. EFBIG: the file is larger than the disk or a
# quota allows.
_NOT_WRITABLE = {errno.EACCES, errno.EPERM, errno.EEXIST, errno.ENOTDIR, errno.EROFS, errno.EFBIG}


@contextmanager
def complete_file(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path to write to; rename it to ``path`` if the block succeeds, or else
    remove it.

    Both files and folders can be written; an existing folder is replaced by a folder, but never by
    a file. Temporary files that killed processes left for the same path are removed after a day.
    """
    path = Path(path)
    hidden = f".{path.name}."
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            for abandoned in path.parent.glob(f"{glob.escape(hidden)}*.partial"):
                with suppress(FileNotFoundError):  # another process has renamed or removed it
                    if time.time() - abandoned.stat().st_mtime > DAY_S:
                        remove(abandoned)
            # Next to the target, since files can only be renamed within one disk.
            folder = TemporaryDirectory(".partial", hidden, path.parent, ignore_cleanup_errors=True)
            partial = Path(stack.enter_context(folder)) / path.name
            yield partial
            _make_way(path, partial)
            partial.replace(path)
        except MuseError:
            raise
        except (OSError, RuntimeError) as error:  # torch raises RuntimeError
            if (number := getattr(error, "errno", None) or _write_error(path.parent)) in FULL:
                raise OutputError(
                    f"{path}: cannot be written ({os.strerror(number)}); make room there or for"
                    " temporary files, and run the same command again (finished results are kept)"
                ) from error
            if not _concerns_output(error, path.absolute(), hidden):
                raise
            raise OutputError(
                f"{path}: cannot be written ({error.strerror}); choose another output folder"
            ) from error


def _concerns_output(error: OSError | RuntimeError, path: Path, hidden: str) -> bool:
    """True if an error concerns writing to the absolute ``path``, not a file that the block
    reads.
    """
    if not isinstance(error, OSError) or error.filename is None:
        return getattr(error, "errno", None) in _NOT_WRITABLE
    name = Path(str(error.filename)).absolute()  # the temporary path is absolute since Python 3.12
    return name in (path, *path.parents) or str(name).startswith(str(path.with_name(hidden)))


def _make_way(path: Path, partial: Path) -> None:
    """Move an existing folder aside; removing it in place would leave a part of it if the process
    were killed.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OutputError(f"{path}: is a device or a pipe; give the name of a file")
    if not path.is_dir() or path.is_symlink():
        return
    if not partial.is_dir():
        raise OutputError(f"{path}: is a folder; add the name of a file")
    path.rename(partial.with_name(f"{path.name}.replaced"))


def require_own_folder(path: Path, is_ours: bool) -> None:
    """Check that a folder, if it exists, may be replaced: this package created it (``is_ours``), or
    it is empty.
    """
    if path.is_dir() and any(path.iterdir()) and not is_ours:
        raise OutputError(
            f"{path}: is a folder that this command did not create; choose another one"
        )


def remove(path: Path) -> None:
    """Delete a file or folder if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def sha256_of(path: Path | str) -> str:
    """SHA-256 (hex) of a file."""
    import hashlib

    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_name(path: Path, how: str) -> str:
    """Name of the cache file for ``path`` when processed as ``how`` describes; changes when
    ``path`` is rewritten.
    """
    import hashlib

    stat = path.stat()
    return hashlib.sha256(
        f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns} {how}".encode()
    ).hexdigest()[:16]


def read_tsv(path: Path) -> list[dict[str, str]]:
    """The rows of a table that ``write_tsv`` wrote."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, dialect="excel-tab"))


def write_tsv(path: Path, columns: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a table atomically; missing cells are empty."""
    with (
        complete_file(path) as partial,
        partial.open("w", encoding="utf-8", newline="", errors="replace") as file,
    ):
        writer = csv.DictWriter(
            file, list(columns), dialect="excel-tab", lineterminator="\n", extrasaction="ignore"
        )
        writer.writeheader()
        writer.writerows(rows)


def write_json(path: Path | str, values: Any) -> None:
    """Write indented JSON with sorted keys; ``path`` is replaced only if writing succeeds."""
    write_text(path, json_text(values))


def write_text(path: Path | str, text: str) -> None:
    """Write a text; ``path`` is replaced only if writing succeeds."""
    with complete_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def json_text(values: Any) -> str:
    """The text that ``write_json`` writes."""
    return json.dumps(values, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def read_json(path: Path | str) -> Any:
    """Read a JSON file."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def find_json(path: Path | str) -> Any:
    """The content of a JSON file; None if it is missing or invalid, for example because its writer
    was killed.
    """
    try:
        return read_json(path)
    except (OSError, ValueError):
        return None


FULL = {errno.ENOSPC, errno.EDQUOT}


def _write_error(folder: Path) -> int | None:
    """Try to write 64 KiB to ``folder``, and return the error number if its disk is full.

    Errors of torch and tifffile do not state this reason. The unfinished output must still be
    there.
    """
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(1 << 16))
    except OSError as error:
        return error.errno
    return None


MOST_TEXT_BYTES = 1 << 30  # of a table; a small compressed file may have more


def read_lines(path: Path) -> list[str]:
    """Read the lines of a text file, which may be compressed, in UTF-8 or in Windows-1252 of older
    programs.
    """
    if what := name_content(path):
        raise LabelError(f"{path}: {what}")
    try:
        content = path.read_bytes()
        if content.startswith(b"\x1f\x8b"):
            with gzip.open(path) as file:
                content = file.read(MOST_TEXT_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        why = getattr(error, "strerror", None) or error
        raise LabelError(f"{path}: not readable ({why}); correct the path or the file") from error
    if len(content) > MOST_TEXT_BYTES:
        raise LabelError(
            f"{path}: has more than {MOST_TEXT_BYTES >> 20:,} MiB of text; divide it into several"
            " files"
        )
    try:
        return content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        if b"\0" not in content:  # as in UTF-16, which can often be decoded as Windows-1252 too
            with suppress(UnicodeDecodeError):
                return content.decode("cp1252").splitlines()
        line = content.count(b"\n", 0, error.start) + 1
        raise LabelError(
            f"{path}, line {line}: not readable as text in UTF-8; save the file as UTF-8"
        ) from error


def iterate_rows(path: Path) -> Iterator[tuple[int, list[str], str | None]]:
    """Yield the rows of a table that are not blank, also with the semicolons of German tables.

    A row is the line on which it ends, its stripped cells, and the separator of the table: the most
    frequent of tab, semicolon and comma in its first line, or None for blanks.
    """
    lines = read_lines(path)
    first = next(filter(str.strip, lines), "")
    separator = max("\t;,", key=first.count) if set("\t;,") & set(first) else None
    reader = csv.reader(lines, delimiter=separator or " ", strict=True)
    rows = (
        ((reader.line_num, row) for row in reader)
        if separator
        else enumerate(map(str.split, lines), 1)
    )
    try:
        for number, row in rows:
            if any(cells := [cell.strip() for cell in row]):
                yield number, cells, separator
    except csv.Error as error:
        raise LabelError(
            f"{path}, line {reader.line_num}: not readable as CSV ({error}); correct it"
        ) from error


def read_rows(path: Path, columns: str) -> tuple[str | None, list[tuple[int, list[str]]]]:
    """The separator and the rows of a table, as from ``iterate_rows``; an error lists the
    ``columns`` of the header.
    """
    if not (rows := list(iterate_rows(path))):
        raise LabelError(f"{path}: is empty; give columns {columns}")
    return rows[0][2], [(number, cells) for number, cells, _ in rows]

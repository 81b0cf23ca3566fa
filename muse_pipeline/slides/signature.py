"""What a file is before anybody opens it: there or not, and what its first bytes and its length say."""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path

from muse_pipeline.errors import SlideError
from muse_pipeline.slides.url import SlideUrl

_REMEDY = "copy it again from its source, or convert it to OME-TIFF"


def require_file(path: Path) -> None:
    """Make sure that there is something to open at ``path``.

    Raises:
        SlideError: it is missing, a folder, empty, may not be read, or no result could say its name.
    """
    if problem := name_problem(path):
        raise SlideError(problem)
    try:
        if path.is_dir():
            raise SlideError(
                f"{path}: is a folder, not a slide; give the slide file inside it, or make a sheet (`muse sheet`)"
            )
        with path.open("rb") as file:
            if not file.read(1):
                raise SlideError(f"{path}: is empty (0 bytes); copy it again from its source")
    except OSError as error:
        if isinstance(error, SlideError):
            raise
        if url := re.fullmatch(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", str(path)):  # of whose slashes a path keeps one
            shown = SlideUrl(f"{url[1]}://{url[2]}")
            raise SlideError(f"{shown}: is a URL, not a path; copy it here first with `muse fetch`") from error
        if isinstance(error, FileNotFoundError):
            raise SlideError(f"{path}: no such file; check the path") from error
        raise SlideError(f"{path}: cannot be read ({error.strerror}); check its permissions and its disk") from error


def name_problem(path: Path) -> str:
    """What is wrong with a name in bytes of an old encoding, which neither a sheet nor a result can say; else ""."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        shown = os.fsencode(path).decode(errors="backslashreplace")
        return f"{shown}: is no name in UTF-8; rename the file or its folder"
    return ""


def file_format(path: Path) -> str | None:
    """TIFF, DICOM, PNG or JPEG by the first bytes; None where they say nothing."""
    with path.open("rb") as file:
        head = file.read(132)
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "TIFF"
    if head[128:132] == b"DICM":
        return "DICOM"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    return "JPEG" if head.startswith(b"\xff\xd8\xff") else None


def why_unreadable(path: Path, reason: str) -> str:
    """One sentence on a file that no reader opens; ``reason`` is what the last reader said."""
    if path.suffix.lower() == ".mrxs" and not path.with_suffix("").is_dir():
        return f"{path}: a MIRAX slide without its folder '{path.stem}'; copy the folder beside it"
    kind = file_format(path)
    if kind == "TIFF" and _first_directory_offset(path) >= path.stat().st_size:
        return f"{path}: is truncated ({path.stat().st_size:,} bytes, its directory lies beyond); {_REMEDY}"
    if kind:
        return f"{path}: begins like a {kind} file but cannot be opened ({reason}), so it may be damaged; {_REMEDY}"
    return f"{path}: is not a slide or image of a known format; {_REMEDY}"


def _first_directory_offset(path: Path) -> int:
    with path.open("rb") as file:
        head = file.read(16).ljust(16, b"\0")
    order = "<" if head[:1] == b"I" else ">"
    big = head[2:4] in (b"+\0", b"\0+")
    return struct.unpack(order + "Q", head[8:16])[0] if big else struct.unpack(order + "I", head[4:8])[0]

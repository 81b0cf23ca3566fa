"""Checks of a slide file before it is opened, its fingerprint, and the folder of a fetched
slide.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
from pathlib import Path

from muse_pipeline.core.errors import SlideError
from muse_pipeline.core.files import read_json
from muse_pipeline.slides.remote import SOURCE, SlideUrl

TIFF_SUFFIXES = frozenset({".tif", ".tiff", ".btf", ".tf2", ".tf8", ".qptiff"})
PICTURES = {"PNG": ".png", "JPEG": ".jpg", "JPEG 2000": ".jp2", "BMP": ".bmp", "WebP": ".webp"}
PICTURE_SUFFIXES = frozenset({*PICTURES.values(), ".jpeg"})
# Bytes at positions in a file by which its format is recognised.
SIGNATURES: tuple[tuple[str, dict[int, bytes | tuple[bytes, ...]]], ...] = (
    ("TIFF", {0: (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")}),
    ("DICOM", {128: b"DICM"}),
    ("CZI", {0: b"ZISRAWFILE"}),
    ("PNG", {0: b"\x89PNG\r\n\x1a\n"}),
    ("JPEG 2000", {0: b"\0\0\0\x0cjP  "}),
    ("JPEG", {0: b"\xff\xd8\xff"}),
    ("BMP", {0: b"BM", 6: bytes(4)}),
    ("WebP", {0: b"RIFF", 8: b"WEBP"}),
)
_REMEDY = "copy it again from its source, or convert it to OME-TIFF"


def require_file(path: Path) -> None:
    """Make sure that there is a file to open at ``path``."""
    if problem := name_problem(path):
        raise SlideError(problem)
    if (
        path.suffix.lower() == ".vsi" and path.is_file()
    ):  # readers would open its thumbnail as the slide
        raise SlideError(
            f"{path}: is an Olympus slide, whose pixels, in the folder '_{path.stem}_' next to it,"
            " cannot be read; export it as OME-TIFF"
        )
    try:
        if path.is_dir():
            raise SlideError(
                f"{path}: is a folder, not a slide; give the slide file inside it, or make a sheet"
                " (`muse sheet`)"
            )
        with path.open("rb") as file:
            if not file.read(1):
                raise SlideError(f"{path}: is empty (0 bytes); copy it again from its source")
    except OSError as error:
        if isinstance(error, SlideError):
            raise
        if url := re.fullmatch(
            r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", str(path)
        ):  # ``Path`` removes one of the slashes
            shown = SlideUrl(f"{url[1]}://{url[2]}")
            raise SlideError(
                f"{shown}: is a URL, not a path; copy it here first with `muse step fetch`"
            ) from error
        if isinstance(error, FileNotFoundError):
            raise SlideError(f"{path}: no such file; check the path") from error
        raise SlideError(
            f"{path}: cannot be read ({error.strerror}); check its permissions and its disk"
        ) from error


def name_problem(path: Path) -> str:
    """A message if a path is not valid UTF-8 and so cannot be written to sheets and results; "" if
    it is.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        shown = os.fsencode(path).decode(errors="backslashreplace")
        return f"{shown}: is not a name in UTF-8; rename the file or its folder"
    return ""


def file_format(path: Path) -> str | None:
    """The format, identified from the first bytes: TIFF, DICOM, CZI, or a key of ``PICTURES``; None
    if unknown.
    """
    with path.open("rb") as file:
        head = file.read(132)
    kinds = (
        kind
        for kind, parts in SIGNATURES
        if all(head.startswith(part, at) for at, part in parts.items())
    )
    return next(kinds, None)


def why_unreadable(path: Path, reason: str) -> str:
    """Message about a file that no reader can open; ``reason`` is the error of the reader that
    comes closest.
    """
    if path.suffix.lower() == ".mrxs" and not path.with_suffix("").is_dir():
        return (
            f"{path}: is a MIRAX slide without its folder '{path.stem}'; copy the folder next to it"
        )
    if path.suffix.lower() == ".isyntax":
        return (
            f"{path}: is a Philips iSyntax slide, which no reader here can open; export it as"
            " OME-TIFF"
        )
    kind = file_format(path)
    if kind in PICTURES and path.suffix.lower() not in {
        *PICTURE_SUFFIXES,
        ".mrxs",
    }:  # .mrxs files are JPEG
        name = path.stem + PICTURES[kind]
        return (
            f"{path}: is a {kind} picture with the suffix of a slide; rename it to {name}, and give"
            " --mpp"
        )
    if kind == "TIFF" and _first_directory_offset(path) >= path.stat().st_size:
        return (
            f"{path}: is truncated ({path.stat().st_size:,} bytes; its directory would lie beyond);"
            f" {_REMEDY}"
        )
    if kind:
        return (
            f"{path}: begins like a {kind} file but cannot be opened ({reason}) and may be damaged;"
            f" {_REMEDY}"
        )
    return f"{path}: is not a slide or image of a known format; {_REMEDY}"


def _first_directory_offset(path: Path) -> int:
    with path.open("rb") as file:
        head = file.read(16).ljust(16, b"\0")
    order = "<" if head[:1] == b"I" else ">"
    # The version of BigTIFF, whose offsets have eight bytes, is 43: "+" in ASCII.
    big = head[2:4] in (b"+\0", b"\0+")
    return (
        struct.unpack(order + "Q", head[8:16])[0]
        if big
        else struct.unpack(order + "I", head[4:8])[0]
    )


BLOCK_BYTES = 1 << 20


def fingerprint_file(path: Path | str) -> str:
    """SHA-256 (hex) of a file's size and of its first, middle and last MiB, or of all bytes if it
    has up to 3 MiB.

    The name is not hashed. The files in the folder next to a MIRAX slide are, because they contain
    its pixels.
    """
    path = Path(path)
    digest, folder = hashlib.sha256(), path.with_suffix("")
    companions = folder.iterdir() if path.suffix.lower() == ".mrxs" and folder.is_dir() else ()
    others = sorted(
        part for part in companions if part.suffix.lower() in {".dat", ".ini"} and part.is_file()
    )
    for part in (path, *others):
        size = part.stat().st_size
        digest.update(size.to_bytes(8, "big"))
        with part.open("rb") as file:
            blocks = 0, (size - BLOCK_BYTES) // 2, size - BLOCK_BYTES
            for start in blocks if size > 3 * BLOCK_BYTES else range(0, size, BLOCK_BYTES):
                file.seek(start)
                digest.update(file.read(BLOCK_BYTES))
    return digest.hexdigest()


def slide_file(path: Path) -> Path:
    """The file to open: if ``path`` is the folder of a fetched slide, the slide in it; otherwise
    ``path`` itself.
    """
    source = _read_source(path)
    return path / source["file"] if source else path


def slide_origin(path: Path) -> str:
    """Origin of a slide, for the provenance: the URL of a fetched slide, or else the path."""
    source = _read_source(path)
    return source["url"] if source else str(path)


def _read_source(path: Path) -> dict[str, str] | None:
    if not os.path.isfile(path / SOURCE):  # noqa: PTH113 - Path's fails on names that a file system rejects
        return None
    try:
        source = read_json(path / SOURCE)
        if not source["url"] or Path(source["file"]).name != source["file"]:
            raise ValueError("a value is invalid")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SlideError(
            f"{path / SOURCE}: cannot be read, or lacks the slide's URL; fetch the slide again"
        ) from error
    return source

"""Checks of a slide file before it is opened, its fingerprint, and the folder of a fetched
slide.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
from pathlib import Path

from muse_pipeline.core.content import name_content
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
# DICOM tag (0008,0008), its type, its length, and words separated by backslashes
_IMAGE_TYPE = re.compile(rb"\x08\x00\x08\x00CS..([A-Z_\\]+)", re.DOTALL)
_DICOM_HEAD_BYTES = 1 << 14
ZARR = "is an OME-Zarr folder, which no reader here can open; convert it to OME-TIFF"
_REMEDY = "copy it again from its source, or convert it to OME-TIFF"


def require_file(path: Path) -> None:
    """Make sure that there is a file to open at ``path``."""
    if problem := name_problem(path):
        raise SlideError(problem)
    # readers would open its thumbnail as the slide
    if path.suffix.lower() == ".vsi" and path.is_file():
        raise SlideError(
            f"{path}: is an Olympus slide, whose pixels, in the folder '_{path.stem}_' next to it,"
            " cannot be read; export it as OME-TIFF"
        )
    try:
        if path.is_dir():
            raise SlideError(
                f"{path}: {ZARR}"
                if is_zarr(path)
                else f"{path}: is a folder, not a slide; give the slide file inside it, or make a"
                " sheet (`muse sheet`)"
            )
        with path.open("rb") as file:
            if not file.read(1):
                raise SlideError(f"{path}: is empty (0 bytes); copy it again from its source")
    except OSError as error:
        if isinstance(error, SlideError):
            raise
        # ``Path`` removes one of the slashes
        if url := re.fullmatch(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", str(path)):
            shown = SlideUrl(f"{url[1]}://{url[2]}")
            raise SlideError(
                f"{shown}: is a URL, not a path; copy it here first with `muse step fetch`"
            ) from error
        if isinstance(error, FileNotFoundError):
            hint = (
                "the shell expands a pattern only outside quotes; give it without, or the folder"
                if set("*?[") & set(path.name)
                else "check the path"
            )
            raise SlideError(f"{path}: no such file; {hint}") from error
        raise SlideError(
            f"{path}: cannot be read ({error.strerror}); check its permissions and its disk"
        ) from error


def is_zarr(folder: Path) -> bool:
    """True if a folder is a Zarr array or group, such as an OME-Zarr picture."""
    return any((folder / name).is_file() for name in (".zgroup", ".zarray", "zarr.json"))


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
    suffix = path.suffix.lower()
    kind = file_format(path)
    n_bytes = path.stat().st_size
    is_renamed = kind in PICTURES and suffix not in {*PICTURE_SUFFIXES, ".mrxs"}  # those are JPEG
    part = _picture_beside(path).lower() if kind == "DICOM" else ""
    reasons = (
        (
            suffix == ".mrxs" and not path.with_suffix("").is_dir(),
            f"is a MIRAX slide without its folder '{path.stem}'; copy the folder next to it",
        ),
        (
            suffix == ".isyntax",
            "is a Philips iSyntax slide, which no reader here can open; export it as OME-TIFF",
        ),
        (
            is_renamed,
            f"is a {kind} picture with the suffix of a slide; rename it to"
            f" {path.stem}{PICTURES.get(kind)}, and give --mpp",
        ),
        (part, f"is the {part} of a DICOM slide; give a file of its series with ImageType VOLUME"),
        (
            kind == "TIFF" and _first_directory_offset(path) >= n_bytes,
            f"is truncated ({n_bytes:,} bytes; its directory would lie beyond); {_REMEDY}",
        ),
        (
            kind,
            f"begins like a {kind} file but cannot be opened ({reason}) and may be damaged;"
            f" {_REMEDY}",
        ),
        (True, name_content(path) or f"is not a slide or image of a known format; {_REMEDY}"),
    )
    return f"{path}: {next(text for applies, text in reasons if applies)}"


def _picture_beside(path: Path) -> str:
    """The kind of picture that a DICOM file contains beside the slide, such as its label; "" if it
    contains the slide.
    """
    with path.open("rb") as file:
        stated = _IMAGE_TYPE.search(file.read(_DICOM_HEAD_BYTES))
    words = stated[1].decode("ascii", "replace").split("\\") if stated else []
    return next((word for word in words if word in {"OVERVIEW", "LABEL", "THUMBNAIL"}), "")


def _first_directory_offset(path: Path) -> int:
    with path.open("rb") as file:
        head = file.read(16).ljust(16, b"\0")
    order = "<" if head[:1] == b"I" else ">"
    # The version of BigTIFF, whose offsets have eight bytes, is 43: "+" in ASCII.
    big = head[2:4] in (b"+\0", b"\0+")
    if big:
        return struct.unpack(order + "Q", head[8:16])[0]
    return struct.unpack(order + "I", head[4:8])[0]


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
    # `Path.is_file` fails on names that a file system rejects.
    if not os.path.isfile(path / SOURCE):  # noqa: PTH113
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

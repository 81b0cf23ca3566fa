"""A fetched slide: a folder with the slide in it, which says where it came from. It is opened as the slide is."""

from __future__ import annotations

import os
from pathlib import Path

from muse_pipeline.errors import SlideError
from muse_pipeline.files import read_json, write_json

SOURCE = "source.json"


def write_source(folder: Path, url: str, file: str, n_bytes: int, version: str | None) -> None:
    """Say in ``folder`` what it is a copy of.

    Args:
        folder: the copy.
        url: where it came from, without credentials.
        file: name of the slide inside the folder.
        n_bytes: of all its files.
        version: what its server calls the state of the file (an ETag, a date), if it does.
    """
    write_json(folder / SOURCE, {"url": url, "file": file, "bytes": n_bytes, "version": version})


def slide_file(path: Path) -> Path:
    """The file to open: that inside of a fetched slide, else ``path`` itself."""
    source = _read_source(path)
    return path / source["file"] if source else path


def slide_origin(path: Path) -> str:
    """What provenance calls a slide: the URL of a fetched one, else its path."""
    source = _read_source(path)
    return source["url"] if source else str(path)


def _read_source(path: Path) -> dict[str, str] | None:
    if not os.path.isfile(path / SOURCE):  # noqa: PTH113 - Path's fails on a name that no file system takes
        return None
    try:
        source = read_json(path / SOURCE)
        if not source["url"] or Path(source["file"]).name != source["file"]:
            raise ValueError("a part is of another kind")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SlideError(
            f"{path / SOURCE}: does not say where the slide is from; fetch it with `muse fetch`"
        ) from error
    return source

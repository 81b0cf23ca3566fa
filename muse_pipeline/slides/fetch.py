"""Copy a slide from its URL to a local folder."""

from __future__ import annotations

import sys
from pathlib import Path, PurePosixPath

from muse_pipeline.core.errors import SlideError
from muse_pipeline.core.files import complete_file, require_own_folder, write_json
from muse_pipeline.slides.remote import EndedEarlyError, RemoteSlide, SlideUrl, Stated
from muse_pipeline.slides.signature import SOURCE


def fetch_slide(url: SlideUrl, folder: Path | str) -> int:
    """Copy a slide into ``folder``, which appears when the copy is complete, and record its URL.

    A MIRAX slide is copied with its folder, and a DICOM file with the DICOM files next to it. A file whose transfer
    fails is requested again.

    Args:
        url: URL of the slide.
        folder: folder to write; if it exists, it must be an older copy, which is replaced.

    Returns:
        The number of bytes copied.
    """
    folder = Path(folder)
    require_own_folder(folder, (folder / SOURCE).is_file())
    slide = RemoteSlide(url)
    with complete_file(folder) as partial:
        n_bytes, version = 0, None
        for path, name in slide.files():
            if ".." in PurePosixPath(name).parts:  # object storage allows any name
                raise SlideError(f"{url}: its file '{name}' would be written outside the copy; rename it on the server")
            stated = slide.state(path)
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            copy_file(slide, path, stated, partial / name)
            n_bytes += stated.n_bytes
            version = version or stated.version
        source = {"url": url, "file": url.file_name, "bytes": n_bytes, "version": version}
        write_json(partial / SOURCE, source)
    return n_bytes


def ask_size(url: SlideUrl) -> int:
    """Ask the server for the size of a slide in bytes; for a slide of many files, only the file in the URL counts."""
    slide = RemoteSlide(url)
    return slide.state(slide.path).n_bytes


def copy_file(slide: RemoteSlide, path: str, stated: Stated, target: Path) -> None:
    """Copy one file of a slide; its size and version on the server are compared before and after.

    Args:
        slide: the slide.
        path: path of the file on the server.
        stated: size and version at the start.
        target: local file.
    """
    from fsspec.callbacks import TqdmCallback

    def copy() -> None:
        bar = {"unit": "B", "unit_scale": True, "desc": target.name, "disable": not sys.stderr.isatty(), "leave": False}
        slide.system.get_file(path, str(target), callback=TqdmCallback(bar))
        if (n_bytes := target.stat().st_size) != stated.n_bytes:
            raise EndedEarlyError(f"ended after {n_bytes:,} of {stated.n_bytes:,} bytes")

    slide.try_often(copy, before_again=lambda: slide.require_unchanged(path, stated))
    slide.require_unchanged(path, stated)

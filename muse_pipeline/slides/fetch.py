"""Copy a slide from its URL to a local folder."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from muse_pipeline.core.errors import SlideError
from muse_pipeline.core.files import complete_file, require_own_folder
from muse_pipeline.slides.remote import EndedEarlyError, RemoteSlide, SlideUrl, Stated
from muse_pipeline.slides.signature import SOURCE, write_source


def fetch_slide(url: SlideUrl, folder: Path | str, threads: int = 1) -> int:
    """Copy a slide into ``folder``, which appears when all of it has arrived, and says there where it came from.

    A MIRAX slide comes with its folder, a DICOM file with those beside it. A block that does not arrive is asked for
    again; one process that was killed leaves nothing to go on from.

    Args:
        url: the slide.
        folder: what to write; an older copy is replaced, and no other folder.
        threads: blocks that are on their way at a time.

    Returns:
        bytes copied.

    Raises:
        SlideError: there is no such file, access is refused, the server cannot be reached, or the file changes.
        MissingPackageError: what speaks this protocol is not installed.
        OutputError: the folder holds something else, or cannot be written.
    """
    folder = Path(folder)
    require_own_folder(folder, (folder / SOURCE).is_file())
    slide = RemoteSlide(url)
    with complete_file(folder) as partial:
        n_bytes, version = 0, None
        for path, name in slide.files():
            if ".." in PurePosixPath(name).parts:  # object storage takes any name
                raise SlideError(f"{url}: '{name}' among its files would lie outside of the copy; rename it there")
            stated = slide.state(path)
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            copy_file(slide, path, stated, partial / name, threads)
            n_bytes += stated.n_bytes
            version = version or stated.version
        write_source(partial, url, url.file_name, n_bytes, version)
    return n_bytes


def ask_size(url: SlideUrl) -> int:
    """Bytes of a slide, by its server; of a slide of many files, of the one that the URL names.

    Raises:
        SlideError, MissingPackageError: as ``fetch_slide`` does.
    """
    slide = RemoteSlide(url)
    return slide.state(slide.path).n_bytes


BLOCK_BYTES = 16 << 20
MAX_AT_ONCE = 8  # blocks: more help no server and fill the memory


def copy_file(slide: RemoteSlide, path: str, stated: Stated, target: Path, threads: int) -> None:
    """Copy one file of a slide, checked against what the server said before and says after.

    Args:
        slide: the slide.
        path: of the file, there.
        stated: what the server said of it.
        target: the file here.
        threads: blocks that are on their way at a time, but never more than ``MAX_AT_ONCE``.

    Raises:
        SlideError: it does not arrive whole, or changes meanwhile.
        OSError: the disk does not take it.
    """
    with target.open("wb") as file:
        if stated.n_bytes > BLOCK_BYTES and _has_ranges(slide, path, stated):
            _copy_blocks(slide, path, stated, file.fileno(), threads)
        else:
            _copy_at_once(slide, path, stated, file)
    slide.require_unchanged(path, stated)


def _has_ranges(slide: RemoteSlide, path: str, stated: Stated) -> bool:
    """Whether the server gives parts of a file: some that do not send all of it whatever they are asked for."""

    def read_last_byte() -> bool:
        with slide.system.open(path, cache_type="none") as source:
            try:
                source.seek(stated.n_bytes - 1)
                return len(source.read(1)) == 1
            except ValueError:  # fsspec's word for it
                return False

    return slide.try_often(read_last_byte)


def _copy_blocks(slide: RemoteSlide, path: str, stated: Stated, descriptor: int, threads: int) -> None:
    def copy_block(start: int) -> None:
        end = min(start + BLOCK_BYTES, stated.n_bytes)

        def read() -> bytes:
            block = slide.system.cat_file(path, start=start, end=end)
            if len(block) != end - start:
                raise EndedEarlyError(f"ended after {start + len(block):,} of {stated.n_bytes:,} bytes")
            return block

        block = slide.try_often(read, before_again=lambda: slide.require_unchanged(path, stated))
        _write_all(descriptor, block, start)

    with ThreadPoolExecutor(min(threads, MAX_AT_ONCE)) as pool:
        blocks = [pool.submit(copy_block, start) for start in range(0, stated.n_bytes, BLOCK_BYTES)]
        try:
            for block in blocks:
                block.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _write_all(descriptor: int, block: bytes, start: int) -> None:
    """A call that meets the end of the disk writes what still fits and says nothing; the next one does."""
    n_written = 0
    while n_written < len(block):
        n_written += os.pwrite(descriptor, block[n_written:], start + n_written)


def _copy_at_once(slide: RemoteSlide, path: str, stated: Stated, file: Any) -> None:
    def copy() -> None:
        file.seek(0)
        file.truncate()
        with slide.system.open(path, block_size=0) as source:  # on the web: one answer, read as it comes
            while block := source.read(1 << 20):
                file.write(block)
        if file.tell() != stated.n_bytes:
            raise EndedEarlyError(f"ended after {file.tell():,} of {stated.n_bytes:,} bytes")

    slide.try_often(copy, before_again=lambda: slide.require_unchanged(path, stated))

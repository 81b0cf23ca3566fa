"""Copy a slide from its URL to a local folder."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from muse_pipeline.core.environment import write_at
from muse_pipeline.core.errors import SlideError
from muse_pipeline.core.files import complete_file, require_own_folder, write_json
from muse_pipeline.slides.remote import EndedEarlyError, RemoteSlide, SlideUrl, Stated
from muse_pipeline.slides.signature import SOURCE


def fetch_slide(url: SlideUrl, folder: Path | str, threads: int = 1) -> int:
    """Copy a slide into ``folder``, which appears when the copy is complete, and record its URL.

    A MIRAX slide is copied with its folder, and a DICOM file with the DICOM files next to it. Blocks that fail are
    requested again, but a fetch that is killed starts over.

    Args:
        url: URL of the slide.
        folder: folder to write; if it exists, it must be an older copy, which is replaced.
        threads: number of blocks requested at the same time.

    Returns:
        The number of bytes copied.

    Raises:
        SlideError: the file does not exist, access is denied, the server does not answer, or the file changes.
        MissingPackageError: the package for this protocol is not installed.
        OutputError: the folder exists but is not an older copy, or it cannot be written.
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
            copy_file(slide, path, stated, partial / name, threads)
            n_bytes += stated.n_bytes
            version = version or stated.version
        source = {"url": url, "file": url.file_name, "bytes": n_bytes, "version": version}
        write_json(partial / SOURCE, source)
    return n_bytes


def ask_size(url: SlideUrl) -> int:
    """Ask the server for the size of a slide in bytes; for a slide of many files, only the file in the URL counts.

    Raises:
        SlideError, MissingPackageError: as in ``fetch_slide``.
    """
    slide = RemoteSlide(url)
    return slide.state(slide.path).n_bytes


BLOCK_BYTES = 16 << 20
MAX_AT_ONCE = 8  # maximum number of blocks requested at the same time; more are no faster and need more memory


def copy_file(slide: RemoteSlide, path: str, stated: Stated, target: Path, threads: int) -> None:
    """Copy one file of a slide; its size and version on the server are compared before and after.

    Args:
        slide: the slide.
        path: path of the file on the server.
        stated: size and version at the start.
        target: local file.
        threads: number of blocks requested at the same time, at most ``MAX_AT_ONCE``.

    Raises:
        SlideError: the copy is incomplete, or the file changes on the server.
        OSError: the local disk is full or fails.
    """
    with target.open("wb") as file:
        if stated.n_bytes > BLOCK_BYTES and _has_ranges(slide, path, stated):
            _copy_blocks(slide, path, stated, file.fileno(), threads)
        else:
            _copy_at_once(slide, path, stated, file)
    slide.require_unchanged(path, stated)


def _has_ranges(slide: RemoteSlide, path: str, stated: Stated) -> bool:
    """True if the server supports range requests; other servers always send the whole file."""

    def read_last_byte() -> bool:
        with slide.system.open(path, cache_type="none") as source:
            try:
                source.seek(stated.n_bytes - 1)
                return len(source.read(1)) == 1
            except ValueError:  # from fsspec, for servers without range requests
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
        write_at(descriptor, block, start)

    with ThreadPoolExecutor(min(threads, MAX_AT_ONCE)) as pool:
        blocks = [pool.submit(copy_block, start) for start in range(0, stated.n_bytes, BLOCK_BYTES)]
        try:
            for block in blocks:
                block.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _copy_at_once(slide: RemoteSlide, path: str, stated: Stated, file: Any) -> None:
    def copy() -> None:
        file.seek(0)
        file.truncate()
        with slide.system.open(path, block_size=0) as source:  # over http: one streamed response
            while block := source.read(1 << 20):
                file.write(block)
        if file.tell() != stated.n_bytes:
            raise EndedEarlyError(f"ended after {file.tell():,} of {stated.n_bytes:,} bytes")

    slide.try_often(copy, before_again=lambda: slide.require_unchanged(path, stated))

"""Copy a slide from where its URL leads, over whatever fsspec knows: https, s3 and others.

Readers seek about in local files, most of them in C, so that a slide is copied whole before it is opened.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from muse_pipeline.errors import MissingPackageError, MuseError, SlideError
from muse_pipeline.files import complete_file
from muse_pipeline.slides.fetched import write_source
from muse_pipeline.slides.url import WEB, SlideUrl, url_problem

BLOCK_BYTES = 16 << 20
N_TRIES = 5
PAUSE_S = 0.5  # before the second try; twice as long before each one after it
CONNECT_S, SILENCE_S = 30, 60  # how long a web server may take to answer, and to send the next bytes
VERSIONS = ("ETag", "etag", "generation", "Last-Modified", "LastModified", "last_modified", "updated", "mtime")
NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError"}  # botocore's
OWN_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}
REFUSED, GONE, ASK_AGAIN = {401, 403}, {404, 410}, {408, 425, 429}

T = TypeVar("T")


@dataclass(frozen=True)
class Stated:
    """What a server says of a file.

    Attributes:
        n_bytes: how large it is.
        version: what changes with its content (an ETag, a generation, a date), or None.
    """

    n_bytes: int
    version: str | None

    def __str__(self) -> str:
        return f"{self.n_bytes:,} bytes" + (f" (version {self.version})" if self.version else "")


def fetch_slide(url: SlideUrl, folder: Path | str, threads: int = 1) -> int:
    """Copy a slide into ``folder``, which appears when all of it has arrived, and says there where it came from.

    A MIRAX slide comes with its folder, a DICOM file with those beside it. A block that does not arrive is asked for
    again; one process that was killed leaves nothing to go on from.

    Args:
        url: the slide.
        folder: what to write; an older copy is replaced.
        threads: blocks that are on their way at a time.

    Returns:
        bytes copied.

    Raises:
        SlideError: there is no such file, access is refused, the server cannot be reached, or the file changes.
        MissingPackageError: what speaks this protocol is not installed.
        OutputError: the folder cannot be written.
    """
    elsewhere = _Elsewhere(url)
    with complete_file(folder) as partial:
        n_bytes, version = 0, None
        for path, name in elsewhere.files():
            if ".." in PurePosixPath(name).parts:  # object storage takes any name
                raise SlideError(f"{url}: '{name}' among its files would lie outside of the copy; rename it there")
            stated = elsewhere.state(path)
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            _copy(elsewhere, path, stated, partial / name, threads)
            n_bytes += stated.n_bytes
            version = version or stated.version
        write_source(partial, url, url.file_name, n_bytes, version)
    return n_bytes


def ask_size(url: SlideUrl) -> int:
    """Bytes of a slide, by its server; of a slide of many files, of the one that the URL names.

    Raises:
        SlideError, MissingPackageError: as ``fetch_slide`` does.
    """
    elsewhere = _Elsewhere(url)
    return elsewhere.state(elsewhere.path).n_bytes


class _Elsewhere:
    """Where a slide lies: every call is tried again, and fails with one sentence that gives no credentials away."""

    def __init__(self, url: SlideUrl):
        self.url = url
        if problem := url_problem(url.in_full):
            raise SlideError(f"{url}: {problem}")
        self.system, self.path = self._connect()

    def _connect(self) -> tuple[Any, str]:
        try:
            import fsspec
            from fsspec.core import url_to_fs

            protocol = urlsplit(self.url).scheme.lower()
            if protocol not in fsspec.available_protocols():
                raise SlideError(
                    f"{self.url}: nothing here knows '{protocol}://'; use https:// or s3://, or copy it here"
                )
            return url_to_fs(self.url.in_full, **_web_options() if protocol in WEB else {})
        except ImportError as error:
            lacking = " ".join(str(error).split())
            raise MissingPackageError(
                f"{self.url}: needs a package that is not installed ({lacking}); install the extra `remote` for "
                "https:// and s3://, else that package"
            ) from error
        except MuseError:
            raise
        except Exception as error:  # whatever fsspec and its back-ends raise on foreign words
            raise self._sentence(error) from error

    def files(self) -> Iterator[tuple[str, str]]:
        """Path there and name here of every file of the slide, the one that the URL names first."""
        yield self.path, self.url.file_name
        there = PurePosixPath(self.path)
        if there.suffix.lower() == ".mrxs":
            beside = self.try_often(lambda: self.system.find(str(there.with_suffix(""))))
            yield from ((each, str(PurePosixPath(each).relative_to(there.parent))) for each in beside)
        if there.suffix.lower() == ".dcm":
            beside = self.try_often(lambda: self.system.ls(str(there.parent), detail=False))
            names = (PurePosixPath(each) for each in beside)
            yield from ((str(each), each.name) for each in names if each.suffix.lower() == ".dcm" and each != there)

    def state(self, path: str) -> Stated:
        """What the server says of a file now."""

        def ask() -> dict[str, Any]:
            self.system.invalidate_cache()
            return self.system.info(path)

        info = self.try_often(ask)
        if info.get("type") == "directory":
            raise SlideError(f"{self.url}: is a folder, not a slide; give the slide file inside it")
        if info.get("size") is None:
            raise SlideError(
                f"{self.url}: its server does not say how large it is, so nobody could tell whether it arrived whole; "
                "copy it here by other means"
            )
        version = next((str(info[name]) for name in VERSIONS if info.get(name)), None)
        return Stated(int(info["size"]), version)

    def require_unchanged(self, path: str, stated: Stated) -> None:
        """Make sure that what was begun with one file is not ended with another.

        Raises:
            SlideError: the server now says something else than it did.
        """
        if (now := self.state(path)) != stated:
            raise SlideError(
                f"{self.url}: changed while it was fetched, from {stated} to {now}; run again when it is complete there"
            )

    def try_often(self, call: Callable[[], T], before_again: Callable[[], None] = lambda: None) -> T:
        """What ``call`` returns; where it fails for a reason that may pass, it is called again.

        Raises:
            SlideError: the reason did not pass.
        """
        for n_tried in range(1, N_TRIES + 1):
            try:
                return call()
            except MuseError:
                raise
            except Exception as error:  # whatever fsspec, its back-ends and their networks raise
                if isinstance(error, OSError) and error.errno in OWN_DISK:
                    raise
                if n_tried == N_TRIES or not _may_pass(error):
                    raise self._sentence(error) from error
            time.sleep(PAUSE_S * 2 ** (n_tried - 1))
            before_again()
        raise AssertionError("the last try returns or raises")

    def _sentence(self, error: Exception) -> SlideError:
        return SlideError(f"{self.url}: cannot be fetched: {_explain(_root(error), self.url)}")


def _copy(elsewhere: _Elsewhere, path: str, stated: Stated, target: Path, threads: int) -> None:
    """Copy one file, checked against what the server said before and says after."""
    with target.open("wb") as file:
        if stated.n_bytes > BLOCK_BYTES and _has_ranges(elsewhere, path, stated):
            _copy_blocks(elsewhere, path, stated, file.fileno(), threads)
        else:
            _copy_at_once(elsewhere, path, stated, file)
    elsewhere.require_unchanged(path, stated)


def _has_ranges(elsewhere: _Elsewhere, path: str, stated: Stated) -> bool:
    """Whether the server gives parts of a file: some that do not send all of it whatever they are asked for."""

    def read_last_byte() -> bool:
        with elsewhere.system.open(path, cache_type="none") as source:
            try:
                source.seek(stated.n_bytes - 1)
                return len(source.read(1)) == 1
            except ValueError:  # fsspec's word for it
                return False

    return elsewhere.try_often(read_last_byte)


def _copy_blocks(elsewhere: _Elsewhere, path: str, stated: Stated, descriptor: int, threads: int) -> None:
    def copy_block(start: int) -> None:
        end = min(start + BLOCK_BYTES, stated.n_bytes)

        def read() -> bytes:
            block = elsewhere.system.cat_file(path, start=start, end=end)
            if len(block) != end - start:
                raise _EndedEarlyError(f"ended after {start + len(block):,} of {stated.n_bytes:,} bytes")
            return block

        block = elsewhere.try_often(read, before_again=lambda: elsewhere.require_unchanged(path, stated))
        _write_all(descriptor, block, start)

    with ThreadPoolExecutor(threads) as pool:
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


def _copy_at_once(elsewhere: _Elsewhere, path: str, stated: Stated, file: Any) -> None:
    def copy() -> None:
        file.seek(0)
        file.truncate()
        with elsewhere.system.open(path, block_size=0) as source:  # on the web: one answer, read as it comes
            while block := source.read(1 << 20):
                file.write(block)
        if file.tell() != stated.n_bytes:
            raise _EndedEarlyError(f"ended after {file.tell():,} of {stated.n_bytes:,} bytes")

    elsewhere.try_often(copy, before_again=lambda: elsewhere.require_unchanged(path, stated))


class _EndedEarlyError(Exception):
    """Fewer bytes came than were promised."""


def _web_options() -> dict[str, Any]:
    """For aiohttp: proxies and .netrc of the surroundings count, silence has an end, a long answer has none."""
    import aiohttp
    from fsspec.config import conf

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=SILENCE_S)
    own = {**conf.get("http", {}), **conf.get("https", {})}.get("client_kwargs", {})
    return {"client_kwargs": {"trust_env": True, "timeout": timeout, **own}}


def _root(error: BaseException) -> BaseException:
    """What stands behind an error: fsspec calls whatever a web server answers a missing file."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _status(error: BaseException) -> int | None:
    """The HTTP status that aiohttp or botocore speaks of."""
    answer = getattr(error, "response", None)
    if isinstance(answer, dict):
        return answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
    status = getattr(error, "status", None)
    return status if isinstance(status, int) else None


def _may_pass(error: BaseException) -> bool:
    root = _root(error)
    if (status := _status(root)) is not None:
        return status >= 500 or status in ASK_AGAIN
    final = isinstance(root, (FileNotFoundError, PermissionError, ValueError, ImportError))
    return not final and type(root).__name__ not in NO_CREDENTIALS


def _explain(root: BaseException, url: SlideUrl) -> str:
    """Why, and what to do."""
    status, kind = _status(root), type(root).__name__
    is_gone = status in GONE if status else isinstance(root, FileNotFoundError)
    is_refused = status in REFUSED if status else isinstance(root, PermissionError)
    answered = f" (HTTP {status})" if status else ""
    no_credentials = "no credentials for it were found; set AWS_PROFILE, or FSSPEC_S3_ANON=true where it is public"
    checks = (
        (is_gone, "there is no such file; check the URL"),
        (is_refused, f"access is refused{answered}; check credentials, or sign the URL again"),
        (status, f"its server answers HTTP {status}; try again later"),
        (isinstance(root, _EndedEarlyError), f"it {root} in {N_TRIES} tries; try again later"),
        (kind in NO_CREDENTIALS, no_credentials),
        ("Timeout" in kind, "its server does not answer; try again later"),
    )
    name = _name(root, url)
    return next((reason for applies, reason in checks if applies), f"{name}; check the URL and the network")


def _name(root: BaseException, url: SlideUrl) -> str:
    """What went wrong; words of other packages only where no secret of the URL is in them."""
    if isinstance(root, OSError) and root.errno and root.errno > 0:
        return os.strerror(root.errno)
    text = " ".join(str(root).split())
    parts = urlsplit(url.in_full)
    secrets = [parts.username, parts.password, parts.query, *(value for _, value in parse_qsl(parts.query))]
    written = {way for secret in secrets if secret for way in (secret, unquote(secret))}
    is_safe = text and not any(way in text for way in written)
    return f"{type(root).__name__} ({text})" if is_safe else type(root).__name__

"""Slides at URLs: addresses without credentials, the files of a slide, and copies whose requests
are retried.
"""

from __future__ import annotations

import errno
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from muse_pipeline.core.errors import MissingPackageError, SlideError
from muse_pipeline.core.files import complete_file, require_own_folder, write_json
from muse_pipeline.core.text import one_line

# Only parts of a query that identify the file are recorded; others may be a signature or a key.
QUERY_SHOWN = frozenset({"versionid", "generation", "id", "uuid", "file", "name", "path"})
# container@account; others have user@host
CONTAINER_AT_ACCOUNT = frozenset({"abfs", "abfss", "wasb", "wasbs"})
WEB = frozenset({"http", "https"})
MANY_FILES = {".mrxs": "a MIRAX slide", ".dcm": "a DICOM series"}


class SlideUrl(str):
    """URL of a slide, without credentials, so that logs and files cannot leak them; ``in_full``
    includes them.
    """

    in_full: str

    def __new__(cls, in_full: str):
        """Use the public part of the URL as the string."""
        url = super().__new__(cls, _without_credentials(in_full))
        url.in_full = in_full
        return url

    @property
    def file_name(self) -> str:
        """Name of the local copy of the file."""
        parts = urlsplit(self)
        name = PurePosixPath(_path(parts)).name
        return unquote(name).replace("/", "_") if parts.scheme.lower() in WEB else name


def is_url(text: str) -> bool:
    """True if ``text`` is a URL and not a path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text) is not None


def url_problem(text: str) -> str | None:
    """The reason why a URL cannot refer to a slide; None if it can."""
    try:
        scheme = _split(text).scheme.lower()
    except ValueError:
        scheme = ""
    name = SlideUrl(text).file_name
    suffix = PurePosixPath(name).suffix.lower()
    if "::" in text:
        return "is a chain of URLs; give the URL of the slide itself"
    if not scheme:
        return "is not a URL; a password in it must have %2F for /, %40 for @ and so on"
    if scheme in {"file", "local"}:
        return "is a local file; give its path"
    if name in {"", ".", ".."} or not name.isprintable() or len(name.encode()) > 255:
        return "has no file name"
    if scheme in WEB and suffix in MANY_FILES:
        return (
            f"is {MANY_FILES[suffix]} of many files, which http cannot list; use object storage or"
            " a copy"
        )
    return None


def _split(text: str) -> SplitResult:
    """The parts of a URL; a ValueError if its password contains a slash, because the part after the
    slash would be shown as the path.
    """
    parts = urlsplit(text)
    _ = parts.port  # what precedes the slash is no port
    return parts


def _without_credentials(in_full: str) -> str:
    if "::" in in_full:
        return "::".join(map(_without_credentials, in_full.split("::")))
    try:
        parts = _split(in_full)
    except ValueError:
        return f"{in_full.partition('://')[0]}://..."
    shown = [(name, value) for name, value in parse_qsl(parts.query) if name.lower() in QUERY_SHOWN]
    host = parts.netloc
    if parts.scheme.lower() not in CONTAINER_AT_ACCOUNT:
        host = host.rpartition("@")[2]
    return parts._replace(
        netloc=host, path=_path(parts), query=urlencode(shown), fragment=""
    ).geturl()


def _path(parts: SplitResult) -> str:
    """The path of a URL.

    Keys of object storage may contain #, which starts a fragment in web URLs.
    """
    has_more = parts.fragment and parts.scheme.lower() not in WEB
    return f"{parts.path}#{parts.fragment}" if has_more else parts.path


N_TRIES, PAUSE_S = 5, 0.5  # tries per request; pause before the second, doubled before each further
CONNECT_S, SILENCE_S = 30, 60  # timeouts for connecting to a web server, and for its silence
GONE, DENIED, ASK_AGAIN = {404, 410}, {401, 403}, {408, 425, 429}
NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError"}  # exceptions of botocore
OWN_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}
VERSIONS = ("ETag", "etag", "generation", "Last-Modified", "LastModified", "last_modified", "mtime")

T = TypeVar("T")


def explain(error: BaseException) -> tuple[str, bool]:
    """The reason for an error of fsspec and the remedy, and whether another try may succeed.

    Messages of other packages are not shown, because they may contain credentials.
    """
    # fsspec itself reports every error response of a web server as a missing file.
    while error.__cause__ is not None:
        error = error.__cause__
    kind = type(error).__name__
    answer = getattr(error, "response", None)
    status = getattr(error, "status", None)
    if isinstance(answer, dict):
        status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
    if status in GONE or isinstance(error, FileNotFoundError):
        return "there is no such file; check the URL", False
    if status in DENIED or isinstance(error, PermissionError):
        return "access is denied; check credentials, or sign the URL again", False
    if kind in NO_CREDENTIALS:
        return (
            "no credentials for it were found; set AWS_PROFILE, or FSSPEC_S3_ANON=true if it is"
            " public"
        ), False
    if isinstance(status, int):
        may_pass = status >= 500 or status in ASK_AGAIN
        return f"its server answers HTTP {status}; try again later", may_pass
    if isinstance(error, OSError) and (error.errno or 0) > 0:
        kind = os.strerror(error.errno)
    return f"{kind}; check the URL and the network", not isinstance(error, ValueError | ImportError)


class RemoteSlide:
    """A slide on its server; requests are retried, and error messages contain no credentials."""

    def __init__(self, url: SlideUrl):
        self.url = url
        if problem := url_problem(url.in_full):
            raise SlideError(f"{url}: {problem}")
        try:
            import fsspec

            options = _web_options() if urlsplit(url).scheme.lower() in WEB else {}
            self.system, self.path = fsspec.core.url_to_fs(url.in_full, **options)
        except ImportError as error:
            raise MissingPackageError(
                f"{url}: needs a package that is not installed ({one_line(error)}); for https://"
                " and s3://, install the extra `remote`; for other protocols, install that package"
            ) from error
        except ValueError as error:
            raise SlideError(
                f"{url}: unknown protocol; use https:// or s3://, or copy the slide here"
            ) from error

    def files(self) -> Iterator[tuple[str, str]]:
        """Yield the remote path and the local name of every file of the slide, the file in the URL
        first.
        """
        yield self.path, self.url.file_name
        there, beside = PurePosixPath(self.path), []
        if there.suffix.lower() == ".mrxs":
            beside = self.try_often(lambda: self.system.find(str(there.with_suffix(""))))
        if there.suffix.lower() == ".dcm":
            paths = self.try_often(lambda: self.system.ls(str(there.parent), detail=False))
            beside = [
                path for path in paths if path.lower().endswith(".dcm") and path != str(there)
            ]
        for path in beside:
            name = str(PurePosixPath(path).relative_to(there.parent))
            if ".." in PurePosixPath(name).parts:  # object storage allows any name
                raise SlideError(
                    f"{self.url}: its file '{name}' would be written outside the copy; rename it on"
                    " the server"
                )
            yield path, name

    def state(self, path: str) -> tuple[int, str | None]:
        """Ask the server for the size of a file in bytes, and for its version: an ETag, a
        generation or a date, or None if the server has none.
        """

        def ask() -> dict[str, Any]:
            # fsspec caches listings, which would hide later changes of the file.
            self.system.invalidate_cache()
            return self.system.info(path)

        info = self.try_often(ask)
        if info.get("size") is None:
            raise SlideError(
                f"{self.url}: its server does not report the size, so a complete copy cannot be"
                " verified; copy it here by other means"
            )
        return int(info["size"]), next((str(info[n]) for n in VERSIONS if info.get(n)), None)

    def copy(self, path: str, target: Path) -> tuple[int, str | None]:
        """Copy a file, and return its ``state``, which must not change meanwhile."""
        from fsspec.callbacks import TqdmCallback

        stated, is_shown = self.state(path), sys.stderr.isatty()
        bar = {"unit": "B", "unit_scale": True, "desc": target.name, "leave": False}

        def get() -> None:
            callback = TqdmCallback({**bar, "disable": not is_shown})
            self.system.get_file(path, str(target), callback=callback)
            if target.stat().st_size != stated[0]:
                raise EOFError

        target.parent.mkdir(parents=True, exist_ok=True)
        self.try_often(get)
        if self.state(path) != stated:
            raise SlideError(
                f"{self.url}: changed while it was fetched; run again when it is complete there"
            )
        return stated

    def try_often(self, call: Callable[[], T]) -> T:
        """Return the result of ``call``, which is retried after errors that may be temporary."""
        for n_tried in range(1, N_TRIES + 1):
            try:
                return call()
            except Exception as error:  # fsspec and its back-ends may raise any exception
                if isinstance(error, OSError) and error.errno in OWN_DISK:
                    raise
                reason, may_pass = explain(error)
                if n_tried == N_TRIES or not may_pass:
                    raise SlideError(f"{self.url}: cannot be fetched: {reason}") from error
            time.sleep(PAUSE_S * 2 ** (n_tried - 1))
        raise AssertionError("the last try returns or raises")


def _web_options() -> dict[str, Any]:
    """Options for aiohttp: use the environment's proxies and .netrc, and time out only if a
    download stalls.
    """
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=SILENCE_S)
    return {"client_kwargs": {"trust_env": True, "timeout": timeout}}


# in the folder of a fetched slide: its URL without credentials, and the name of its file
SOURCE = "source.json"


def fetch_slide(url: SlideUrl, folder: Path | str) -> int:
    """Copy a slide into ``folder``, which appears when the copy is complete, and return the number
    of bytes copied.

    A MIRAX slide is copied with its folder, and a DICOM file with the DICOM files next to it. A
    file whose transfer fails is requested again. If the folder exists, it must be an older copy,
    which is replaced. The URL is recorded in it.
    """
    folder = Path(folder)
    require_own_folder(folder, (folder / SOURCE).is_file())
    slide = RemoteSlide(url)
    with complete_file(folder) as partial:
        states = [slide.copy(path, partial / name) for path, name in slide.files()]
        source = {"url": url, "file": url.file_name, "bytes": sum(n for n, _ in states)}
        source["version"] = states[0][1]
        write_json(partial / SOURCE, source)
    return source["bytes"]


def ask_size(url: SlideUrl) -> int:
    """Ask the server for the size of a slide in bytes; for a slide of many files, only the file in
    the URL counts.
    """
    slide = RemoteSlide(url)
    return slide.state(slide.path)[0]

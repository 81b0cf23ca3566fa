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
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from muse_pipeline.core.errors import MissingPackageError, MuseError, SlideError
from muse_pipeline.core.files import complete_file, require_own_folder, write_json
from muse_pipeline.core.text import one_line

# Only parts of a query that identify the file are recorded; others may be a signature or a key.
QUERY_SHOWN = frozenset({"versionid", "generation", "id", "uuid", "file", "name", "path"})
CONTAINER_AT_ACCOUNT = frozenset(
    {"abfs", "abfss", "wasb", "wasbs"}
)  # container@account; others have user@host
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
    if "::" in text:
        return "is a chain of URLs; give the URL of the slide itself"
    try:
        scheme = _require_sound(urlsplit(text)).scheme.lower()
    except ValueError:
        return "is not a URL; a password in it must have %2F for /, %40 for @ and so on"
    name = SlideUrl(text).file_name
    suffix = PurePosixPath(name).suffix.lower()
    kind = MANY_FILES.get(suffix)
    is_file = (
        name not in {"", ".", ".."}
        and name.isprintable()
        and len(name.encode(errors="replace")) <= 255
    )
    checks = (
        (scheme in {"file", "local"}, "is a local file; give its path"),
        (not is_file, "has no file name"),
        (
            suffix in {".vms", ".vmu"},
            "is one of many files with unknown names; copy the slide here",
        ),
        (
            scheme in WEB and kind,
            f"is {kind} of many files, which http cannot list; use object storage or a copy",
        ),
    )
    return next((problem for wrong, problem in checks if wrong), None)


def _without_credentials(in_full: str) -> str:
    if "::" in in_full:
        return "::".join(map(_without_credentials, in_full.split("::")))
    try:
        parts = _require_sound(urlsplit(in_full))
    except ValueError:
        return f"{in_full.partition('://')[0]}://..."
    shown = [(name, value) for name, value in parse_qsl(parts.query) if name.lower() in QUERY_SHOWN]
    host = (
        parts.netloc
        if parts.scheme.lower() in CONTAINER_AT_ACCOUNT
        else parts.netloc.rpartition("@")[2]
    )
    return parts._replace(
        netloc=host, path=_path(parts), query=urlencode(shown), fragment=""
    ).geturl()


def _require_sound(parts: SplitResult) -> SplitResult:
    """Reject a password that contains a slash, because the part after the slash would be shown as
    the path.
    """
    _ = parts.port
    return parts


def _path(parts: SplitResult) -> str:
    """The path of a URL.

    Keys of object storage may contain #, which starts a fragment in web URLs.
    """
    has_more = parts.fragment and parts.scheme.lower() not in WEB
    return f"{parts.path}#{parts.fragment}" if has_more else parts.path


N_TRIES = 5  # attempts per call
NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError"}  # exceptions of botocore
DENIED, GONE, ASK_AGAIN = {401, 403}, {404, 410}, {408, 425, 429}


class EndedEarlyError(Exception):
    """The connection ended before the last byte."""


def may_pass(error: BaseException) -> bool:
    """True if a retry after ``error`` may succeed."""
    root = _root(error)
    if (status := _status(root)) is not None:
        return status >= 500 or status in ASK_AGAIN
    final = isinstance(root, (FileNotFoundError, PermissionError, ValueError, ImportError))
    return not final and type(root).__name__ not in NO_CREDENTIALS


def explain(error: BaseException, url: SlideUrl) -> str:
    """The reason why ``url`` cannot be fetched, and the remedy."""
    root = _root(error)
    status, kind = _status(root), type(root).__name__
    is_gone = status in GONE if status else isinstance(root, FileNotFoundError)
    is_denied = status in DENIED if status else isinstance(root, PermissionError)
    answered = f" (HTTP {status})" if status else ""
    no_credentials = (
        "no credentials for it were found; set AWS_PROFILE, or FSSPEC_S3_ANON=true if it is public"
    )
    checks = (
        (is_gone, "there is no such file; check the URL"),
        (is_denied, f"access is denied{answered}; check credentials, or sign the URL again"),
        (status, f"its server answers HTTP {status}; try again later"),
        (isinstance(root, EndedEarlyError), f"it {root} in {N_TRIES} tries; try again later"),
        (kind in NO_CREDENTIALS, no_credentials),
        ("Timeout" in kind, "its server does not answer; try again later"),
    )
    name = _name(root, url)
    return next(
        (reason for applies, reason in checks if applies), f"{name}; check the URL and the network"
    )


def _name(root: BaseException, url: SlideUrl) -> str:
    """The system's text for an error with an errno; otherwise its type, and its message if that has
    no secret.
    """
    if isinstance(root, OSError) and root.errno and root.errno > 0:
        return os.strerror(root.errno)
    text = one_line(root)
    parts = urlsplit(url.in_full)
    secrets = [
        parts.username,
        parts.password,
        parts.query,
        *(value for _, value in parse_qsl(parts.query)),
    ]
    written = {way for secret in secrets if secret for way in (secret, unquote(secret))}
    is_safe = text and not any(way in text for way in written)
    return f"{type(root).__name__} ({text})" if is_safe else type(root).__name__


def _root(error: BaseException) -> BaseException:
    """The root cause of an error; fsspec itself reports every error response of a web server as a
    missing file.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _status(error: BaseException) -> int | None:
    """HTTP status in an error from aiohttp or botocore; None if it has none."""
    answer = getattr(error, "response", None)
    if isinstance(answer, dict):
        return answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
    status = getattr(error, "status", None)
    return status if isinstance(status, int) else None


PAUSE_S = 0.5  # pause before the second try, doubled before each further try
CONNECT_S, SILENCE_S = (
    30,
    60,
)  # timeouts for connecting to a web server, and for silence during its response
VERSIONS = (
    "ETag",
    "etag",
    "generation",
    "Last-Modified",
    "LastModified",
    "last_modified",
    "updated",
    "mtime",
)
OWN_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}

T = TypeVar("T")


@dataclass(frozen=True)
class Stated:
    """Size and version of a file on its server: an ETag, a generation or a date, or None if the
    server has none.
    """

    n_bytes: int
    version: str | None

    def __str__(self) -> str:
        return f"{self.n_bytes:,} bytes" + (f" (version {self.version})" if self.version else "")


class RemoteSlide:
    """A slide on its server; requests are retried, and error messages contain no credentials."""

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
                    f"{self.url}: unknown protocol '{protocol}://'; use https:// or s3://, or copy"
                    " the slide here"
                )
            return url_to_fs(self.url.in_full, **_web_options() if protocol in WEB else {})
        except ImportError as error:
            raise MissingPackageError(
                f"{self.url}: needs a package that is not installed ({one_line(error)}); for"
                " https:// and s3://, install the extra `remote`; for other protocols, install"
                " that package"
            ) from error
        except MuseError:
            raise
        except Exception as error:  # fsspec and its back-ends may raise any exception
            raise self._sentence(error) from error

    def files(self) -> Iterator[tuple[str, str]]:
        """Yield the remote path and the local name of every file of the slide, the file in the URL
        first.
        """
        yield self.path, self.url.file_name
        there = PurePosixPath(self.path)
        if there.suffix.lower() == ".mrxs":
            beside = self.try_often(lambda: self.system.find(str(there.with_suffix(""))))
            yield from (
                (path, str(PurePosixPath(path).relative_to(there.parent))) for path in beside
            )
        if there.suffix.lower() == ".dcm":
            beside = map(
                PurePosixPath,
                self.try_often(lambda: self.system.ls(str(there.parent), detail=False)),
            )
            yield from (
                (str(path), path.name)
                for path in beside
                if path.suffix.lower() == ".dcm" and path != there
            )

    def state(self, path: str) -> Stated:
        """Ask the server for the current size and version of a file."""

        def ask() -> dict[str, Any]:
            # fsspec caches listings, which would hide later changes of the file.
            self.system.invalidate_cache()
            return self.system.info(path)

        info = self.try_often(ask)
        if info.get("type") == "directory":
            raise SlideError(f"{self.url}: is a folder, not a slide; give the slide file inside it")
        if info.get("size") is None:
            raise SlideError(
                f"{self.url}: its server does not report the size, so a complete copy cannot be"
                " verified; copy it here by other means"
            )
        version = next((str(info[name]) for name in VERSIONS if info.get(name)), None)
        return Stated(int(info["size"]), version)

    def require_unchanged(self, path: str, stated: Stated) -> None:
        """Make sure that the file has not changed since the start of the copy."""
        if (now := self.state(path)) != stated:
            raise SlideError(
                f"{self.url}: changed while it was fetched, from {stated} to {now}; run again when"
                " it is complete there"
            )

    def try_often(
        self, call: Callable[[], T], before_again: Callable[[], None] = lambda: None
    ) -> T:
        """Return the result of ``call``, which is retried after errors that may be temporary."""
        for n_tried in range(1, N_TRIES + 1):
            try:
                return call()
            except MuseError:
                raise
            except Exception as error:  # fsspec and its back-ends may raise any exception
                if isinstance(error, OSError) and error.errno in OWN_DISK:
                    raise
                if n_tried == N_TRIES or not may_pass(error):
                    raise self._sentence(error) from error
            time.sleep(PAUSE_S * 2 ** (n_tried - 1))
            before_again()
        raise AssertionError("the last try returns or raises")

    def _sentence(self, error: Exception) -> SlideError:
        return SlideError(f"{self.url}: cannot be fetched: {explain(error, self.url)}")


def _web_options() -> dict[str, Any]:
    """Options for aiohttp: use the environment's proxies and .netrc, and time out only if a
    download stalls.
    """
    import aiohttp
    from fsspec.config import conf

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=SILENCE_S)
    own = {**conf.get("http", {}), **conf.get("https", {})}.get("client_kwargs", {})
    return {"client_kwargs": {"trust_env": True, "timeout": timeout, **own}}


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
        n_bytes, version = 0, None
        for path, name in slide.files():
            if ".." in PurePosixPath(name).parts:  # object storage allows any name
                raise SlideError(
                    f"{url}: its file '{name}' would be written outside the copy; rename it on the"
                    " server"
                )
            stated = slide.state(path)
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            copy_file(slide, path, stated, partial / name)
            n_bytes += stated.n_bytes
            version = version or stated.version
        source = {"url": url, "file": url.file_name, "bytes": n_bytes, "version": version}
        write_json(partial / SOURCE, source)
    return n_bytes


def ask_size(url: SlideUrl) -> int:
    """Ask the server for the size of a slide in bytes; for a slide of many files, only the file in
    the URL counts.
    """
    slide = RemoteSlide(url)
    return slide.state(slide.path).n_bytes


def copy_file(slide: RemoteSlide, path: str, stated: Stated, target: Path) -> None:
    """Copy one file of a slide; its size and version on the server are compared before and
    after.
    """
    from fsspec.callbacks import TqdmCallback

    def copy() -> None:
        bar = {
            "unit": "B",
            "unit_scale": True,
            "desc": target.name,
            "disable": not sys.stderr.isatty(),
            "leave": False,
        }
        slide.system.get_file(path, str(target), callback=TqdmCallback(bar))
        if (n_bytes := target.stat().st_size) != stated.n_bytes:
            raise EndedEarlyError(f"ended after {n_bytes:,} of {stated.n_bytes:,} bytes")

    slide.try_often(copy, before_again=lambda: slide.require_unchanged(path, stated))
    slide.require_unchanged(path, stated)

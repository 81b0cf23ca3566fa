"""A slide where its URL leads: its files, what their server says of them, and calls that are tried again."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, TypeVar
from urllib.parse import urlsplit

from muse_pipeline.errors import MissingPackageError, MuseError, SlideError
from muse_pipeline.slides.fetch_failure import N_TRIES, explain, may_pass
from muse_pipeline.slides.url import WEB, SlideUrl, url_problem
from muse_pipeline.wording import one_line

PAUSE_S = 0.5  # before the second try; twice as long before each one after it
CONNECT_S, SILENCE_S = 30, 60  # how long a web server may take to answer, and to send the next bytes
VERSIONS = ("ETag", "etag", "generation", "Last-Modified", "LastModified", "last_modified", "updated", "mtime")
OWN_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}

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


class RemoteSlide:
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
            raise MissingPackageError(
                f"{self.url}: needs a package that is not installed ({one_line(error)}); install the extra `remote` "
                "for https:// and s3://, else that package"
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
                if n_tried == N_TRIES or not may_pass(error):
                    raise self._sentence(error) from error
            time.sleep(PAUSE_S * 2 ** (n_tried - 1))
            before_again()
        raise AssertionError("the last try returns or raises")

    def _sentence(self, error: Exception) -> SlideError:
        return SlideError(f"{self.url}: cannot be fetched: {explain(error, self.url)}")


def _web_options() -> dict[str, Any]:
    """For aiohttp: proxies and .netrc of the surroundings count, silence has an end, a long answer has none."""
    import aiohttp
    from fsspec.config import conf

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=SILENCE_S)
    own = {**conf.get("http", {}), **conf.get("https", {})}.get("client_kwargs", {})
    return {"client_kwargs": {"trust_env": True, "timeout": timeout, **own}}

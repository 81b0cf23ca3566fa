"""Slides that lie elsewhere: what a URL is, and what of it may be written down."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

# Of a query, all but these may be a signature or a key: only what says which file it is, is written down.
QUERY_SHOWN = frozenset({"versionid", "generation", "id", "uuid", "file", "name", "path"})
CONTAINER_AT_ACCOUNT = frozenset({"abfs", "abfss", "wasb", "wasbs"})  # elsewhere a name and a password
WEB = frozenset({"http", "https"})
MANY_FILES = {".mrxs": "a MIRAX slide", ".dcm": "a DICOM series"}


class SlideUrl(str):
    """Where a slide lies. As text it holds no credentials, so that whatever prints or writes it gives none away.

    Attributes:
        in_full: what its server is to be asked for, credentials included.
    """

    in_full: str

    def __new__(cls, in_full: str):
        """Split what is shown from what is not."""
        url = super().__new__(cls, _without_credentials(in_full))
        url.in_full = in_full
        return url

    @property
    def file_name(self) -> str:
        """Name of the file, as it is called once it is here."""
        parts = urlsplit(self)
        name = PurePosixPath(_path(parts)).name
        return unquote(name).replace("/", "_") if parts.scheme.lower() in WEB else name


def is_url(text: str) -> bool:
    """Whether ``text`` is a URL and no path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text) is not None


def url_problem(text: str) -> str | None:
    """What keeps a URL from being a slide's; None if nothing does."""
    if "::" in text:
        return "is a chain of URLs; give the URL of the slide itself"
    try:
        scheme = _require_sound(urlsplit(text)).scheme.lower()
    except ValueError:
        return "is not a URL; a password in it must have %2F for /, %40 for @ and so on"
    name = SlideUrl(text).file_name
    suffix = PurePosixPath(name).suffix.lower()
    kind = MANY_FILES.get(suffix)
    is_file = name not in {"", ".", ".."} and name.isprintable() and len(name.encode(errors="replace")) <= 255
    checks = (
        (scheme in {"file", "local"}, "is a file of this machine; write its path alone"),
        (not is_file, "names no file"),
        (suffix in {".vms", ".vmu"}, "is one of many files whose names it does not tell; copy the slide here"),
        (scheme in WEB and kind, f"is {kind}, of many files, and http lists none; use object storage or copy it here"),
    )
    return next((problem for wrong, problem in checks if wrong), None)


def _without_credentials(in_full: str) -> str:
    if "::" in in_full:
        return "::".join(_without_credentials(part) for part in in_full.split("::"))
    try:
        parts = _require_sound(urlsplit(in_full))
    except ValueError:
        return f"{in_full.partition('://')[0]}://..."
    shown = [(name, value) for name, value in parse_qsl(parts.query) if name.lower() in QUERY_SHOWN]
    host = parts.netloc if parts.scheme.lower() in CONTAINER_AT_ACCOUNT else parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=host, path=_path(parts), query=urlencode(shown), fragment="").geturl()


def _require_sound(parts: SplitResult) -> SplitResult:
    """A password with a slash in it would end where the path begins, and be shown: no number stands at the port then.

    Raises:
        ValueError: it is so.
    """
    _ = parts.port
    return parts


def _path(parts: SplitResult) -> str:
    """Keys of object storage may have a # in them, which on the web begins what no server sees."""
    has_more = parts.fragment and parts.scheme.lower() not in WEB
    return f"{parts.path}#{parts.fragment}" if has_more else parts.path

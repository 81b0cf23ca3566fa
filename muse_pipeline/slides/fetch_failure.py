"""Why a call to a server failed: whether it may go well again, and a reason that gives no credentials away."""

from __future__ import annotations

import os
from urllib.parse import parse_qsl, unquote, urlsplit

from muse_pipeline.slides.url import SlideUrl
from muse_pipeline.wording import one_line

N_TRIES = 5  # of every call
NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError"}  # botocore's
REFUSED, GONE, ASK_AGAIN = {401, 403}, {404, 410}, {408, 425, 429}


class EndedEarlyError(Exception):
    """Fewer bytes came than were promised."""


def may_pass(error: BaseException) -> bool:
    """Whether the same call may go well the next time."""
    root = _root(error)
    if (status := _status(root)) is not None:
        return status >= 500 or status in ASK_AGAIN
    final = isinstance(root, (FileNotFoundError, PermissionError, ValueError, ImportError))
    return not final and type(root).__name__ not in NO_CREDENTIALS


def explain(error: BaseException, url: SlideUrl) -> str:
    """Why ``url`` could not be had, and what to do."""
    root = _root(error)
    status, kind = _status(root), type(root).__name__
    is_gone = status in GONE if status else isinstance(root, FileNotFoundError)
    is_refused = status in REFUSED if status else isinstance(root, PermissionError)
    answered = f" (HTTP {status})" if status else ""
    no_credentials = "no credentials for it were found; set AWS_PROFILE, or FSSPEC_S3_ANON=true where it is public"
    checks = (
        (is_gone, "there is no such file; check the URL"),
        (is_refused, f"access is refused{answered}; check credentials, or sign the URL again"),
        (status, f"its server answers HTTP {status}; try again later"),
        (isinstance(root, EndedEarlyError), f"it {root} in {N_TRIES} tries; try again later"),
        (kind in NO_CREDENTIALS, no_credentials),
        ("Timeout" in kind, "its server does not answer; try again later"),
    )
    name = _name(root, url)
    return next((reason for applies, reason in checks if applies), f"{name}; check the URL and the network")


def _name(root: BaseException, url: SlideUrl) -> str:
    """What went wrong; words of other packages only where no secret of the URL is in them."""
    if isinstance(root, OSError) and root.errno and root.errno > 0:
        return os.strerror(root.errno)
    text = one_line(root)
    parts = urlsplit(url.in_full)
    secrets = [parts.username, parts.password, parts.query, *(value for _, value in parse_qsl(parts.query))]
    written = {way for secret in secrets if secret for way in (secret, unquote(secret))}
    is_safe = text and not any(way in text for way in written)
    return f"{type(root).__name__} ({text})" if is_safe else type(root).__name__


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

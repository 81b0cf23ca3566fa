"""The document around a page's content: it carries its style and script, and may load nothing."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files

from muse_pipeline import __version__
from muse_pipeline.report.markup import Markup, element, join

_CONTENT = Markup("<!-- content -->")


def frame_document(title: str, script: str | None = None) -> tuple[str, str]:
    """What stands before a page's content and what stands after it.

    Args:
        title: of the document.
        script: file of this folder; the page's policy lets it run this script only, or none.
    """
    code = _read(script) if script else None
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode() if code else None
    allowed = f"; script-src 'sha256-{digest}'" if code else ""
    policy = f"default-src 'none'; img-src data: file: 'self'; style-src 'unsafe-inline'{allowed}"
    head = join(
        [
            element("meta", charset="utf-8"),
            element("meta", http_equiv="Content-Security-Policy", content=policy),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("title", title),
            element("style", Markup(_read("page.css"))),
        ]
    )
    footer = element("footer", f"muse-pipeline {__version__} · for research use")
    body = element("body", element("main", _CONTENT), footer, element("script", Markup(code)) if code else None)
    before, after = f'<!DOCTYPE html>\n<html lang="en">{element("head", head)}{body}</html>\n'.split(_CONTENT)
    return before, after


def _read(name: str) -> str:
    return files("muse_pipeline.report").joinpath(name).read_text(encoding="utf-8")

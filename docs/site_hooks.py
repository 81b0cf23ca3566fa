"""Hooks of MkDocs: add pages of the repository that lie outside docs/ to the site, and adapt the
links to them.

Files keep their paths; docs/ itself is the root of the site.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
EXPERIMENTS = [
    path.relative_to(ROOT).as_posix() for path in sorted(ROOT.glob("experiments/*/README.md"))
]
OUTSIDE = ("config/README.md", "CONTRIBUTING.md", "CHANGELOG.md", *EXPERIMENTS)
FILES = (
    "config/train/*.yaml",
    "workflow/profiles/*/config.yaml",
    "benchmarks/*.json",
    "contrib/kubernetes/*.yaml",
    "web/muse.html",  # if `make page` built it
)
LINK = re.compile(r"(?<=\]\()(?![a-z]+:)([^)#\s]+)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages and files outside docs/ to which pages of docs/ link."""
    matched = (
        path.relative_to(ROOT).as_posix()
        for pattern in FILES
        for path in sorted(ROOT.glob(pattern))
    )
    for name in (*OUTSIDE, *matched):
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links between files of the repository into links between files of the site."""
    name = page.file.src_uri
    source = PurePosixPath(name if name in OUTSIDE else f"docs/{name}")
    return LINK.sub(lambda match: move_link(match[1], source), markdown)


def move_link(link: str, source: PurePosixPath) -> str:
    """The link from ``source``, a file of the repository, to another file as a link from its page
    on the site.
    """
    target = Path(ROOT / source.parent / link).resolve().relative_to(ROOT)
    depth = len(source.parent.parts) - (source.parts[0] == "docs")
    inside = target.parts[1:] if target.parts[0] == "docs" else target.parts
    return "/".join([*[".."] * depth, *inside])

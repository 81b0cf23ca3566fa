"""docs/reference.md is up to date with its script, and every link in the documentation has a
target.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
EXPERIMENTS = sorted((TOP / "experiments").glob("*/README.md"))
DOCS = sorted((TOP / "docs").rglob("*.md"))
PAGES = [TOP / "README.md", TOP / "CONTRIBUTING.md", TOP / "config/README.md", *DOCS, *EXPERIMENTS]


def test_the_reference_is_current():
    command = [sys.executable, "docs/make_reference.py"]
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=TOP)
    assert run.returncode == 0, run.stderr
    assert run.stdout == (TOP / "docs/reference.md").read_text(encoding="utf-8"), (
        f"run {' '.join(command[1:])}"
    )


def list_anchors(page: Path) -> set[str]:
    """Anchors of a page's headings as GitHub generates them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TOP)))
def test_links_lead_to_files_and_headings(page):
    links = re.findall(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]+))?\)", page.read_text(encoding="utf-8"))
    for path, anchor in links:
        target = page.parent / path if path else page
        assert target.exists(), path
        assert not anchor or target.suffix != ".md" or anchor in list_anchors(target), (
            f"{path}#{anchor}"
        )

"""Docstrings are plain noun phrases (CONTRIBUTING.md, "Style")."""

import ast
import re
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
FRAGMENT = {
    "of",
    "that",
    "to",
    "as",
    "in",
    "by",
    "for",
    "with",
    "from",
    "after",
    "at",
    "on",
    "between",
    "likewise",
}
FRAGMENT |= {"those", "where", "what", "how", "who", "which", "when", "see"}
RELATIVE = re.compile(r"(what|which|where|whether|how|who|whose|when|why)\b", re.IGNORECASE)


@pytest.fixture(scope="module")
def docstrings() -> list[tuple[Path, str]]:
    """(file, docstring) of every module, class and function of the package."""
    return [
        (path.relative_to(TOP), ast.get_docstring(node) or "")
        for path in sorted((TOP / "muse_pipeline").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def test_entries_of_docstrings_are_noun_phrases(docstrings):
    entry = re.compile(r"^    \*{0,2}(\w+)(?: \([^)]*\))?: (\w+)", re.MULTILINE)
    blocks = re.compile(r"^(?:Args|Attributes):\n((?:    .*\n?|\n)*)", re.MULTILINE)
    entries = [
        (path, *found)
        for path, text in docstrings
        for block in blocks.findall(text)
        for found in entry.findall(block)
    ]
    assert len(entries) > 500
    assert not [each for each in entries if each[2].lower() in FRAGMENT]


def test_docstrings_begin_with_their_subject(docstrings):
    assert not [(path, text[:60]) for path, text in docstrings if RELATIVE.match(text)]

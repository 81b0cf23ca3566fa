"""Words that plain English replaces (CONTRIBUTING.md, "Style") stay rare in code and documentation.

`python tests/test_words.py` lists how often each word occurs, and `python tests/test_words.py WORD` where it does.
"""

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
LIMIT = 170  # of all words together; lower it as texts are rewritten
SUFFIXES = {".py", ".md", ".yaml", ".yml", ".smk", ".groovy", ".ipynb", ".toml", ""}
FOLDERS = ("muse_pipeline", "workflow", "config", "docs", "tests", "experiments", "benchmarks")
FILES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "Makefile", "pyproject.toml")

# Personifications, archaic words and replaced vocabulary. An underscore ends a word, so identifiers are searched too.
WORDS = {
    # software does not talk, know or feel
    "say": "says?|said|saying",
    "tell": "tells|told",
    "speak": "speaks?|spoken|spoke",
    "know": "knows?",
    "see": "has seen|have seen|_see",
    "refuse": "refuses?|refused|refusing|refusal",
    "mend": "mend|mends|mended",
    "whom": "whom|whose is|somebody|nobody|whoever",
    "teach": "taught|theirs",
    # renamed
    "walk_shard": "walk_shard|NucleusFinder",
    "each_once": "each_once|stands_for|ownership|doubles",
    "in_use": r"in_use|\.hold\(|\.follow\(",
    "wide, near": r"\.wide|\.near|wide=|near=",
    "bump": "bumps?",
    "surroundings": "surroundings",
    "patience": "patience",
    "wording": "wording|census|kept pictures",
    "running": r"running(?= = )",
    "price": "price|prices|priced",
    "look": "look|looks",
    "place": "places?",
    "share": "part of the way|share of the way",
    "piece": "pieces?",
    "stretch": "stretch|stretches",
    "span": "spans?",
}
# Uses of the words in their plain sense, or in that of a library. Words with a single meaning are not in WORDS:
# "guard" (of windows, for proposers), "verdict" (of a slide's appearance, of a GeoJSON file), "strip" (of rows).
TECHNICAL = (
    r"in place of|in place\b|takes? place|decimal places?|places=\d",
    r"look (?:at|for|like|alike|up|in|into)\b|looks (?:at|for|like|alike|up|in|into)\b|look-ups?|lookup",
    r"refuse(?=`|\"|'| nuclei)",  # a value of the setting `outside`
    r"\btold apart\b|\btell apart\b",
    r"colspan|rowspan|<span|</span>|\bspan\b(?=[.{#])|\"span\"(?=,)",  # HTML and CSS
    r"\.span\(\)|Connection refused",  # a method of matches; a system's error
)


def list_files() -> Iterator[Path]:
    """Text files of the project in which the words are counted, without this test and the recorded runs."""
    for name in FILES:
        yield TOP / name
    for folder in FOLDERS:
        for path in sorted((TOP / folder).rglob("*")):
            if path.is_file() and path.suffix in SUFFIXES and path != Path(__file__).resolve():
                yield path


PATTERNS = list(WORDS)
REPLACED = "|".join(f"({pattern})" for pattern in WORDS.values())
BEGIN = r"(?:(?<![A-Za-z])|(?=[.<\"]))"  # skips most positions quickly
ANY_WORD = re.compile(rf"{BEGIN}(?:{'|'.join(TECHNICAL)}|(?<![A-Za-z])(?i:{REPLACED})(?![A-Za-z]))")


def find_words(text: str) -> Iterator[tuple[str, int]]:
    """Yield the entry of ``WORDS`` and the position of each occurrence, except technical uses."""
    for match in ANY_WORD.finditer(text):
        if match.lastindex:
            yield PATTERNS[match.lastindex - 1], match.start()


def test_replaced_words_are_rare():
    counts = Counter(name for path in list_files() for name, _ in find_words(path.read_text(encoding="utf-8")))
    assert counts.total() <= LIMIT, counts.most_common()


def test_words_are_found_in_prose_and_in_identifiers_and_not_in_technical_uses():
    found = [name for name, _ in find_words("A card says; said_by; `taught`; in place of it; decimal places")]
    assert found == ["say", "say", "teach"]


if __name__ == "__main__":
    if wanted := sys.argv[1:]:
        for path in list_files():
            text = path.read_text(encoding="utf-8")
            for name, at in find_words(text):
                if name in wanted:
                    number = text.count("\n", 0, at)
                    print(f"{path.relative_to(TOP)}:{number + 1}: {text.splitlines()[number].strip()[:140]}")
    else:
        files = [(path.relative_to(TOP), path.read_text(encoding="utf-8")) for path in list_files()]
        rooms = Counter(str(Path(*path.parts[:2])) for path, text in files for _ in find_words(text))
        words = Counter(name for _, text in files for name, _ in find_words(text))
        print(*(f"{n:6} {name}" for counts in (rooms, words) for name, n in counts.most_common(40)), sep="\n")
        print(f"{words.total():6} in all")

FRAGMENT = {"of", "that", "to", "as", "in", "by", "for", "with", "from", "after", "at", "on", "between", "likewise"}
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
        (path, *found) for path, text in docstrings for block in blocks.findall(text) for found in entry.findall(block)
    ]
    assert len(entries) > 500
    assert not [each for each in entries if each[2].lower() in FRAGMENT]


def test_docstrings_begin_with_their_subject(docstrings):
    assert not [(path, text[:60]) for path, text in docstrings if RELATIVE.match(text)]

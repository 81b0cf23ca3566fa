"""Differences between the settings of a run and those with which the results in its folder were made."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from muse_pipeline.core.files import find_json, sha256_of
from muse_pipeline.core.text import count_noun, some_of
from muse_pipeline.slides.remote import is_url

# Phrases that replace the values of settings where a reader could not interpret the values.
PHRASES = {
    "slide": "slide files at another location",
    "slide files": "changed slide files",
    **{name: f"other settings of {name}" for name in ("training", "pretraining", "proposals")},
}


def describe_changes(changes: Mapping[str, Sequence[str]], replaced: str = "the finished results") -> list[str]:
    """Describe in lines of text which results a run replaces: every change with its slides; empty if there is none.

    Args:
        changes: changed settings, in words, of every slide whose results are replaced, keyed by slide_id.
        replaced: phrase for the results that are replaced.
    """
    slides_of: dict[str, list[str]] = {}
    for slide_id, found in changes.items():
        for change in found:
            slides_of.setdefault(change, []).append(slide_id)
    if not slides_of:
        return []
    return [
        f"This run replaces {replaced} of {count_noun(len(changes), 'slide')}:",
        *(f"  {change}: {count_noun(len(names), 'slide')} ({some_of(names)})" for change, names in slides_of.items()),
        "To keep them, stop the run and give another output folder.",
    ]


def read_changes(record: Path, now: Mapping[str, Any]) -> dict[str, str] | None:
    """Compare the settings of a job with those that its results were made with; None if the latter are unknown.

    Args:
        record: path of the JSON file with the settings that the job was run with.
        now: settings of the job in this run.

    Returns:
        A phrase for every setting whose value differs, keyed by the setting's name, such as "csv false -> true".
    """
    if not isinstance(before := find_json(record), dict):  # the job has not finished, or another program wrote the file
        return None
    return {
        name: PHRASES.get(name) or f"{name} {_word(before.get(name))} -> {_word(value)}"
        for name, value in now.items()
        if before.get(name) != value and not (name == "slide" and _is_same_file(before.get(name), value))
    }


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _is_same_file(before: Any, now: str) -> bool:
    """True if the earlier path of a slide leads to the same file, for example through a link."""
    return isinstance(before, str) and not is_url(now) and Path(before).resolve() == Path(now).resolve()


def version_of_file(path: str | None) -> str:
    """The name of a file, with the beginning of its checksum if it exists; "none" if no path is given."""
    if not path or not Path(path).is_file():
        return Path(path).name if path else "none"
    return name_version(Path(path).name, _checksum(path, Path(path).stat().st_mtime_ns))


@cache
def _checksum(path: str, time_ns: int) -> str:
    """SHA-256 of a file, cached until the file is written again."""
    return sha256_of(path)


def name_version(name: str, sha256: str | None) -> str:
    """The name of a model or file with the beginning of its checksum, or with a note if it has none yet."""
    return f"{name} ({sha256[:8]})" if sha256 else f"{name} (still to be trained)"

"""Words that many sentences share."""

from __future__ import annotations

from collections.abc import Sequence


def one_line(said: object) -> str:
    """What an error or a text says, without line breaks."""
    return " ".join(str(said).split())


def some_of(names: Sequence[str], n: int = 5) -> str:
    """The first ``n`` names, and how many more there are."""
    return ", ".join(names[:n]) + (f" and {len(names) - n} more" if len(names) > n else "")

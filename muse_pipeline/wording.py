"""Words that many sentences share."""

from __future__ import annotations

from collections.abc import Sequence


def one_line(said: object) -> str:
    """What an error or a text says, without line breaks."""
    return " ".join(str(said).split())


def count_noun(n: int, one: str, many: str | None = None) -> str:
    """A number with its noun: "1 slide", "1,200 slides"; ``many`` is the plural where it is not formed with s."""
    return f"{n:,} {one if n == 1 else many or f'{one}s'}"


def some_of(names: Sequence[str], n: int = 5) -> str:
    """The first ``n`` names, and how many more there are."""
    return ", ".join(names[:n]) + (f" and {len(names) - n} more" if len(names) > n else "")

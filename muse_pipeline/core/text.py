"""Text of messages and reports: lists of names, one-line errors, numbers with units."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches


def one_line(value: object) -> str:
    """The string of an error or another value, on one line."""
    return " ".join(str(value).split())


def count_noun(n: int, one: str, many: str | None = None) -> str:
    """A number with its noun, as in "1 slide" and "1,200 slides"; ``many`` is an irregular
    plural.
    """
    return f"{n:,} {one if n == 1 else many or f'{one}s'}"


def join_sentences(*texts: str) -> str:
    """Join texts with spaces, and end all but the last with a full stop; empty texts are
    omitted.
    """
    given = [text.strip() for text in texts if text.strip()]
    return " ".join(
        [*(text if text.endswith(".") else f"{text}." for text in given[:-1]), *given[-1:]]
    )


def some_of(names: Sequence[str], n: int = 5, separator: str = ", ") -> str:
    """The first ``n`` names, and how many more there are."""
    return separator.join(names[:n]) + (f" and {len(names) - n} more" if len(names) > n else "")


def find_similar(word: str, names: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The one of ``names`` that is most like ``word``; None if none is.

    A name with the same letters in another order comes first: `modle` is `model`, not `mode`.
    ``cutoff`` is the least ratio of ``difflib.get_close_matches``.
    """
    similar = get_close_matches(word, list(names), cutoff=cutoff)
    return max(similar, key=lambda name: sorted(name) == sorted(word), default=None)


def suggest(word: str, names: Iterable[str], otherwise: str) -> str:
    """A question about the one of ``names`` that is most like ``word``, or ``otherwise``."""
    similar = find_similar(word, names)
    return f"did you mean '{similar}'?" if similar else otherwise


def count_text(n: int | None) -> str:
    """A count, such as 12,345; a dash for None."""
    return "–" if n is None else f"{n:,}"


def area_text(mm2: float | None) -> str:
    """An area in mm2, as 12.3 or 1.23, or with one significant digit below 0.01; a dash for
    None.
    """
    if mm2 is None:
        return "–"
    return f"{mm2:,.1f}" if mm2 >= 10 else f"{mm2:.2f}" if mm2 >= 0.01 or not mm2 else f"{mm2:.1g}"


def percent_text(n: int, total: int) -> str:
    """``n`` as a percentage of ``total``, with one decimal below 10 %."""
    percent = 100 * n / total
    return f"{percent:.1f} %" if 0 < percent < 9.95 else f"{percent:.0f} %"


def density_text(per_mm2: float | None) -> str:
    """Nuclei per mm2 as a whole number; a dash for None."""
    return "–" if per_mm2 is None else f"{per_mm2:,.0f}"


def time_text(seconds: float | None) -> str:
    """A duration, such as 3.2 s, 4 min 10 s or 2 h 5 min; a dash for None."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def memory_text(mib: int | None) -> str:
    """An amount of memory in MiB or GiB; a dash for None."""
    return "–" if mib is None else f"{mib} MiB" if mib < 1024 else f"{mib / 1024:.1f} GiB"


def slug(name: str) -> str:
    """``name`` for use in the name of a file or folder: unsuitable characters become hyphens."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "model"


def most_frequent_separator(header: str, usual: str) -> str:
    """The most frequent of tab, comma and semicolon in the header of a table; ``usual`` if none is
    more frequent.
    """
    return max((usual, "\t", ";", ","), key=header.count)


def decimal_point(cell: str, separator: str | None) -> str:
    """Replace a decimal comma by a point if ``separator`` is a semicolon, as in German tables."""
    return cell.replace(",", ".", 1) if separator == ";" and "." not in cell else cell

"""What tifffile logs while it parses a file: it names what is broken and carries on, between our own sentences."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def complaints_of_tifffile() -> Iterator[list[str]]:
    """Collect them instead of printing them."""
    complaints: list[str] = []
    logger = logging.getLogger("tifffile")

    def collect(record: logging.LogRecord) -> bool:
        complaints.append(record.getMessage())
        return False

    logger.addFilter(collect)
    try:
        yield complaints
    finally:
        logger.removeFilter(collect)

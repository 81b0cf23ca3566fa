"""The outcome of registering a slide's partner, for training and reports."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from muse_pipeline.core.errors import MuseError
from muse_pipeline.core.files import find_full_disk, read_json, remove, write_json
from muse_pipeline.core.text import one_line

TRANSFORM, RESIDUALS, CHECKERBOARD, RECORD = "transform.json", "residuals.tsv", "checkerboard.png", "partner.json"
OK, FAILED = "ok", "failed"


@contextmanager
def record_outcome(partner: Path, store: Path, slide_id: str) -> Iterator[dict[str, Any]]:
    """Write partner.json beside ``store`` when the block ends; a partner that fails leaves that and an empty folder.

    Training continues without the pairs of such a slide, so only a full disk ends the block with an error.

    Args:
        partner: file of the partner.
        store: store that the block writes.
        slide_id: id of the H&E slide.

    Yields:
        A dictionary to which the block adds entries of the record.
    """
    folder = store.parent
    remove(folder / RECORD)
    facts: dict[str, Any] = {"slide_id": slide_id, "partner": str(partner)}
    try:
        yield facts
        outcome = {"status": OK, "reason": ""}
    except Exception as error:
        if isinstance(error, OSError) and find_full_disk(error, [folder]):
            raise
        known = isinstance(error, MuseError)
        outcome = {"status": FAILED, "reason": one_line(error if known else f"{type(error).__name__}: {error}")}
        for path in (store, *(folder / name for name in (TRANSFORM, RESIDUALS, CHECKERBOARD))):
            remove(path)
        store.mkdir(parents=True)
    write_json(folder / RECORD, {**outcome, **facts})


def read_outcome(folder: Path) -> dict[str, Any] | None:
    """The content of partner.json; None where there is none."""
    try:
        return read_json(folder / RECORD)
    except (OSError, ValueError):
        return None

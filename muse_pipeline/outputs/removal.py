"""Files of an earlier run that a new one removes, so that none is mistaken for one of the new nuclei."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from muse_pipeline.cohort.layout import TABLE_FILES
from muse_pipeline.core.errors import OutputError
from muse_pipeline.core.files import remove
from muse_pipeline.outputs.base import file_patterns, list_outputs

# Stores and shards are not listed: each records the slide that it was made from.
OF_SLIDE = (
    *("slide.json", "tissue.npz", "tissue.png", "tissue.geojson", "colour.json", "logs/settings"),
    *(f"{table}.{kind}" for table in ("nuclei", "proposals") for kind in TABLE_FILES),
    *(f"regions.{kind}" for kind in ("geojson", "png", "zarr", "json")),
    *(f"ledger/{step}.json" for step in ("fetch", "inspect", "tissue", "tile-*", "regions", "propose-*", "detect-*")),
    *("ledger/stitch.json", "ledger/stitch-*.json", "ledger/geojson-*.json"),
)


def replaced_results(folder: Path) -> Iterator[Path]:
    """Files of an earlier run in a slide's folder that a new run removes before it starts."""
    outputs = list_outputs()
    ledgers = {f"ledger/{output.step}.json" for output in outputs}
    return (path for pattern in {*OF_SLIDE, *file_patterns(), *ledgers} for path in folder.glob(pattern))


def withdraw_outputs(folder: Path, settings: Mapping[str, Any]) -> None:
    """Remove what was made from earlier nuclei of a slide, when a run with ``settings`` has joined the new ones."""
    written = [output for output in list_outputs(settings) if output.by_stitch]
    outdated = file_patterns(output for output in list_outputs() if output not in written)
    for path in [path for pattern in outdated for path in folder.glob(pattern)]:
        remove(path)


def withdraw_results(folder: Path) -> None:
    """Remove the results of an earlier run, so that none is mistaken for one of this run.

    Raises:
        OutputError: a file cannot be removed.
    """
    for outdated in list(replaced_results(folder)):
        try:
            remove(outdated)
        except OSError as error:
            raise OutputError(f"{outdated}: cannot be removed ({error.strerror}); give another --output") from error

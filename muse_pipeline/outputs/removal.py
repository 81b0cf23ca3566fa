"""Remove the files of an earlier run, so that none is mistaken for a result of the new run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muse_pipeline.cohort.changes import read_changes
from muse_pipeline.cohort.layout import TABLE_FILES, SlideFiles
from muse_pipeline.cohort.sheet import COLUMNS
from muse_pipeline.core.errors import OutputError
from muse_pipeline.core.files import remove
from muse_pipeline.outputs.base import Output, file_patterns, list_outputs

if TYPE_CHECKING:
    from muse_pipeline.cohort.plan import Plan

# Patterns of the files to remove, including records of the settings that they were made with. Stores and shards are
# not listed, since each records the slide from which it was made.
OF_SLIDE = (
    *("slide.json", "tissue.npz", "tissue.png", "tissue.geojson", "colour.json"),
    *(f"{table}.{kind}" for table in ("nuclei", "proposals") for kind in TABLE_FILES),
    *(f"regions.{kind}" for kind in ("geojson", "png", "zarr", "json")),
    *(f"ledger/{step}.json" for step in ("fetch", "inspect", "tissue", "tile-*", "regions", "propose-*", "detect-*")),
    *("ledger/stitch.json", "ledger/stitch-*.json", "ledger/geojson-*.json"),
    *(f"logs/settings/{job}.json" for job in ("image", "regions", "detect-*", "*-proposals")),
)


def replaced_results(folder: Path) -> Iterator[Path]:
    """Paths of the files in a slide's folder that an earlier run wrote and a new run removes before it starts."""
    outputs = list_outputs()
    ledgers = {f"ledger/{output.step}.json" for output in outputs}
    records = {f"logs/settings/{output.job}.json" for output in outputs}
    return (path for pattern in {*OF_SLIDE, *file_patterns(), *ledgers, *records} for path in folder.glob(pattern))


def remove_outputs(folder: Path, settings: Mapping[str, Any]) -> None:
    """Remove the outputs that were made from a slide's earlier nuclei, after `stitch` has replaced the nuclei."""
    written = [output for output in list_outputs(settings) if output.by_stitch]
    outdated = file_patterns(output for output in list_outputs() if output not in written)
    for path in [path for pattern in outdated for path in folder.glob(pattern)]:
        remove(path)


def remove_unrequested(plan: Plan, slide: str) -> None:
    """Remove outputs that a run does not write and that contain outdated values of the sheet, such as the patient."""
    files = SlideFiles(Path(plan.folder(slide)))
    for output in list_outputs():
        record = files.record(output.job)
        if output.is_requested(plan.config) or output.job == "nuclei" or not record.exists():
            continue
        if (read_changes(record, plan.job_settings(slide)[output.job]) or {}).keys() & set(COLUMNS):
            remove_output(files, output, plan.model["name"])
            remove(record)


def remove_output(files: SlideFiles, output: Output, model: str) -> None:
    """Remove the files of one output that a run with the model called ``model`` wrote."""
    for name in output.file_names(model):
        remove(files.folder / name)


def remove_results(folder: Path) -> None:
    """Remove the results of an earlier run from a slide's folder, before a new run starts.

    Raises:
        OutputError: a file cannot be removed.
    """
    for outdated in list(replaced_results(folder)):
        try:
            remove(outdated)
        except OSError as error:
            raise OutputError(f"{outdated}: cannot be removed ({error.strerror}); give another --output") from error

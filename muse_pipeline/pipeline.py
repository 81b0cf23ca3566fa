"""Run the steps of a slide, from its file to nuclei, GeoJSON for QuPath and pictures.

The steps are grouped into jobs (``plan.Plan.jobs``), which are also jobs of the workflow:
``make_image``, ``detect``, ``make_nuclei`` and others. ``run_slide`` runs the jobs of a slide that
are not current. The steps themselves are functions of ``steps.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from muse_pipeline.cohort.layout import SlideFiles, shard_names, store_name
from muse_pipeline.cohort.ledgers import record_step
from muse_pipeline.cohort.records import Job
from muse_pipeline.core.files import remove
from muse_pipeline.core.process import return_large_arrays
from muse_pipeline.outputs.artefacts import can_judge_focus, subtracted
from muse_pipeline.outputs.base import FinishedSlide, Output, file_patterns, list_outputs
from muse_pipeline.plan import Plan
from muse_pipeline.steps import Pixels, detect, fetch, inspect, regions, stitch, tile, tissue

if TYPE_CHECKING:
    from muse_pipeline.cohort.sheet import SheetRow
    from muse_pipeline.inference.embed import Embedder
    from muse_pipeline.inference.predictor import Predictor, RegionPredictor
    from muse_pipeline.settings import RunSettings

Begin = Callable[
    [str], None
]  # a function called with the name of each step just before the step starts


@dataclass(frozen=True)
class Models:
    """The networks of a run."""

    predictor: Predictor  # the detection model
    # region model, for slides whose row does not name a file of drawn regions; None without a model
    regions: RegionPredictor | None = None
    embedder: Embedder | None = (
        None  # network that computes a vector of features for every nucleus; or None
    )


def plan_slides(rows: Sequence[SheetRow], models: Models, settings: RunSettings) -> Plan:
    """Plan the jobs of slides."""
    predictor = models.predictor
    model = {
        "name": predictor.card.name,
        "sha256": predictor.sha256,
        "provider": predictor.provider,
    }
    cells = {
        row.slide_id: {**row.to_dict(), "shards": row.shards or settings.shards} for row in rows
    }
    for row in rows:
        if row.label:  # a column of cohort.h5ad
            cells[row.slide_id]["label"] = row.label
    return Plan(settings, cells, model)


def run_slide(
    row: SheetRow, plan: Plan, models: Models, settings: RunSettings, begin: Begin = str
) -> list[Job]:
    """Run the jobs of a slide that are not current, write a ledger for each step, and return these
    jobs.

    If mapping regions fails, the slide gets its nuclei but no regions, and ``regions.json`` states
    the reason.
    """
    files = SlideFiles(Path(plan.folder(row.slide_id)))
    slide = FinishedSlide(files, settings, row.patient, models.embedder, settings.threads)
    outdated = plan.records(row.slide_id).begin()
    for job in outdated:
        _run_job(job.name, row, slide, models, begin)
    for name in (name for job in outdated for name in job.temporary):
        remove(files.folder / name)
    return outdated


def _run_job(name: str, row: SheetRow, slide: FinishedSlide, models: Models, begin: Begin) -> None:
    from muse_pipeline.slides.remote import is_url

    files, threads, mpp, is_remote = (
        slide.files,
        slide.threads,
        models.predictor.card.mpp,
        is_url(row.path),
    )
    shards = [files.shard(shard) for shard in shard_names(row.shards or slide.settings["shards"])]
    areas = row.regions and Path(row.regions)
    if slide.settings["regions"] and not areas:
        areas = files.folder
    if name == "image":
        if is_remote:
            with _step(files, "fetch", begin):
                fetch(row.path, files.fetched)
        make_image(
            files.fetched if is_remote else Path(row.path), row, files, mpp, slide.settings, begin
        )
    elif name.startswith("detect-"):
        shard = name.removeprefix("detect-")
        with _step(files, "detect", begin, name) as warnings:
            given = models.predictor, files.colour, shard, files.shard(shard), threads, row.stain
            warnings.extend(detect(files.store(mpp), *given))
    elif name == "regions":
        # ``_step`` exits first, so the error is in its ledger before ``suppress`` discards it.
        with suppress(Exception), _step(files, name, begin) as warnings:
            source = (lambda: models.regions) if models.regions else shards
            regions(files.store(mpp), source, files.info, files.colour, areas, threads, warnings)
    elif name == "nuclei":
        make_nuclei(shards, slide, areas, begin)
    else:
        write_outputs(
            slide, [output for output in list_outputs(slide.settings) if output.job == name], begin
        )


def write_outputs(slide: FinishedSlide, outputs: Sequence[Output], begin: Begin = str) -> None:
    """Write outputs of a finished slide in order; all outputs of a step are written together, when
    the last is due.
    """
    return_large_arrays()
    last = {output.step: position for position, output in enumerate(outputs)}
    for step in sorted(last, key=last.__getitem__):
        with _step(slide.files, step, begin) as warnings:
            for output in outputs:
                if output.step == step:
                    warnings.extend(output.write(slide) or ())


def make_image(
    slide: Path,
    row: SheetRow,
    files: SlideFiles,
    mpp: float,
    settings: RunSettings,
    begin: Begin = str,
) -> None:
    """Run the steps from a slide's file, or the folder with its copy, to its image at ``mpp`` (um
    per pixel).
    """
    from muse_pipeline.slides.remote import is_url

    source, roi = row.path if is_url(row.path) else None, row.roi and Path(row.roi)
    _forget_steps(files, "inspect", "tissue", f"tile-{store_name(mpp)}")
    with _step(files, "inspect", begin):
        import muse_pipeline.store.write  # noqa: F401 - processes that `inspect` forks inherit its libraries

        inspect(slide, row.slide_id, row.mpp, source, files.info)
    with _step(files, "tissue", begin):
        outputs = files.mask, files.picture, files.outline, files.colour
        tissue(slide, files.info, roi, *outputs, settings["third_stain"])
    with _step(files, "tile", begin, f"tile-{store_name(mpp)}") as warnings:
        limits = settings.threads, settings.max_corrupt
        warnings.extend(tile(slide, files.info, files.mask, files.store(mpp), mpp, *limits))


def make_nuclei(
    shards: Sequence[Path], slide: FinishedSlide, regions: Path | None = None, begin: Begin = str
) -> None:
    """Run the steps from all shards of a slide to its nuclei and the outputs that are written with
    them.

    The region of every nucleus comes from ``regions``: a folder written by ``muse regions``, or a
    GeoJSON of areas with classes.
    """
    files, settings = slide.files, slide.settings
    _forget_steps(files, "stitch", *(output.step for output in list_outputs()))
    for path in [path for pattern in file_patterns() for path in files.folder.glob(pattern)]:
        remove(path)  # outputs made from earlier nuclei
    with _step(files, "stitch", begin) as warnings:
        pixels = _choose_pixels(shards, slide)
        results = files.info, files.mask, files.nuclei
        warnings.extend(
            stitch(shards, *results, slide.threads, regions, pixels, settings["intensities"])
        )
    outputs = [output for output in list_outputs(settings, "nuclei") if output.step != "stitch"]
    write_outputs(slide, outputs, begin)


def _choose_pixels(shards: Sequence[Path], slide: FinishedSlide) -> Pixels | None:
    """The image in which the nuclei were found, and what to measure in it; None if nothing is to be
    measured.
    """
    from muse_pipeline.inference.card import ModelCard
    from muse_pipeline.inference.shards import read_shard_facts

    files, features, kinds = slide.files, slide.settings["features"], subtracted(slide.settings)
    card = ModelCard.from_json(read_shard_facts(shards[0])["common"]["card"], str(shards[0]))
    artefacts = files.artefacts if kinds is not None and can_judge_focus(card.mpp) else None
    if features == "none" and artefacts is None:
        return None
    expand_um = (slide.settings["cells"] or {}).get("expand_um")
    return Pixels(files.store(card.mpp), files.colour, features, artefacts, kinds or (), expand_um)


@contextmanager
def _step(
    files: SlideFiles, step: str, begin: Begin, ledger: str | None = None
) -> Iterator[list[str]]:
    begin(step)
    with record_step(files.ledger(ledger or step), step) as warnings:
        yield warnings


def _forget_steps(files: SlideFiles, *steps: str) -> None:
    """Remove ledgers of an earlier run, so that a step that this run does not reach has no
    ledger.
    """
    for step in steps:
        with suppress(OSError):  # the first step reports a disk that cannot be written to
            files.ledger(step).unlink(missing_ok=True)

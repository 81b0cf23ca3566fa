"""Run the steps of a slide, from its file to nuclei, GeoJSON for QuPath and pictures.

The steps are grouped into jobs (``plan.Plan.jobs``), which are also jobs of the workflow:
``make_image``, ``detect``, ``make_nuclei`` and others. ``run_slide`` runs the jobs of a slide that
are not current. The steps themselves are functions of ``steps``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from muse_pipeline import steps
from muse_pipeline.cohort.layout import SlideFiles, shard_names, store_name
from muse_pipeline.cohort.ledgers import record_step
from muse_pipeline.cohort.records import Job, Records
from muse_pipeline.cohort.sheet import SheetRow
from muse_pipeline.core.files import remove
from muse_pipeline.core.process import return_large_arrays
from muse_pipeline.outputs.artefacts import can_judge_focus, subtracted
from muse_pipeline.outputs.base import FinishedSlide, Output, file_patterns, list_outputs
from muse_pipeline.plan import Plan
from muse_pipeline.settings import RunSettings, read_run_config

if TYPE_CHECKING:
    from muse_pipeline.inference.embed import Embedder
    from muse_pipeline.inference.predictor import Predictor, RegionPredictor

# a function called with the name of each step just before the step starts
Begin = Callable[[str], None]


@dataclass(frozen=True)
class Models:
    """The networks of a run."""

    predictor: Predictor  # the detection model
    # region model, for slides whose row does not name a file of drawn regions; None without a model
    regions: RegionPredictor | None = None
    # network that computes a vector of features for every nucleus; or None
    embedder: Embedder | None = None


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
    row: SheetRow, records: Records, models: Models, settings: RunSettings, begin: Begin = str
) -> list[Job]:
    """Run the jobs of a slide that are not current, write a ledger for each step, and return these
    jobs.

    If mapping regions fails, the slide gets its nuclei but no regions, and ``regions.json`` states
    the reason.
    """
    files = SlideFiles(records.folder)
    slide = FinishedSlide(files, settings, row.patient, models.embedder, settings.threads)
    run = SlideRun(row, slide, models, begin)
    outdated = records.begin()
    for job in outdated:
        getattr(run, job.rule)(**job.wildcards)
    for name in (name for job in outdated for name in job.temporary):
        remove(files.folder / name)
    return outdated


def image(
    slide: Path,
    slide_id: str,
    output: Path,
    mpp: float | None = None,
    source: str | None = None,
    roi: Path | None = None,
    config: Path | None = None,
    threads: int = 1,
) -> None:
    """Read a slide's header, find its tissue and write its image: the steps `inspect`, `tissue` and
    `tile`.

    Args:
        slide: the slide, or a folder written by `fetch`.
        slide_id: name in the cohort.
        output: results of the slide, RESULTS/<slide_id>.
        mpp: um per level-0 pixel, instead of the file's.
        source: URL from which the slide must have been fetched.
        roi: analyse only these areas, drawn in QuPath (GeoJSON).
        config: config of the run (YAML).
        threads: processor threads.
    """
    settings = RunSettings(read_run_config(config), threads)
    row = SheetRow(slide_id, source or str(slide), mpp, roi=roi and str(roi))
    make_image(slide, row, SlideFiles(output), settings.mpp, settings)


def nuclei(
    shards: Sequence[Path],
    output: Path,
    regions: Path | None = None,
    config: Path | None = None,
    patient: str | None = None,
    embedder: Embedder | None = None,
    threads: int = 1,
) -> None:
    """Join a slide's shards and write all outputs from its nuclei: `stitch`, `geojson`, `overlay`
    and others.

    Args:
        shards: all shards of the slide.
        output: results of the slide, RESULTS/<slide_id>.
        regions: folder written by `muse regions`, or a GeoJSON of areas with classes.
        config: config of the run (YAML).
        patient: patient of the slide (default: from the name of the slide).
        embedder: model whose features of every nucleus are written.
        threads: processor threads.
    """
    settings = RunSettings(read_run_config(config), threads)
    slide = FinishedSlide(SlideFiles(output), settings, patient, embedder, threads)
    make_nuclei(shards, slide, regions)


def proposals(
    shards: Sequence[Path], output: Path, config: Path | None = None, threads: int = 1
) -> None:
    """Join the shards of a slide's proposals, and write them for QuPath.

    Args:
        shards: all shards of the proposals.
        output: results of the slide, RESULTS/<slide_id>.
        config: config of the run (YAML).
        threads: processor threads.
    """
    settings = RunSettings(read_run_config(config))
    files = SlideFiles(output)
    _forget_steps(files, "stitch-proposals", "geojson-proposals")
    with _step(files, "stitch", str, "stitch-proposals") as warnings:
        warnings.extend(steps.stitch(shards, files.info, files.mask, files.proposals, threads))
    with _step(files, "geojson", str, "geojson-proposals"):
        written = files.proposals_geojson, settings.frame
        steps.geojson(files.proposals, files.info, *written, threads=threads)


def overlay(folder: Path, config: Path | None = None) -> list[str]:
    """Draw a finished slide: its density, three fields with outlines, its viewer, and a summary for
    the report.

    Args:
        folder: results of one slide, RESULTS/<slide_id>.
        config: config of the run (YAML).
    """
    return_large_arrays()
    settings = RunSettings(read_run_config(config))
    slide, warnings = FinishedSlide(SlideFiles(folder), settings), []
    for output in list_outputs(settings):
        if output.step == "overlay":
            warnings += output.write(slide) or ()
    return warnings


@dataclass(frozen=True)
class SlideRun:
    """A slide that is run; a method for each job is called like its rule of the workflow."""

    row: SheetRow
    slide: FinishedSlide
    models: Models
    begin: Begin

    @property
    def _store(self) -> Path:
        return self.slide.files.store(self.models.predictor.card.mpp)

    @property
    def _shards(self) -> list[Path]:
        names = shard_names(self.row.shards or self.slide.settings["shards"])
        return [self.slide.files.shard(name) for name in names]

    def image(self) -> None:
        """Fetch the slide if it is at a URL, and write its image."""
        from muse_pipeline.slides.remote import is_url

        row = self.row
        files = self.slide.files
        path = Path(self.row.path)
        if is_url(row.path):
            path = files.fetched
            with _step(files, "fetch", self.begin):
                steps.fetch(row.path, path)
        mpp = self.models.predictor.card.mpp
        make_image(path, row, files, mpp, self.slide.settings, self.begin)

    def detect(self, shard: str) -> None:
        """Find the nuclei of one shard."""
        files = self.slide.files
        given = self.models.predictor, files.colour, files.shard(shard), shard
        with _step(files, "detect", self.begin, f"detect-{shard}") as warnings:
            warnings.extend(steps.detect(self._store, *given, self.slide.threads, self.row.stain))

    def regions(self) -> None:
        """Map the tissue regions, or record why that failed."""
        files, mapper = self.slide.files, self.models.regions
        source = (lambda: mapper) if mapper else self._shards
        # ``_step`` exits first, so the error is in its ledger before ``suppress`` discards it.
        with suppress(Exception), _step(files, "regions", self.begin) as warnings:
            given = self._store, source, files.info, files.colour, files.folder
            steps.regions(*given, self.slide.threads, warnings)

    def nuclei(self) -> None:
        """Join the shards, and write all outputs."""
        drawn, slide = self.row.regions, self.slide
        mapped = slide.files.folder if slide.settings["regions"] else None
        make_nuclei(self._shards, slide, Path(drawn) if drawn else mapped, self.begin)


def write_outputs(slide: FinishedSlide, outputs: Sequence[Output], begin: Begin) -> None:
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

    source = row.path if is_url(row.path) else None
    roi = row.roi and Path(row.roi)
    _forget_steps(files, "inspect", "tissue", f"tile-{store_name(mpp)}")
    with _step(files, "inspect", begin):
        # Processes that `inspect` forks inherit its libraries.
        import muse_pipeline.store.write  # noqa: F401
        from muse_pipeline.slides.inspect import load_tiffslide

        load_tiffslide([slide])
        steps.inspect(slide, row.slide_id, row.mpp, source, files.info)
    with _step(files, "tissue", begin):
        outputs = files.mask, files.picture, files.outline, files.colour
        steps.tissue(slide, files.info, *outputs, roi, settings["third_stain"])
    with _step(files, "tile", begin, f"tile-{store_name(mpp)}") as warnings:
        limits = settings.threads, settings.max_corrupt
        warnings.extend(steps.tile(slide, files.info, files.mask, files.store(mpp), mpp, *limits))


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
            steps.stitch(shards, *results, slide.threads, regions, pixels, settings["intensities"])
        )
    outputs = [output for output in list_outputs(settings) if output.step != "stitch"]
    write_outputs(slide, outputs, begin)


def _choose_pixels(shards: Sequence[Path], slide: FinishedSlide) -> steps.Pixels | None:
    """The image in which the nuclei were found, and what to measure in it; None if nothing is to be
    measured.
    """
    from muse_pipeline.inference.card import ModelCard
    from muse_pipeline.inference.shards import read_shard_facts

    files = slide.files
    features = slide.settings["features"]
    kinds = subtracted(slide.settings)
    card = ModelCard.from_json(read_shard_facts(shards[0])["common"]["card"], str(shards[0]))
    artefacts = files.artefacts if kinds is not None and can_judge_focus(card.mpp) else None
    if features == "none" and artefacts is None:
        return None
    expand_um = (slide.settings["cells"] or {}).get("expand_um")
    return steps.Pixels(
        files.store(card.mpp), files.colour, features, artefacts, kinds or (), expand_um
    )


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

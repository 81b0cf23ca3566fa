"""The path of a slide, from its file to nuclei, GeoJSON for QuPath and pictures.

``run_slide`` is the whole path. It has three parts, which are the jobs of the workflow: ``make_image``, ``detect`` and
``make_nuclei``. Each is made of the functions of ``steps.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from muse_pipeline.cohort.layout import SlideFiles, shard_names, store_name, withdraw_drawn
from muse_pipeline.cohort.ledgers import record_step
from muse_pipeline.steps import anndata, detect, embed, fetch, geojson, inspect, overlay, regions, stitch, tile, tissue

if TYPE_CHECKING:
    from muse_pipeline.cohort.sheet import SheetRow
    from muse_pipeline.inference.embed import Embedder
    from muse_pipeline.inference.predictor import Predictor, RegionPredictor

Begin = Callable[[str], None]  # called with the name of every step before it starts


def run_slide(
    row: SheetRow,
    files: SlideFiles,
    predictor: Predictor,
    *,
    region_model: RegionPredictor | None = None,
    embedder: Embedder | None = None,
    features: str = "basic",
    quality: Sequence[str] | None = None,
    n_shards: int = 1,
    threads: int = 1,
    viewer: bool = True,
    csv: bool = False,
    h5ad: bool = False,
    begin: Begin = str,
) -> None:
    """Run all steps of a slide, each with its ledger.

    If a region model fails, the slide has no regions but has its nuclei; ``regions.json`` states the reason.

    Args:
        row: the slide.
        files: result files of the slide.
        predictor: the detection model.
        region_model: model of tissue regions; not used if the row has a file of drawn ones.
        embedder: model that gives every nucleus a vector of features.
        features: set of features to measure of every nucleus.
        quality: the artefacts whose nuclei and areas are left out of the totals; None if no artefacts are searched for.
        n_shards: number of shards of the detection; it changes no result.
        threads: number of threads of the steps that use several; it changes no result.
        viewer: True to write the page that shows the slide in a browser.
        csv: True to write the nuclei as CSV.
        h5ad: True to write the nuclei as AnnData.
        begin: function called with the name of every step before it starts.

    Raises:
        MuseError: a step fails; later steps do not run.
    """
    from muse_pipeline.slides.remote import is_url

    mpp, roi = predictor.card.mpp, row.roi and Path(row.roi)
    if is_url(row.path):
        with _step(files, "fetch", begin):
            fetch(row.path, files.fetched, threads)
    slide = files.fetched if is_url(row.path) else Path(row.path)
    make_image(slide, files, row.slide_id, mpp, slide_mpp=row.mpp, roi=roi, threads=threads, begin=begin)
    areas = row.regions and Path(row.regions)
    if region_model is not None and not areas:
        areas = files.folder
        with suppress(Exception), _step(files, "regions", begin) as warnings:
            warnings.extend(regions(files.store(mpp), region_model, files.info, files.colour, areas, threads))
    for name in shard_names(n_shards):
        with _step(files, "detect", begin, f"detect-{name}") as warnings:
            warnings.extend(detect(files.store(mpp), predictor, files.colour, name, files.shard(name), threads))
    shards = [files.shard(name) for name in shard_names(n_shards)]
    pixels = {"features": features, "quality": quality, "store": files.store(mpp)}
    make_nuclei(shards, files, viewer=viewer, regions=areas, **pixels, threads=threads, begin=begin)
    add_files(row, files, embedder=embedder, csv=csv, h5ad=h5ad, threads=threads, begin=begin)


def add_files(
    row: SheetRow,
    files: SlideFiles,
    *,
    embedder: Embedder | None = None,
    csv: bool = False,
    h5ad: bool = False,
    viewer: bool = False,
    threads: int = 1,
    begin: Begin = str,
) -> None:
    """Write the CSV, the embeddings, the AnnData file and the viewer that a finished slide lacks, if requested."""
    from muse_pipeline.inference.embed import is_embedded
    from muse_pipeline.nuclei.parquet import write_csv

    if csv and not files.csv.is_file():
        begin("csv")
        write_csv(files.nuclei, files.csv)
    embeddings = embedder and files.embeddings(embedder.card.name)
    if embeddings and not is_embedded(embeddings, embedder):
        files.anndata.unlink(missing_ok=True)  # it lacks them
        with _step(files, "embed", begin):
            embed(files.folder, embedder, threads=threads)
    if h5ad and not files.anndata.is_file():
        begin("anndata")
        anndata(files.nuclei, files.anndata, row.patient, embeddings)
    if viewer:
        with _step(files, "overlay", begin):
            overlay(files.folder, threads)


def make_image(
    slide: Path,
    files: SlideFiles,
    slide_id: str,
    mpp: float,
    *,
    source: str | None = None,
    slide_mpp: float | None = None,
    roi: Path | None = None,
    threads: int = 1,
    max_corrupt: float = 0.01,
    begin: Begin = str,
) -> None:
    """Run the steps from a slide's file to its image at ``mpp``; ``steps.py`` describes the other arguments."""
    _forget_steps(files, "inspect", "tissue", f"tile-{store_name(mpp)}")
    with _step(files, "inspect", begin):
        import muse_pipeline.store.write  # noqa: F401 - the process that `inspect` starts has its libraries too

        inspect(slide, slide_id, slide_mpp, source, files.info)
    with _step(files, "tissue", begin):
        tissue(slide, files.info, roi, files.mask, files.picture, files.outline, files.colour)
    with _step(files, "tile", begin, f"tile-{store_name(mpp)}"):
        tile(slide, files.info, files.mask, files.store(mpp), mpp, threads, max_corrupt)


def make_nuclei(
    shards: Sequence[Path],
    files: SlideFiles,
    *,
    csv: bool = False,
    frame: str = "qupath",
    max_features: int | None = None,
    draw: bool = True,
    viewer: bool = True,
    measurements: Sequence[str] = (),
    regions: Path | None = None,
    features: str = "none",
    quality: Sequence[str] | None = None,
    store: Path | None = None,
    threads: int = 1,
    begin: Begin = str,
) -> None:
    """Run the steps from a slide's shards to its pictures and its ``viewer``; without ``draw`` to its GeoJSON."""
    _forget_steps(files, "stitch", "geojson", "embed", *(["overlay"] if draw else []))
    with _step(files, "stitch", begin) as warnings:
        csv_file = files.csv if csv else None
        pixels = {"features": features, "store": store, "colour": files.colour}
        if quality is not None:
            pixels |= {"artefacts": files.artefacts, "subtract": quality}
        warnings.extend(stitch(shards, files.info, files.mask, files.nuclei, csv_file, threads, regions, **pixels))
        if quality is None:
            files.artefacts.unlink(missing_ok=True)  # of an earlier table
        withdraw_drawn(files.folder)
    with _step(files, "geojson", begin):
        geojson(files.nuclei, files.info, files.geojson, frame, max_features, threads, measurements)
    if draw:
        with _step(files, "overlay", begin):
            overlay(files.folder, threads, viewer)


@contextmanager
def _step(files: SlideFiles, step: str, begin: Begin, ledger: str | None = None) -> Iterator[list[str]]:
    begin(step)
    with record_step(files.ledger(ledger or step), step, [files.folder]) as warnings:
        yield warnings


def _forget_steps(files: SlideFiles, *steps: str) -> None:
    """Remove the ledgers of an earlier run, so that steps that are not reached have none."""
    for step in steps:
        with suppress(OSError):  # a disk that cannot be written is reported by the first step
            files.ledger(step).unlink(missing_ok=True)

"""Steps from shards to the table of a slide's nuclei, and from the table to other formats."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from muse_pipeline.core.errors import StoreError
from muse_pipeline.core.process import return_large_arrays
from muse_pipeline.core.provenance import OTHER_STAIN, Provenance
from muse_pipeline.core.text import count_noun
from muse_pipeline.core.types import INTENSITIES_OD, LEFT_OUT, SlideInfo, Written
from muse_pipeline.features.measure import FeatureSettings
from muse_pipeline.inference.artefacts import ArtefactMap, find_artefacts, seek_no_artefacts
from muse_pipeline.inference.region_lookup import SlideRegions, load_regions
from muse_pipeline.inference.shards import read_shard_facts
from muse_pipeline.inference.stains import read_colour
from muse_pipeline.inference.stitch import ColumnSources, stitch_shards
from muse_pipeline.inference.trust import describe_membranes, describe_useless
from muse_pipeline.qupath.write import write_geojson
from muse_pipeline.slides.inspect import read_info
from muse_pipeline.store.store import Store, open_store
from muse_pipeline.tissue.colour import MacenkoFit
from muse_pipeline.tissue.mask import TissueMask


@dataclass(frozen=True)
class Pixels:
    """The image of a slide, and what is measured in it for every nucleus."""

    store: Path  # image in which the nuclei were found
    colour: Path  # path of the slide's stains
    features: str = "none"  # set of features to measure
    # GeoJSON to write artefacts to, in which nuclei are flagged; None to seek none
    artefacts: Path | None = None
    # kinds of artefacts whose nuclei and areas are left out of totals
    subtract: Sequence[str] = LEFT_OUT
    # distance by which nuclei are expanded to cells; None to measure no cells
    expand_um: float | None = None


def stitch(
    shards: Sequence[Path],
    info: Path,
    tissue: Path,
    output: Written,
    threads: int = 1,
    regions: Path | None = None,
    pixels: Pixels | None = None,
    intensities: Sequence[float] = INTENSITIES_OD,
) -> list[str]:
    """Join all shards of a slide into one table of nuclei, and return warnings.

    Resolves the seams between windows, keeps nuclei in tissue (and in the ROI, if there is one),
    and computes and measures their outlines.

    Args:
        shards: all shards of the slide.
        info: slide.json of the slide.
        tissue: tissue.npz of the slide.
        output: table of nuclei (Parquet).
        threads: processor threads.
        regions: folder written by `muse regions`, or a GeoJSON of areas with classes: adds the
            region of every nucleus.
        pixels: the image and what is measured in it; without it, only outlines are measured.
        intensities: minimum optical densities of DAB for nuclei that are 1+, 2+ and 3+.
    """
    return_large_arrays()
    pa.set_memory_pool(pa.system_memory_pool())  # Arrow's own pool keeps freed memory
    header = read_info(info)
    tissue_mask = TissueMask.load(tissue, header)
    settings = flagged = None
    if pixels:
        image = open_image(pixels.store, header)
        fit = read_colour(pixels.colour, image.fingerprint).macenko
        if pixels.artefacts:
            flagged = _find_artefacts(shards, image, tissue_mask, fit, pixels, threads)
            flagged.write_outlines(pixels.artefacts, header)
        if pixels.features != "none":
            settings = FeatureSettings(pixels.features, image, fit, pixels.expand_um)
    kept = tissue_mask.kept
    del tissue_mask  # it takes eight times the memory of ``kept``
    areas = load_regions(regions, header, kept) if regions else None
    sources = ColumnSources(areas, settings, flagged, intensities)
    provenance = stitch_shards(
        list(shards), header, kept, output, threads, sources, in_processes=True
    )
    return list(_warn(provenance, areas, flagged))


def _find_artefacts(
    shards: Sequence[Path],
    image: Store,
    tissue_mask: TissueMask,
    fit: MacenkoFit,
    pixels: Pixels,
    threads: int,
) -> ArtefactMap:
    if read_shard_facts(shards[0])["common"].get("appearance", {}).get("verdict") == OTHER_STAIN:
        return seek_no_artefacts(image, pixels.subtract)
    return find_artefacts(image, tissue_mask, fit, threads, pixels.subtract)


def _warn(
    provenance: Provenance, areas: SlideRegions | None, flagged: ArtefactMap | None
) -> Iterator[str]:
    """Yield warnings about the nuclei of a slide."""
    yield from filter(None, [provenance.size_doubt, provenance.class_doubt])
    if areas and areas.failure:
        yield f"no tissue regions: {areas.failure}"
    measured = provenance.features
    if measured and (n := measured.n_without_pixels):
        yield (
            f"{count_noun(n, 'nucleus contains', 'nuclei contain')} no pixel centre: stains and"
            " texture are empty"
        )
    if flagged and not flagged.kinds:
        yield "no artefacts were sought: the slide has a different stain"
    if flagged and flagged.focus_doubt:
        yield flagged.focus_doubt
    yield from filter(None, [describe_membranes(provenance), *describe_useless(provenance)])


def open_image(store: Path, info: SlideInfo) -> Store:
    """Open the lossless image of a slide to measure pixels in it."""
    image = open_store(store)
    image.require_lossless()
    if image.fingerprint != info.fingerprint:
        raise StoreError(
            f"{store}: is not the image of slide '{info.slide_id}'; give the image of that slide"
        )
    return image


def geojson(
    nuclei: Path,
    info: Path,
    output: Written,
    frame: str = "qupath",
    max_features: int | None = None,
    measurements: Sequence[str] = (),
    threads: int = 1,
) -> None:
    """Write a slide's nuclei as GeoJSON for QuPath, and their provenance as JSON next to it.

    Args:
        nuclei: table of nuclei (nuclei.parquet).
        info: slide.json of the slide.
        output: GeoJSON of the nuclei (nuclei.geojson.gz).
        frame: origin of positions: the corner of the scanner's bounds, as in QuPath, or of level 0.
        max_features: also write parts with at most this many nuclei each.
        measurements: columns of the table to add to the nuclei in QuPath.
        threads: processor threads.
    """
    write_geojson(nuclei, read_info(info), output, frame, max_features, threads, measurements)


def spatialdata(
    nuclei: Path,
    store: Path,
    output: Written,
    patient: str | None = None,
    embeddings: Path | None = None,
) -> None:
    """Write a slide for SpatialData: its image, outlines and nuclei.

    The image is a link to the store, not a copy, so the two folders must keep their relative
    location. The coordinate system "global" is in um.

    Args:
        nuclei: table of nuclei (nuclei.parquet).
        store: image of the slide.
        output: folder to write, such as slide.spatialdata.zarr.
        patient: patient of the slide (default: from the name of the slide).
        embeddings: vectors of the nuclei, from `muse embed`.
    """
    from muse_pipeline.scverse.anndata import write_spatialdata

    write_spatialdata(nuclei, store, output, patient, embeddings)

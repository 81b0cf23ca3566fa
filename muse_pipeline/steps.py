"""The steps of a slide: each is a function that reads and writes files, called by `muse step NAME`,
whose options are the parameters of the function.

A step imports its libraries when it is called, because importing those of all steps takes longer
than running one step on a small slide.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from muse_pipeline.cohort.layout import SlideFiles
from muse_pipeline.core.text import count_noun
from muse_pipeline.core.types import INTENSITIES_OD, LEFT_OUT

Written = Path  # a path that a step writes

if TYPE_CHECKING:
    import numpy as np

    from muse_pipeline.core.provenance import NamedFile
    from muse_pipeline.core.types import SlideInfo
    from muse_pipeline.inference.artefacts import ArtefactMap
    from muse_pipeline.inference.card import EmbedderCard
    from muse_pipeline.inference.embed import Embedder
    from muse_pipeline.inference.encoder import TileEncoder
    from muse_pipeline.inference.predictor import Predictor, RegionPredictor
    from muse_pipeline.nuclei.table import Nuclei
    from muse_pipeline.store.store import Store
    from muse_pipeline.tissue.find import FoundTissue
    from muse_pipeline.tissue.mask import TissueMask


def fetch(url: str, output: Written, slide_id: str | None = None) -> None:
    """Copy a slide from its URL to a folder, which later steps accept as the slide.

    Credentials in a URL (user:password@, a signed query) are neither written nor printed.

    Args:
        url: URL of the slide, or a sheet that contains it.
        output: folder for the copy.
        slide_id: slide of the sheet.
    """
    from muse_pipeline.cohort.sheet import read_row
    from muse_pipeline.core.errors import SlideError
    from muse_pipeline.slides.remote import SlideUrl, fetch_slide, is_url

    if not is_url(url):
        if slide_id is None:
            raise SlideError(f"{url}: is not a URL; give a URL, or a sheet and --slide-id")
        url = read_row(url, slide_id).path
        if not is_url(url):
            raise SlideError(
                f"{url}: is a local file, so there is nothing to fetch for '{slide_id}'"
            )
    url = url if isinstance(url, SlideUrl) else SlideUrl(url)
    n_bytes = fetch_slide(url, output)
    print(f"{url}: {n_bytes:,} bytes")


def inspect(
    slide: Path,
    slide_id: str,
    mpp: float | None = None,
    source: str | None = None,
    output: Path | None = None,
) -> None:
    """Print the properties of a slide (also a folder written by ``fetch``), and write them to
    ``output`` if given.

    The slide is opened in a separate process, so that a file that crashes or hangs its reader is
    rejected here. It must have been fetched from ``source`` if that is given; ``mpp`` replaces the
    um per level-0 pixel of the file.
    """
    from muse_pipeline.core.files import write_json
    from muse_pipeline.slides.inspect import info_text, inspect_slide
    from muse_pipeline.slides.isolation import call_isolated

    info = call_isolated(inspect_slide, slide, slide_id, mpp, source)
    if output:
        write_json(output, info.to_dict())
    print(info_text(info))


# Tissue found in the whole file of the last slide with a ROI; the next slide is often another core
# in that file.
_last_with_roi: dict[tuple[str, tuple[float, float], str], FoundTissue] = {}


def tissue(
    slide: Path,
    info: Path,
    mask: Written,
    picture: Written,
    outline: Written,
    colour: Written,
    roi: Path | None = None,
    third_stain: bool = False,
) -> None:
    """Find the tissue of a slide, its outline for QuPath and its stains.

    A slide without tissue does not fail: its mask is empty, and a warning is printed.

    Args:
        slide: the slide, or a folder written by ``fetch``.
        info: slide.json of `muse inspect`.
        mask: tissue.npz, read by later steps.
        picture: picture of the outline (PNG).
        outline: outline for QuPath (GeoJSON).
        colour: stain statistics (JSON).
        roi: analyse only these areas, drawn in QuPath (GeoJSON).
        third_stain: also find a stain other than haematoxylin and DAB.
    """
    from dataclasses import replace

    from muse_pipeline.core.files import write_json
    from muse_pipeline.core.process import return_large_arrays
    from muse_pipeline.qupath.regions import describe_roi, read_annotations, read_roi, write_outline
    from muse_pipeline.slides.base import open_slide
    from muse_pipeline.slides.inspect import read_info, require_unchanged
    from muse_pipeline.tissue.colour import measure_colour
    from muse_pipeline.tissue.find import (
        find_tissue,
        is_fluorescence,
        limit_tissue,
        measure_annotation,
    )
    from muse_pipeline.tissue.outline import read_thumbnail, trace_outline, write_picture

    return_large_arrays()
    header = read_info(info)
    area = read_roi(roi, header) if roi else None
    with open_slide(slide, header.reader) as opened:
        require_unchanged(opened, header)
        key = header.fingerprint, header.mpp, header.reader
        search = _last_with_roi.get(key) or find_tissue(opened, header)
        _last_with_roi.clear()
        if area is not None:
            _last_with_roi[key] = search
            search = limit_tissue(search, header, area)
        tissue_mask, warnings = search.tissue, search.warnings
        if area is not None:
            parts = [
                measure_annotation(part, tissue_mask, header)
                for part in read_annotations(roi, area, header)
            ]
            tissue_mask = replace(
                tissue_mask, roi_file=describe_roi(roi, area, header), annotations=tuple(parts)
            )
        dark_background = is_fluorescence(search.overview.pixels)
        traced = trace_outline(tissue_mask, header)
        thumbnail = read_thumbnail(tissue_mask.scanned(opened, header), header, search.overview)
        write_picture(picture, thumbnail, traced, tissue_mask.roi, header)
        del thumbnail
        del (
            search
        )  # without a ROI, this frees the overview before stains are measured in other pixels
        stains = measure_colour(opened, header, tissue_mask, dark_background, warnings, third_stain)
    write_outline(outline, traced, header)
    write_json(colour, stains.to_dict())
    tissue_mask.save(mask)


def tile(
    slide: Path,
    info: Path,
    tissue: Path,
    output: Written,
    mpp: float = 0.5,
    threads: int = 1,
    max_corrupt: float = 0.01,
    codec: str = "zstd",
) -> list[str]:
    """Write a slide's tissue as a sparse OME-Zarr image at one mpp, and return warnings.

    Glass is left out. Areas that cannot be decoded are white, and are listed in the store. The
    store appears under its name when it is complete.

    Args:
        slide: the slide, or a folder written by ``fetch``.
        info: slide.json of the slide.
        tissue: tissue.npz of the slide.
        output: store to write, such as image-500nm.zarr for 0.5 um/px.
        mpp: um per pixel of the image.
        threads: processor threads.
        max_corrupt: fraction of the tissue that may be undecodable.
        codec: zstd is lossless; jpeg is smaller, for pretraining only.
    """
    from muse_pipeline.core.process import return_large_arrays
    from muse_pipeline.slides.base import open_slide
    from muse_pipeline.slides.inspect import read_info, require_unchanged
    from muse_pipeline.store.resample import warn_enlarged
    from muse_pipeline.store.write import write_store
    from muse_pipeline.tissue.mask import TissueMask

    return_large_arrays()
    header = read_info(info)
    with open_slide(slide, header.reader) as opened:
        require_unchanged(opened, header)
        # The mask of a large slide is large, and write_store frees it early, so no variable here
        # may refer to it.
        write_store(
            opened,
            header,
            TissueMask.load(tissue, header),
            output,
            mpp=mpp,
            threads=threads,
            max_corrupt=max_corrupt,
            codec=codec,
        )
    return warn_enlarged(header, mpp)


def regions(
    store: Path,
    source: Callable[[], RegionPredictor] | Sequence[Path],
    info: Path,
    colour: Path,
    output: Path,
    threads: int,
    warnings: list[str],
) -> None:
    """Map the tissue regions of a slide, write them to the folder ``output``, and print their
    areas.

    The source is a function that loads a region model or, for regions from the classes of the
    nuclei, all shards. If this fails, ``regions.json`` states the reason, and the folder contains
    no other file of regions. Warnings about the model are appended to ``warnings``, even if mapping
    fails later.
    """
    from muse_pipeline.core.process import print_load, show_progress
    from muse_pipeline.inference.card import painting_warnings
    from muse_pipeline.inference.nucleus_regions import map_nuclei
    from muse_pipeline.inference.region_files import record_failure, write_regions
    from muse_pipeline.inference.region_maps import map_slide
    from muse_pipeline.inference.stains import colour_of_fit, read_colour
    from muse_pipeline.slides.inspect import read_info
    from muse_pipeline.store.store import open_store

    header = read_info(info)
    with record_failure(output, header.slide_id):
        predictor = source() if callable(source) else None
        image = open_store(store)
        if predictor is None:
            region_map = map_nuclei(image, source, header, threads)
        else:
            warnings += painting_warnings(predictor.card.name, predictor.card.metrics)
            image.require_lossless()
            fitted = colour_of_fit(
                predictor.card.colour, read_colour(colour, image.fingerprint).macenko
            )
            with print_load("mapping regions", threads), show_progress("windows") as progress:
                region_map = map_slide(image, predictor, fitted, threads=threads, progress=progress)
        record = write_regions(region_map, image, header, output)
    for one in record["classes"]:
        print(f"{one['name']}: {one['area_mm2']:.3f} mm2 in {one['n_areas']} areas")


def detect(
    store: Path,
    predictor: Predictor,
    colour: Path,
    output: Written,
    shard: str = "1-of-1",
    threads: int = 1,
    stain: str | None = None,
) -> list[str]:
    """Find the nuclei of one shard of a slide with an ONNX model, and return warnings.

    The result does not depend on the number of shards or threads.

    Args:
        store: image store at the model's mpp.
        predictor: built-in name or path of an .onnx file with a card.
        colour: colour.json of the slide.
        output: table of the shard (Parquet).
        shard: part of the slide, such as 1-of-4.
        threads: windows that run at the same time.
        stain: stain in the sheet; if it is missing or "unknown", the colours decide.
    """
    from muse_pipeline.core.process import print_load, show_progress
    from muse_pipeline.inference.detect import ModelFinder, detect_shard
    from muse_pipeline.inference.model import name_model
    from muse_pipeline.inference.stains import read_colour
    from muse_pipeline.store.grid import Shard
    from muse_pipeline.store.store import open_store

    part, image = Shard.parse(shard), open_store(store)
    image.require_lossless()
    finder = ModelFinder.of_slide(predictor, read_colour(colour, image.fingerprint), stain)
    device = f" ({predictor.device})" if predictor.device else ""
    print(
        f"model: {name_model(predictor.path)} ({predictor.card.precision}), provider"
        f" {predictor.provider}{device}"
    )
    with print_load("finding nuclei", threads), show_progress("windows") as progress:
        detect_shard(
            image,
            finder,
            part,
            output,
            threads=threads,
            progress=progress,
            in_processes=predictor.provider == "cpu",
        )
    return finder.appearance.sentences()


@dataclass(frozen=True)
class Pixels:
    """The image of a slide, and what is measured in it for every nucleus."""

    store: Path  # image in which the nuclei were found
    colour: Path  # path of the slide's stains
    features: str = "none"  # set of features to measure
    artefacts: Path | None = (
        None  # GeoJSON to write artefacts to, in which nuclei are flagged; None to seek none
    )
    subtract: Sequence[str] = (
        LEFT_OUT  # kinds of artefacts whose nuclei and areas are left out of totals
    )
    expand_um: float | None = (
        None  # distance by which nuclei are expanded to cells; None to measure no cells
    )


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
    import pyarrow as pa

    from muse_pipeline.core.process import return_large_arrays
    from muse_pipeline.inference.region_lookup import load_regions
    from muse_pipeline.inference.stitch import ColumnSources, stitch_shards
    from muse_pipeline.inference.trust import describe_membranes, describe_useless
    from muse_pipeline.slides.inspect import read_info
    from muse_pipeline.tissue.mask import TissueMask

    return_large_arrays()
    pa.set_memory_pool(pa.system_memory_pool())  # Arrow's own pool keeps freed memory
    header = read_info(info)
    image = _open_image(pixels.store, header) if pixels else None
    tissue_mask = TissueMask.load(tissue, header)
    flagged = (
        _find_artefacts(shards, image, tissue_mask, pixels, threads)
        if pixels and pixels.artefacts
        else None
    )
    if flagged:
        flagged.write_outlines(pixels.artefacts, header)
    kept = tissue_mask.kept
    del tissue_mask  # it takes eight times the memory of ``kept``
    areas = load_regions(regions, header, kept) if regions else None
    settings = None
    if pixels and pixels.features != "none":
        from muse_pipeline.features.measure import FeatureSettings
        from muse_pipeline.inference.stains import read_colour

        fit = read_colour(pixels.colour, image.fingerprint).macenko
        settings = FeatureSettings(pixels.features, image, fit, pixels.expand_um)
    sources = ColumnSources(areas, settings, flagged, intensities)
    provenance = stitch_shards(
        list(shards), header, kept, output, threads, sources, in_processes=True
    )
    doubts = [provenance.size_doubt, provenance.class_doubt]
    failed = f"no tissue regions: {areas.failure}" if areas and areas.failure else None
    n_without = provenance.features.n_without_pixels if provenance.features else 0
    unmeasured = (
        f"{count_noun(n_without, 'nucleus contains', 'nuclei contain')} no pixel centre: stains and"
        " texture are empty"
        if n_without
        else None
    )
    unsought = (
        "no artefacts were sought: the slide has a different stain"
        if flagged and not flagged.kinds
        else None
    )
    unfocused = flagged.focus_doubt if flagged else None
    of_network = describe_membranes(provenance), *describe_useless(provenance)
    warnings = *doubts, failed, unmeasured, unsought, unfocused, *of_network
    return [warning for warning in warnings if warning]


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
    from muse_pipeline.qupath.write import write_geojson
    from muse_pipeline.slides.inspect import read_info

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


def propose(
    store: Path,
    colour: Path,
    info: Path,
    output: Written,
    method: str = "haematoxylin",
    settings: str = "{}",
    shard: str = "1-of-1",
    threads: int = 1,
) -> list[str]:
    """Propose the nuclei of one shard of a slide without any label, and return warnings.

    The slide's parameters are estimated from a fixed sample, so the result does not depend on the
    number of shards or threads.

    Args:
        store: image store of the slide.
        colour: colour.json of the slide.
        info: slide.json of the slide.
        output: table of the shard (Parquet), for ``stitch``.
        method: name of a proposer.
        settings: its settings as YAML, such as '{min_distance_um: 4}'.
        shard: part of the slide, such as 1-of-4.
        threads: windows that run at the same time.
    """
    import cv2

    from muse_pipeline.core.config import parse_yaml
    from muse_pipeline.core.process import show_progress
    from muse_pipeline.inference.stains import read_colour
    from muse_pipeline.proposals.base import fit_proposer, propose_shard
    from muse_pipeline.slides.inspect import read_info
    from muse_pipeline.store.grid import Shard
    from muse_pipeline.store.store import open_store

    cv2.setNumThreads(1)  # windows run in parallel instead
    part, image, header = Shard.parse(shard), open_store(store), read_info(info)
    values = parse_yaml(settings, "--settings")
    stains = read_colour(colour, image.fingerprint)
    with show_progress("windows") as progress:
        fitted = fit_proposer(image, method, values, stains, header)
        return propose_shard(image, *fitted, part, output, threads=threads, progress=progress)


def partner(
    slide: Path,
    partner: Path,
    info: Path,
    tissue: Path,
    output: Written,
    start: Path | None = None,
    mpp: float = 0.5,
    max_corrupt: float = 0.01,
    threads: int = 1,
) -> None:
    """Register a slide's partner as `muse register` does, and write it as a store in the slide's
    frame.

    A partner that cannot be used is recorded in partner.json and does not fail the step.

    Args:
        slide: the H&E slide.
        partner: a slide or picture of the same tissue.
        info: slide.json of the H&E slide.
        tissue: tissue.npz of the H&E slide.
        output: store to write, in the folder RESULTS/<slide_id>/partner.
        start: landmarks, matrix or transform.json from which registration starts.
        mpp: um per pixel of the store.
        max_corrupt: fraction of the tissue that may be undecodable.
        threads: processor threads.
    """
    from muse_pipeline.registration import record
    from muse_pipeline.registration.partner import open_pair_of_files, write_partner_store
    from muse_pipeline.registration.register import inspect_for_pair, register_partner
    from muse_pipeline.registration.transform import read_given
    from muse_pipeline.slides.inspect import read_info
    from muse_pipeline.slides.isolation import call_isolated
    from muse_pipeline.tissue.mask import TissueMask

    header, folder = read_info(info), output.parent
    with record.record_outcome(partner, output, header.slide_id) as facts:
        is_known = start is not None and start.suffix.lower() == ".json"
        partner_mpp = record.read_registered(start).partner["mpp"][0] if is_known else None
        advice = (
            "run `muse register` with --partner-mpp, and name its transform.json in the sheet's"
            " partner_transform"
        )
        partner_info = call_isolated(inspect_for_pair, partner, partner.stem, partner_mpp, advice)
        with open_pair_of_files(slide, header, partner, partner_info, threads) as pair:
            given = read_given(start, header, partner_info) if start else None
            content = record.write_registration(register_partner(pair, given), folder)
            print(record.summary_text(content))
            registered = record.read_registered(folder / record.TRANSFORM)
            mask = TissueMask.load(tissue, header)
            write_partner_store(pair, registered, mask, output, mpp=mpp, max_corrupt=max_corrupt)
        facts["residuals"] = content["residuals"]
    if "residuals" not in facts:
        print(f"cannot be used: {record.read_outcome(folder)['reason']}")


def _find_artefacts(
    shards: Sequence[Path], image: Store, tissue_mask: TissueMask, pixels: Pixels, threads: int
) -> ArtefactMap:
    from muse_pipeline.core.provenance import OTHER_STAIN
    from muse_pipeline.inference.artefacts import find_artefacts, seek_no_artefacts
    from muse_pipeline.inference.shards import read_shard_facts
    from muse_pipeline.inference.stains import read_colour

    if read_shard_facts(shards[0])["common"].get("appearance", {}).get("verdict") == OTHER_STAIN:
        return seek_no_artefacts(image, pixels.subtract)
    fit = read_colour(pixels.colour, image.fingerprint).macenko
    return find_artefacts(image, tissue_mask, fit, threads, pixels.subtract)


def _open_image(store: Path, info: SlideInfo) -> Store:
    """Open the lossless image of a slide to measure pixels in it."""
    from muse_pipeline.core.errors import StoreError
    from muse_pipeline.store.store import open_store

    image = open_store(store)
    image.require_lossless()
    if image.fingerprint != info.fingerprint:
        raise StoreError(
            f"{store}: is not the image of slide '{info.slide_id}'; give the image of that slide"
        )
    return image


def _require_image(files: SlideFiles, info: SlideInfo, card: EmbedderCard) -> None:
    """Check that a slide has the image that a network reads."""
    from shlex import join

    from muse_pipeline.core.errors import StoreError

    if (store := files.store(card.mpp)).exists():
        return
    slide = info.path if Path(info.path).exists() else "SLIDE"
    words = [
        slide,
        "--info",
        files.info,
        "--tissue",
        files.mask,
        "--mpp",
        f"{card.mpp:g}",
        "--output",
        store,
    ]
    raise StoreError(
        f"{files.folder}: has no image at {card.mpp:g} um/px, which model '{card.name}' reads;"
        f" write it with `{join(['muse', 'step', 'tile', *map(str, words)])}`, or `extra_mpps:"
        f" [{card.mpp:g}]` in the workflow's config"
    )


def image_mpp(folder: Path) -> float:
    """Pixel size in um of a finished slide's lossless image, or of the finest if there are
    several.
    """
    from muse_pipeline.core.errors import StoreError
    from muse_pipeline.store.store import open_store
    from muse_pipeline.store.zarr_files import LOSSLESS

    images = map(open_store, folder.glob("image-*.zarr"))
    mpps = [image.mpp for image in images if image.codec == LOSSLESS]
    if not mpps:
        raise StoreError(
            f"{folder}: has no lossless image; give the results of a run with keep_stores: true"
        )
    return min(mpps)


def embed(
    folder: Path,
    embedder: Embedder | TileEncoder,
    features: bool = False,
    threads: int = 1,
    foreign: tuple[Path, Nuclei] | None = None,
) -> Path:
    """Compute a network's features for the nuclei of a finished slide, write them to a file, and
    return its path.

    With ``features``, shape, stains, texture and neighbours are measured too. ``foreign`` is
    another program's file and the nuclei in it (frame: level0), used instead of ``nuclei.parquet``.
    The number of threads does not change results.
    """
    from muse_pipeline.core.coords import level0_to_work
    from muse_pipeline.core.process import print_load, show_progress
    from muse_pipeline.core.provenance import run_name, to_json
    from muse_pipeline.features.measure import FeatureMeter, FeatureSettings, measure_slide
    from muse_pipeline.inference.embed import embed_nuclei, write_embeddings
    from muse_pipeline.inference.stains import colour_of_fit, read_colour
    from muse_pipeline.inference.stitch import clip_to_slide
    from muse_pipeline.qupath.write import nucleus_ids
    from muse_pipeline.slides.inspect import read_info
    from muse_pipeline.tissue.mask import TissueMask

    files, card = SlideFiles(folder), embedder.card
    info = read_info(files.info)
    _require_image(files, info, card)
    image = _open_image(files.store(card.mpp), info)
    nuclei, classes, slide_id, model = _known_nuclei(files, info.slide_id, foreign)
    origin = {"slide_id": slide_id, "model": to_json(model)}
    fit = read_colour(files.colour, image.fingerprint).macenko
    with print_load("reading features", threads), show_progress("windows") as progress:
        xy = level0_to_work(nuclei.xy, info.mpp, image.mpp)
        embedding = embed_nuclei(
            image, embedder, colour_of_fit(card.colour, fit), xy, threads, progress
        )
    columns = {}
    if features:
        kept = TissueMask.load(files.mask, info).kept
        meter = FeatureMeter(FeatureSettings("all", image, fit), info, kept, classes)
        origin["features"] = to_json(meter.describe())
        columns = measure_slide(meter, clip_to_slide(nuclei, info))
    output = files.embeddings(card.name, foreign[0].name if foreign else "")
    origin |= {"fingerprint": info.fingerprint, "embedder": embedder.describe()}
    write_embeddings(
        output,
        nucleus_ids(run_name(slide_id, model.sha256), *nuclei.xy.T),
        nuclei.xy,
        columns,
        embedding,
        origin,
    )
    return output


def _known_nuclei(
    files: SlideFiles, slide_id: str, foreign: tuple[Path, Nuclei] | None
) -> tuple[Nuclei, list[str], str, NamedFile]:
    """Nuclei (frame: level0), their class names, and the slide_id and model (or file) that their
    ids are made from.
    """
    from muse_pipeline.core.files import sha256_of
    from muse_pipeline.core.provenance import NamedFile
    from muse_pipeline.nuclei.parquet import read_nuclei, read_provenance
    from muse_pipeline.slides.inspect import read_info

    if foreign:
        path, nuclei = foreign
        if files.nuclei.exists():
            _doubt_positions(path, nuclei.xy, files.nuclei, read_info(files.info))
        return nuclei, ["Nucleus"], slide_id, NamedFile(path.name, sha256_of(path))
    provenance = read_provenance(files.nuclei)
    return read_nuclei(files.nuclei), provenance.class_names, provenance.slide_id, provenance.model


LEAST_COMPARED, MOST_COMPARED = 50, 20_000  # numbers of positions
# Least ratio of the positions on nuclei to those displaced by 20 um: for nuclei of H&E 3.5 or more,
# with errors of 3 um 1.7; for positions in um, or with x and y exchanged, 1.3 or less.
LEAST_EXCESS = 1.5


def _doubt_positions(path: Path, xy: np.ndarray, nuclei: Path, info: SlideInfo) -> None:
    """Warn if positions (N, 2) of another program, in level-0 px, lie as often beside the run's
    nuclei as on them.
    """
    import warnings

    import numpy as np
    import shapely

    from muse_pipeline.core.errors import MuseWarning
    from muse_pipeline.core.pictures import spread_evenly
    from muse_pipeline.nuclei.parquet import open_nuclei, parse_outlines
    from muse_pipeline.scverse.bins import MOVED_UM, count_displaced

    xy = xy[spread_evenly(len(xy), MOST_COMPARED)]
    with open_nuclei(nuclei) as file:
        tree = shapely.STRtree(parse_outlines(file.read(["geometry"])["geometry"].to_numpy()))
    if len(tree) and len(xy) >= LEAST_COMPARED:
        on, *beside = count_displaced(tree, xy, MOVED_UM / np.array(info.mpp), np.ones(len(xy)))
        if on <= LEAST_EXCESS * np.mean(beside):
            warnings.warn(
                f"{path}: only {on:,.0f} of {len(xy):,} nuclei lie on nuclei of the run, hardly"
                " more than by chance; give positions in level-0 pixels of this slide, x before y",
                MuseWarning,
                stacklevel=2,
            )

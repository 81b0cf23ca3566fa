"""The step `embed`, which computes a network's features for the nuclei of a finished slide."""

from __future__ import annotations

import shlex
import warnings
from pathlib import Path

import numpy as np
import shapely

from muse_pipeline.cohort.layout import SlideFiles
from muse_pipeline.core.coords import level0_to_work
from muse_pipeline.core.errors import MuseWarning, StoreError
from muse_pipeline.core.files import sha256_of
from muse_pipeline.core.pictures import spread_evenly
from muse_pipeline.core.process import print_load, show_progress
from muse_pipeline.core.provenance import NamedFile, run_name, to_json
from muse_pipeline.core.types import SlideInfo
from muse_pipeline.features.measure import FeatureMeter, FeatureSettings, measure_slide
from muse_pipeline.inference.card import EmbedderCard
from muse_pipeline.inference.embed import Embedder, embed_nuclei, write_embeddings
from muse_pipeline.inference.encoder import TileEncoder
from muse_pipeline.inference.stains import colour_of_fit, read_colour
from muse_pipeline.inference.stitch import clip_to_slide
from muse_pipeline.nuclei.parquet import open_nuclei, parse_outlines, read_nuclei, read_provenance
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.qupath.write import nucleus_ids
from muse_pipeline.scverse.bins import MOVED_UM, STEPS, count_inside
from muse_pipeline.slides.inspect import read_info
from muse_pipeline.steps.table import open_image
from muse_pipeline.store.store import open_store
from muse_pipeline.store.zarr_files import LOSSLESS
from muse_pipeline.tissue.mask import TissueMask


def image_mpp(folder: Path) -> float:
    """Pixel size in um of a finished slide's lossless image, or of the finest if there are
    several.
    """
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
    files, card = SlideFiles(folder), embedder.card
    info = read_info(files.info)
    _require_image(files, info, card)
    image = open_image(files.store(card.mpp), info)
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


def _require_image(files: SlideFiles, info: SlideInfo, card: EmbedderCard) -> None:
    """Check that a slide has the image that a network reads."""
    if (store := files.store(card.mpp)).exists():
        return
    slide = shlex.quote(info.path) if Path(info.path).exists() else "SLIDE"
    paths = (shlex.quote(str(path)) for path in (files.info, files.mask, store))
    command = "muse step tile {} --info {} --tissue {} --output {}".format(slide, *paths)
    raise StoreError(
        f"{files.folder}: has no image at {card.mpp:g} um/px, which model '{card.name}' reads;"
        f" write it with `{command} --mpp {card.mpp:g}`, or `extra_mpps: [{card.mpp:g}]` in the"
        " workflow's config"
    )


def _known_nuclei(
    files: SlideFiles, slide_id: str, foreign: tuple[Path, Nuclei] | None
) -> tuple[Nuclei, list[str], str, NamedFile]:
    """Nuclei (frame: level0), their class names, and the slide_id and model (or file) that their
    ids are made from.
    """
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
    xy = xy[spread_evenly(len(xy), MOST_COMPARED)]
    with open_nuclei(nuclei) as file:
        tree = shapely.STRtree(parse_outlines(file.read(["geometry"])["geometry"].to_numpy()))
    if len(tree) and len(xy) >= LEAST_COMPARED:
        steps_px = STEPS * (MOVED_UM / np.array(info.mpp))
        on, *beside = (count_inside(tree, xy + step, np.ones(len(xy))) for step in steps_px)
        if on <= LEAST_EXCESS * np.mean(beside):
            warnings.warn(
                f"{path}: only {on:,.0f} of {len(xy):,} nuclei lie on nuclei of the run, hardly"
                " more than by chance; give positions in level-0 pixels of this slide, x before y",
                MuseWarning,
                stacklevel=2,
            )

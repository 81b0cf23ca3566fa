"""The Python API: from a slide or an image to tissue and nuclei as GeoDataFrames.

The functions run the same code as the steps of the pipeline, so the nuclei are the same. All
positions are in absolute level-0 px (x to the right, y down, origin at the corner of the first
pixel); level 0 of an array is the array itself.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import geopandas
import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from muse_pipeline.cohort.layout import SlideFiles
from muse_pipeline.core.coords import level0_to_work, work_size_px
from muse_pipeline.core.environment import count_cores
from muse_pipeline.core.errors import ArgumentError
from muse_pipeline.core.provenance import Provenance
from muse_pipeline.core.types import SlideInfo
from muse_pipeline.geodataframe import Box, box_corners, read_nuclei
from muse_pipeline.inference.detect import ModelFinder, WindowChoice, detect_shard
from muse_pipeline.inference.model import choose_provider, find_model
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.inference.stitch import stitch_shards
from muse_pipeline.inference.trust import find
from muse_pipeline.nuclei.pairs import REACH_UM, SLACK_UM
from muse_pipeline.qupath.regions import describe_roi, read_roi
from muse_pipeline.slides.slide_image import SlideImage, to_slide, warn_user
from muse_pipeline.store.grid import WindowGrid
from muse_pipeline.store.resample import warn_enlarged
from muse_pipeline.store.store import open_store
from muse_pipeline.store.write import StoreOptions, write_store
from muse_pipeline.store.zarr_files import close_shards
from muse_pipeline.tissue import find as search
from muse_pipeline.tissue.colour import SlideColour, measure_colour
from muse_pipeline.tissue.find import is_fluorescence
from muse_pipeline.tissue.mask import TissueMask
from muse_pipeline.tissue.outline import trace_outline

# windows further from a box than this do not change the nuclei in it
SEAM_REACH_UM = 4 * SLACK_UM + REACH_UM


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Tissue(TissueMask):
    """The tissue of a slide and its stains, with all attributes of ``TissueMask``, such as
    ``area_mm2``.

    Attributes:
        info: header of the slide.
        colour: the stains, measured over the tissue.
    """

    info: SlideInfo
    colour: SlideColour

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about the stains."""
        return self.colour.warnings

    def __repr__(self) -> str:
        return f"<Tissue of '{self.info.slide_id}', {self.area_mm2:.4g} mm2>"

    def to_geodataframe(self) -> geopandas.GeoDataFrame:
        """Return a row per polygon of the outline: ``area_mm2``, and ``geometry`` in absolute
        level-0 px (no CRS).
        """
        parts = shapely.get_parts(trace_outline(self, self.info))
        area_mm2 = shapely.area(parts) * np.prod(self.info.mpp) / 1e6
        outline = geopandas.GeoDataFrame({"area_mm2": area_mm2}, geometry=parts)
        outline.attrs = {"slide_id": self.info.slide_id, "mpp": list(self.info.mpp)}
        return outline


def find_tissue(
    image: SlideImage | np.ndarray,
    roi: BaseGeometry | Path | str | None = None,
    *,
    mpp: float | None = None,
) -> Tissue:
    """Find the tissue of a slide and measure its stains, as `muse step tissue` does.

    A slide without tissue gives an empty mask.

    Args:
        image: an open slide, or an array (h, w, 3) uint8 RGB.
        roi: area to which the tissue is limited: a polygon or multipolygon in absolute level-0 px,
            or a GeoJSON file of annotations from QuPath.
        mpp: um per pixel; only for an array.

    Raises:
        ArgumentError: ``image`` or ``roi`` cannot be used.
        GeoJSONError: the file ``roi`` cannot be used.
        MppError: ``image`` is an array, and ``mpp`` is missing.
        SlideError: no part of the slide can be decoded.

    Warns:
        MuseWarning: there is no tissue, pen marks were left out, or the stains cannot be estimated.
    """
    slide, messages = to_slide(image, mpp)
    tissue = _search_tissue(slide, roi)
    warn_user(slide.info.slide_id, [*messages, *tissue.warnings])
    return tissue


def find_nuclei(
    image: SlideImage | np.ndarray,
    box: Box | None = None,
    *,
    mpp: float | None = None,
    tissue: Tissue | None = None,
    model: str | Path = "compact",
    provider: str = "cpu",
    threads: int | None = None,
) -> geopandas.GeoDataFrame:
    """Find the nuclei in a slide, in a box of it, or in an array, as `muse run` does.

    A box gives the same rows as the whole slide has there, because the slide's windows, tissue and
    stains are used. Only ``cluster``, which exists for models of one class, depends on the searched
    area. The right and lower edges of the box are excluded. Temporary files in ``$TMPDIR`` take
    about 12 MB per mm2 of tissue.

    Args:
        image: an open slide, or an array (h, w, 3) uint8 RGB.
        box: (x, y, width, height) in absolute level-0 px.
        mpp: um per pixel; only for an array.
        tissue: result of ``find_tissue`` for this slide; None to call it.
        model: name of a built-in model, or path of an ONNX file with a card.
        provider: cpu, cuda, tensorrt, openvino, torch, torch-cpu, or "auto": cuda if it starts
            here, otherwise cpu.
        threads: number of cores to use, which does not change the result; None for all that this
            process may use.

    Returns:
        A row per nucleus: ``x, y`` (absolute level-0 px), ``class`` (categorical), ``score``,
            ``prob_<class>``, area, axes and other measurements in um, ``geometry`` (the outline in
            absolute level-0 px, no CRS); docs/guide/outputs.md lists all columns. ``attrs`` has
            ``slide_id``, ``mpp``, ``model`` and ``provenance``.

    Raises:
        ArgumentError: ``image``, ``box``, ``tissue`` or ``threads`` cannot be used.
        MppError: ``image`` is an array and ``mpp`` is missing, or the pixels are too coarse for the
            model.
        ModelError: there is no such model.
        ProviderError: the provider is not installed or does not start.
        SlideError: more than 1 % of the tissue cannot be decoded.

    Warns:
        MuseWarning: the slide is unlike the model's training pictures, or some nuclei may be wrong
            or missing.
    """
    slide, messages = to_slide(image, mpp)
    _require_box(box, slide.info)
    if threads is not None and threads < 1:
        raise ArgumentError(f"threads {threads}: give 1 or more")
    provider = choose_provider(provider)
    predictor = Predictor(find_model(str(model), provider), provider)
    messages += warn_enlarged(slide.info, predictor.card.mpp)
    if tissue is None:
        tissue = _search_tissue(slide)
        messages += tissue.warnings
    _require_tissue_of(tissue, slide.info)
    with TemporaryDirectory(prefix="muse-") as folder, _opencv_threads_restored():
        table = _run_steps(slide, tissue, predictor, box, threads or count_cores(), Path(folder))
        nuclei = read_nuclei(table, box)
    warn_user(slide.info.slide_id, [*messages, *_list_problems(nuclei, slide.info.warnings)])
    return nuclei


def _search_tissue(slide: SlideImage, roi: BaseGeometry | Path | str | None = None) -> Tissue:
    """Find the tissue and measure its stains, as `muse step tissue` does."""
    area, roi_file = (None, None) if roi is None else _read_roi(roi, slide.info)
    with _opencv_threads_restored():
        search_result = search.find_tissue(slide, slide.info, area)
        is_dark = is_fluorescence(search_result.overview.pixels)
        colour = measure_colour(
            slide, slide.info, search_result.tissue, is_dark, search_result.warnings
        )
    mask = {field.name: getattr(search_result.tissue, field.name) for field in fields(TissueMask)}
    return Tissue(**{**mask, "roi_file": roi_file}, info=slide.info, colour=colour)


def _run_steps(
    slide: SlideImage,
    tissue: Tissue,
    predictor: Predictor,
    box: Box | None,
    threads: int,
    folder: Path,
) -> Path:
    """Run `tile`, `detect` and `stitch`, and return the path of the table, which also has nuclei
    outside ``box``.
    """
    card, info = predictor.card, slide.info
    files, shard = SlideFiles(folder), folder / "1-of-1.parquet"
    near, seen = None, None
    if box is not None:
        grid = WindowGrid(
            work_size_px(info.size_px, info.mpp, card.mpp), card.input_px, card.halo_px
        )
        low, high = (level0_to_work(corner, info.mpp, card.mpp) for corner in box_corners(box))
        near = low - SEAM_REACH_UM / card.mpp, high + SEAM_REACH_UM / card.mpp
        # Windows whose core touches ``near`` also read the pixels in their halos.
        seen = grid.field_of_view(*near)
    options = StoreOptions(card.mpp, within=seen)
    write_store(slide, info, tissue, files.store(card.mpp), options, threads)
    try:
        finder = ModelFinder.of_slide(predictor, tissue.colour)
        choice = WindowChoice(within=near)
        detect_shard(open_store(files.store(card.mpp)), finder, shard, choice, threads=threads)
    finally:
        # The folder is deleted next, and files that are still open would keep their disk space.
        close_shards()
    stitch_shards([shard], info, tissue.kept, files.nuclei, threads)
    return files.nuclei


def _read_roi(roi: BaseGeometry | Path | str, info: SlideInfo) -> tuple[BaseGeometry, dict | None]:
    """Return the area in absolute level-0 px, and a description of the file if ``roi`` is a
    file.
    """
    if isinstance(roi, str | Path):
        area = read_roi(roi, info)
        return area, describe_roi(Path(roi), area, info)
    if shapely.get_type_id(roi) not in (
        shapely.GeometryType.POLYGON,
        shapely.GeometryType.MULTIPOLYGON,
    ):
        raise ArgumentError(
            f"roi is {type(roi).__name__}; give a polygon or multipolygon, or a GeoJSON file"
        )
    if not roi.is_valid or not roi.intersects(shapely.box(0, 0, *info.size_px)):
        raise ArgumentError(
            f"roi is invalid or lies outside slide '{info.slide_id}'; give it in absolute"
            " level-0 px"
        )
    return roi, None


def _require_box(box: Box | None, info: SlideInfo) -> None:
    if box is None:
        return
    low, high = box_corners(box)
    if (high <= 0).any() or (low >= info.size_px).any():
        width, height = info.size_px
        raise ArgumentError(
            f"box {box} lies outside slide '{info.slide_id}' of {width} x {height} level-0 px"
        )


def _require_tissue_of(tissue: Tissue, info: SlideInfo) -> None:
    if not isinstance(tissue, Tissue):
        raise ArgumentError(f"tissue is {type(tissue).__name__}; give the result of find_tissue")
    if (tissue.fingerprint, tissue.slide_mpp) != (info.fingerprint, info.mpp):
        raise ArgumentError(
            f"tissue belongs to slide '{tissue.info.slide_id}' at {tissue.info.mpp[0]:.4g} um/px,"
            f" not to '{info.slide_id}' at {info.mpp[0]:.4g}; call find_tissue for this one"
        )


def _list_problems(nuclei: geopandas.GeoDataFrame, of_slide: Sequence[str]) -> Iterator[str]:
    """Yield warnings that follow from the nuclei's provenance, except those that ``of_slide``
    already contains.
    """
    provenance = Provenance.from_dict(nuclei.attrs["provenance"])
    yield from provenance.verdict.sentences()
    reasons = find(provenance)
    for kind in ("scale", "classes", "regions", "gaps", "mpp"):
        if kind in reasons and reasons[kind] not in of_slide:
            yield reasons[kind]


@contextmanager
def _opencv_threads_restored() -> Iterator[None]:
    """Restore OpenCV's number of threads after the block; the steps set it to 1 for the whole
    process.
    """
    n_threads = cv2.getNumThreads()
    try:
        yield
    finally:
        cv2.setNumThreads(n_threads)

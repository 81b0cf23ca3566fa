"""The path of `muse run` as functions for Python: a slide or an image in, its nuclei as a GeoDataFrame out.

Each function calls what the command lines call, so the nuclei are the same. All positions are absolute level-0 px
(x to the right, y down, (0, 0) the corner of the first pixel); those of an array are its own pixels.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

import cv2
import geopandas
import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from muse_pipeline.coords import level0_to_work, work_size_px
from muse_pipeline.errors import ArgumentError, MppError, MuseWarning
from muse_pipeline.inference.appearance import Verdict, judge_appearance
from muse_pipeline.inference.colour import colour_of_fit
from muse_pipeline.inference.detect import detect_shard
from muse_pipeline.inference.model_file import find_model, precision_warnings
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.inference.providers import choose_provider
from muse_pipeline.inference.stitch import stitch_shards
from muse_pipeline.nuclei.geodataframe import Box, box_corners, read_nuclei
from muse_pipeline.slides import base as readers
from muse_pipeline.slides.fetched import slide_origin
from muse_pipeline.slides.fingerprint import fingerprint_file
from muse_pipeline.slides.image import ArrayReader
from muse_pipeline.slides.inspect import describe_slide
from muse_pipeline.surroundings import count_cores
from muse_pipeline.tiles.grid import Shard, WindowGrid
from muse_pipeline.tiles.shard_files import close_shards
from muse_pipeline.tiles.store import open_store, store_name
from muse_pipeline.tiles.write import write_store
from muse_pipeline.tissue import find as search
from muse_pipeline.tissue.colour import SlideColour, measure_colour
from muse_pipeline.tissue.mask import TissueMask
from muse_pipeline.tissue.outline import trace_outline
from muse_pipeline.tissue.roi import describe_roi, read_roi
from muse_pipeline.tissue.stained import is_fluorescence
from muse_pipeline.types import SlideInfo

SEAM_REACH_UM = 16.0  # windows further from a box than this cannot change the nuclei in it (``nuclei.ownership``)


class SlideImage:
    """A slide that is open, or an image in memory; to be closed, or used in a ``with`` block.

    Attributes:
        info: size, um per pixel, levels, scanner's bounds, warnings.
    """

    def __init__(self, reader: readers.SlideReader, info: SlideInfo):
        self.info, self._reader, self._is_closed = info, reader, False

    @classmethod
    def from_array(cls, pixels: np.ndarray, mpp: float, slide_id: str = "array") -> Self:
        """An image in memory, which is not copied.

        Args:
            pixels: (h, w, 3) uint8 RGB.
            mpp: um per pixel.
            slide_id: its name in results.

        Raises:
            ArgumentError: the pixels are of another kind.
            MppError: ``mpp`` is not the size of a slide's pixel.

        Warns:
            MuseWarning: the size of a pixel is implausible, or the image is black.
        """
        slide = cls(*_describe_array(_require_rgb(pixels), mpp, slide_id))
        _warn(slide.info, slide.info.warnings)
        return slide

    @property
    def path(self) -> Path:
        """The slide's file; of an array its name."""
        return self._reader.path

    def read_region(self, xy_level0: tuple[int, int], level: int, size: tuple[int, int]) -> np.ndarray:
        """Read ``size`` = (width, height) pixels of ``level`` whose corner is at ``xy_level0`` (absolute level-0 px).

        Returns:
            (h, w, 3) uint8 RGB; what lies outside the image, or is transparent, is white.

        Raises:
            SlideError: the pixels cannot be decoded.
            ArgumentError: the slide is closed.
        """
        if self._is_closed:
            raise ArgumentError(f"slide '{self.info.slide_id}' is closed; open it again")
        return self._reader.read_region(xy_level0, level, size)

    def close(self) -> None:
        """Release the file."""
        self._is_closed = True
        self._reader.__exit__()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        width, height = self.info.size_px
        return f"<SlideImage '{self.info.slide_id}', {width} x {height} px, {self.info.mpp[0]:.4g} um/px>"


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Tissue(TissueMask):
    """The tissue of a slide and its stains; ``mask``, ``mask_mpp``, ``roi`` and ``area_mm2`` as of ``TissueMask``.

    Attributes:
        info: the slide.
        colour: the stains, measured over the tissue.
    """

    info: SlideInfo
    colour: SlideColour

    @property
    def warnings(self) -> tuple[str, ...]:
        """What should be checked, in words."""
        return self.colour.warnings

    def __repr__(self) -> str:
        return f"<Tissue of '{self.info.slide_id}', {self.area_mm2:.4g} mm2>"

    def to_geodataframe(self) -> geopandas.GeoDataFrame:
        """The tissue's outline: a row per piece, ``geometry`` in absolute level-0 px without a CRS, ``area_mm2``."""
        pieces = shapely.get_parts(trace_outline(self, self.info))
        area_mm2 = shapely.area(pieces) * np.prod(self.info.mpp) / 1e6
        outline = geopandas.GeoDataFrame({"area_mm2": area_mm2}, geometry=pieces)
        outline.attrs = {"slide_id": self.info.slide_id, "mpp": list(self.info.mpp)}
        return outline


def open_slide(path: Path | str, mpp: float | None = None) -> SlideImage:
    """Open a slide, a plain image, or a folder of `muse fetch`.

    Args:
        path: the file.
        mpp: um per level-0 pixel; overrides what the file says.

    Raises:
        SlideError: the file cannot be opened.
        MppError: the file does not say how large a pixel is, and ``mpp`` is not given.

    Warns:
        MuseWarning: the size of a pixel is an estimate or implausible, or part of the file is damaged.
    """
    path = Path(path)
    origin = slide_origin(path)
    reader = readers.open_slide(path)
    try:
        info = describe_slide(reader, path.stem, mpp, origin, fingerprint_file(reader.path))
    except BaseException:
        reader.__exit__()
        raise
    _warn(info, info.warnings)
    return SlideImage(reader, info)


def find_tissue(
    image: SlideImage | np.ndarray, roi: BaseGeometry | Path | str | None = None, *, mpp: float | None = None
) -> Tissue:
    """Find the tissue of a slide and measure its stains, as `muse tissue` does.

    A slide without tissue has an empty mask.

    Args:
        image: an open slide, or an array (h, w, 3) uint8 RGB.
        roi: keep to this area: a polygon or multipolygon in absolute level-0 px, or a GeoJSON file of annotations from
            QuPath.
        mpp: um per pixel of an array.

    Raises:
        ArgumentError: the image or the region cannot be used.
        GeoJSONError: the file of the region cannot be used.
        MppError: an array has no ``mpp``.
        SlideError: nothing of the slide can be decoded.

    Warns:
        MuseWarning: there is no tissue, pen marks were left out, or the stains cannot be estimated.
    """
    slide, doubts = _to_slide(image, mpp)
    tissue = _search_tissue(slide, roi)
    _warn(slide.info, [*doubts, *tissue.warnings])
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
    """Find the nuclei of a slide, of a box of it, or of an array, as `muse run` does.

    A box gives the rows of the whole slide whose x and y lie in it, its right and lower edge excluded: tissue and
    stains are those of the slide, and windows lie where they lie on the slide. (The column ``cluster``, of models of
    one class, is fitted to what is searched.) Temporary files take about 11 MB per mm2 of tissue, in ``$TMPDIR``.

    Args:
        image: an open slide, or an array (h, w, 3) uint8 RGB.
        box: (x, y, width, height) in absolute level-0 px.
        mpp: um per pixel of an array.
        tissue: of ``find_tissue``, which is called if this is None.
        model: name of a built-in model, or an ONNX file with a card.
        provider: cpu, cuda, tensorrt, openvino, or "auto": cuda if it starts here, else cpu.
        threads: cores to use, all that this process may use if None; changes no result.

    Returns:
        A row per nucleus: ``x, y`` (absolute level-0 px), ``class`` (categorical), ``score``, ``prob_<class>``, area,
        axes and other measurements in um, ``geometry`` (the outline in absolute level-0 px, no CRS); docs/outputs.md
        has all columns. ``attrs`` has ``slide_id``, ``mpp``, ``model`` and ``provenance``.

    Raises:
        ArgumentError: the image, the box, the tissue or the number of threads cannot be used.
        MppError: an array has no ``mpp``, or the pixels are too coarse for the model.
        ModelError: there is no such model.
        ProviderError: the provider is not installed or does not start.
        SlideError: more than 1 % of the tissue cannot be decoded.

    Warns:
        MuseWarning: the slide is unlike what the model was trained on, or part of it was lost.
    """
    slide, doubts = _to_slide(image, mpp)
    _require_box(box, slide.info)
    if threads is not None and threads < 1:
        raise ArgumentError(f"threads {threads}: give 1 or more")
    provider = choose_provider(provider)
    predictor = Predictor(find_model(str(model), provider), provider)
    if tissue is None:
        tissue = _search_tissue(slide)
        doubts += tissue.warnings
    _require_tissue_of(tissue, slide.info)
    with TemporaryDirectory(prefix="muse-") as folder, _opencv_threads_restored():
        table = _run_steps(slide, tissue, predictor, box, threads or count_cores(), Path(folder))
        nuclei = read_nuclei(table, box)
    _warn(slide.info, [*doubts, *precision_warnings(predictor.card, provider), *_doubts(nuclei)])
    return nuclei


def _search_tissue(slide: SlideImage, roi: BaseGeometry | Path | str | None = None) -> Tissue:
    """`muse tissue`."""
    area, roi_file = (None, None) if roi is None else _read_roi(roi, slide.info)
    with _opencv_threads_restored():
        found = search.find_tissue(slide, slide.info, area)
        is_dark = is_fluorescence(found.overview.pixels)
        colour = measure_colour(slide, slide.info, found.tissue, is_dark, found.warnings)
    mask = {field.name: getattr(found.tissue, field.name) for field in fields(TissueMask)}
    return Tissue(**{**mask, "roi_file": roi_file}, info=slide.info, colour=colour)


def _run_steps(
    slide: SlideImage, tissue: Tissue, predictor: Predictor, box: Box | None, threads: int, folder: Path
) -> Path:
    """`muse tile`, `detect` and `stitch`; returns ``nuclei.parquet``, which has nuclei beyond the box too."""
    card, info = predictor.card, slide.info
    path, shard, table = (folder / name for name in (store_name(card.mpp), "1-of-1.parquet", "nuclei.parquet"))
    near, seen = None, None
    if box is not None:
        grid = WindowGrid(work_size_px(info.size_px, info.mpp, card.mpp), card.input_px, card.halo_px)
        low, high = (level0_to_work(corner, info.mpp, card.mpp) for corner in box_corners(box))
        near = low - SEAM_REACH_UM / card.mpp, high + SEAM_REACH_UM / card.mpp
        seen = grid.field_of_view(*near)
    write_store(slide, info, tissue, path, mpp=card.mpp, threads=threads, within=seen)
    colour = colour_of_fit(card.colour, tissue.colour.macenko)
    appearance = judge_appearance(card.appearance, tissue.colour)
    how = {"threads": threads, "appearance": appearance, "within": near}
    try:
        detect_shard(open_store(path), predictor, colour, Shard(1, 1), shard, **how)
    finally:
        close_shards()
    stitch_shards([shard], info, tissue.kept, table, threads)
    return table


def _to_slide(image: SlideImage | np.ndarray, mpp: float | None) -> tuple[SlideImage, list[str]]:
    """The slide, and the warnings that its user has not had yet."""
    if isinstance(image, SlideImage):
        if mpp is not None:
            raise ArgumentError("mpp is for arrays; give it to open_slide to override what the slide's file says")
        return image, []
    if isinstance(image, str | Path):
        raise ArgumentError(f"'{image}' is a path; open it with open_slide first")
    pixels = _require_rgb(image)
    if mpp is None:
        raise MppError("an array does not say how large a pixel is; give mpp=, its um per pixel")
    slide = SlideImage(*_describe_array(pixels, mpp, "array"))
    return slide, list(slide.info.warnings)


def _describe_array(pixels: np.ndarray, mpp: float, slide_id: str) -> tuple[ArrayReader, SlideInfo]:
    reader = ArrayReader(pixels, Path(slide_id))
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels))
    return reader, describe_slide(reader, slide_id, mpp, slide_id, digest.hexdigest())


def _require_rgb(image: np.ndarray) -> np.ndarray:
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise ArgumentError(
            f"the image is {pixels.dtype} of shape {pixels.shape}; give (height, width, 3) uint8 RGB, 0 to 255"
        )
    return pixels


def _read_roi(roi: BaseGeometry | Path | str, info: SlideInfo) -> tuple[BaseGeometry, dict | None]:
    """The area in absolute level-0 px, and where it is from if that is a file."""
    if isinstance(roi, str | Path):
        area = read_roi(roi, info)
        return area, describe_roi(Path(roi), area, info)
    if shapely.get_type_id(roi) not in (shapely.GeometryType.POLYGON, shapely.GeometryType.MULTIPOLYGON):
        raise ArgumentError(f"roi is {type(roi).__name__}; give a polygon or multipolygon, or a GeoJSON file")
    if not roi.is_valid or not roi.intersects(shapely.box(0, 0, *info.size_px)):
        raise ArgumentError(f"roi is not valid or lies outside slide '{info.slide_id}'; it is in absolute level-0 px")
    return roi, None


def _require_box(box: Box | None, info: SlideInfo) -> None:
    if box is None:
        return
    low, high = box_corners(box)
    if (high <= 0).any() or (low >= info.size_px).any():
        width, height = info.size_px
        raise ArgumentError(f"box {box} lies outside slide '{info.slide_id}' of {width} x {height} level-0 px")


def _require_tissue_of(tissue: Tissue, info: SlideInfo) -> None:
    if not isinstance(tissue, Tissue):
        raise ArgumentError(f"tissue is {type(tissue).__name__}; give what find_tissue returns")
    if (tissue.fingerprint, tissue.slide_mpp) != (info.fingerprint, info.mpp):
        raise ArgumentError(
            f"tissue is of slide '{tissue.info.slide_id}' at {tissue.info.mpp[0]:.4g} um/px, not of '{info.slide_id}' "
            f"at {info.mpp[0]:.4g}; call find_tissue for this one"
        )


def _doubts(nuclei: geopandas.GeoDataFrame) -> Iterator[str]:
    """What provenance has against the nuclei, in words."""
    provenance = nuclei.attrs["provenance"]
    yield from Verdict(**provenance["appearance"]).sentences()
    if provenance["corrupt_fraction"]:
        yield f"{provenance['corrupt_fraction']:.2%} of the tissue cannot be decoded; nothing was found there"
    if full := len(provenance["full_windows"]):
        yield f"{full} windows hold more nuclei than the model can report; some are missing"


def _warn(info: SlideInfo, sentences: Iterable[str]) -> None:
    for sentence in sentences:
        warnings.warn(f"{info.slide_id}: {sentence}", MuseWarning, stacklevel=3)


@contextmanager
def _opencv_threads_restored() -> Iterator[None]:
    """The steps make OpenCV single-threaded; what calls them here may want its own number back."""
    n_threads = cv2.getNumThreads()
    try:
        yield
    finally:
        cv2.setNumThreads(n_threads)

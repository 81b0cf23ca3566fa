"""Write the tissue of a slide as a store, chunk by chunk, so that memory does not grow with the
slide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy import ndarray

from muse_pipeline.core.errors import SlideError
from muse_pipeline.core.files import complete_file, require_own_folder
from muse_pipeline.core.types import Slide, SlideInfo
from muse_pipeline.slides.isolation import map_in_time
from muse_pipeline.store.resample import AreaReader
from muse_pipeline.store.store import (
    BACKGROUND,
    CHUNK_PX,
    CHUNKS_PER_SHARD,
    OME_VERSION,
    PYRAMID,
    SHARD_PX,
    chunk_px,
    image_metadata,
    is_store,
    label_metadata,
    list_files,
    tissue_pixel_px,
)
from muse_pipeline.store.zarr_files import (
    LOSSLESS,
    NewShardFile,
    chunk_codecs,
    encode,
    in_shards,
    shard_path,
    write_array,
    write_group,
    write_planes,
    z_order,
)
from muse_pipeline.tissue.mask import TissueMask, dilate
from muse_pipeline.tissue.overview import ROWS, strips

MARGIN_UM = 32.0  # width of the margin that is stored around tissue, for the halos of windows


@dataclass(frozen=True, order=True)
class Chunk:
    """Position of a chunk in the grid of all chunks of an image; positions sort row by row."""

    row: int
    column: int

    @property
    def xy(self) -> tuple[int, int]:
        """Top left corner in work pixels."""
        return self.column * CHUNK_PX, self.row * CHUNK_PX

    def size(self, size_px: tuple[int, int]) -> tuple[int, int]:
        """(width, height) of the part of the chunk within an image of ``size_px``."""
        return tuple(
            min(CHUNK_PX, extent - start) for extent, start in zip(size_px, self.xy, strict=True)
        )

    @property
    def shard(self) -> tuple[int, int]:
        """(row, column) of the shard that contains the chunk."""
        return self.row // CHUNKS_PER_SHARD, self.column // CHUNKS_PER_SHARD

    @property
    def in_shard(self) -> tuple[int, int]:
        """(row, column) of the chunk within its shard."""
        return self.row % CHUNKS_PER_SHARD, self.column % CHUNKS_PER_SHARD


def count_cells(
    mask: ndarray, mask_mpp: ndarray, cell_um: float, shape: tuple[int, int]
) -> Iterator[tuple[slice, ndarray]]:
    """Count the true mask pixels that each cell of a grid touches; cells of ``cell_um`` start at
    the mask's corner.

    Yields the rows of each strip of the grid, whose ``shape`` is (rows, columns), and its counts
    (n, columns) int32.
    """
    spans = []
    for n, mpp, length in zip(shape, mask_mpp[::-1], mask.shape, strict=True):
        edges = np.arange(n + 1) * (cell_um / mpp)
        # With the tolerance, a rounding error does not make a cell touch a pixel that it only
        # borders on.
        first = np.floor(edges[:-1] + 1e-6)
        last = np.ceil(edges[1:] - 1e-6)
        spans.append([ends.astype(int).clip(0, length) for ends in (first, last)])
    (top, bottom), (left, right) = spans
    # integral images need four times the memory
    for cells in strips(shape[0], max(1, ROWS * shape[0] // len(mask))):
        first = top[cells.start]
        total = cv2.integral(mask[first : bottom[cells].max()].astype(np.uint8))
        rows = total[bottom[cells] - first] - total[top[cells] - first]
        yield cells, rows[:, right] - rows[:, left]


def touched_cells(
    mask: ndarray, mask_mpp: ndarray, cell_um: float, shape: tuple[int, int]
) -> ndarray:
    """(rows, columns) bool: the cells that touch a true pixel of the mask; arguments as for
    ``count_cells``.
    """
    touched = np.empty(shape, bool)
    for cells, n in count_cells(mask, mask_mpp, cell_um, shape):
        touched[cells] = n > 0
    return touched


def tissue_on_lattice(tissue: TissueMask, mpp: float, size_px: tuple[int, int]) -> ndarray:
    """Mask (h, w) bool of the area where nuclei are kept; a pixel has a side of
    ``tissue_pixel_px(mpp)`` work px.
    """
    return _touched_squares(tissue.dilated, tissue.mask_mpp, tissue_pixel_px(mpp), mpp, size_px)


def chunks_with_tissue(
    tissue: TissueMask, mpp: float, size_px: tuple[int, int], margin_um: float = MARGIN_UM
) -> ndarray:
    """(rows, columns) bool: the chunks that touch tissue dilated by ``margin_um``."""
    dilated = dilate(tissue.mask, tissue.mask_mpp, margin_um)
    return _touched_squares(dilated, tissue.mask_mpp, CHUNK_PX, mpp, size_px)


def chunks_within(low_xy: ndarray, high_xy: ndarray, shape: tuple[int, int]) -> ndarray:
    """``shape`` = (rows, columns) bool: the chunks that touch the rectangle between two corners in
    work pixels.
    """
    left, top = np.floor(np.asarray(low_xy) / CHUNK_PX).clip(0).astype(int)
    right, bottom = np.ceil(np.asarray(high_xy) / CHUNK_PX).clip(0).astype(int)
    touched = np.zeros(shape, bool)
    touched[top:bottom, left:right] = True
    return touched


def _touched_squares(
    mask: ndarray, mask_mpp: ndarray, side_px: int, mpp: float, size_px: tuple[int, int]
) -> ndarray:
    """(rows, columns) bool: the squares of ``side_px`` work px that touch the mask, whose last row
    and column are repeated once (as in ``KeptArea.contains``).
    """
    beyond = np.pad(mask, ((0, 1), (0, 1)), "edge")
    return touched_cells(beyond, mask_mpp, side_px * mpp, _grid_shape(size_px, side_px))


def chunks_by_shard(chunks: ndarray) -> list[Chunk]:
    """The chunks that are True in ``chunks`` (rows, columns), shard by shard, in the order of each
    shard's file.
    """
    rank = {where: number for number, where in enumerate(z_order(CHUNKS_PER_SHARD))}
    unordered = (Chunk(*map(int, where)) for where in np.argwhere(chunks))
    return sorted(unordered, key=lambda chunk: (chunk.shard, rank[chunk.in_shard]))


def _grid_shape(size_px: tuple[int, int], cell_px: int) -> tuple[int, int]:
    return -(-size_px[1] // cell_px), -(-size_px[0] // cell_px)


class CorruptChunks:
    """Collects the chunks of a slide that cannot be decoded, up to a fraction of its tissue.

    Each chunk touches ``n_pixels`` (rows, columns) tissue pixels, ``n_pixels_in_all`` on the whole
    slide.
    """

    def __init__(self, n_pixels: ndarray, n_pixels_in_all: int, max_fraction: float, slide_id: str):
        self._n_pixels = n_pixels
        self._n_pixels_in_all = n_pixels_in_all
        self._max_fraction, self._slide_id = max_fraction, slide_id
        self._chunks: list[Chunk] = []
        self._n_corrupt = 0

    @property
    def fraction(self) -> float:
        """Fraction of the tissue in corrupt chunks."""
        return self._n_corrupt / max(self._n_pixels_in_all, 1)

    def rectangles(self, size_px: tuple[int, int]) -> list[list[int]]:
        """[x, y, width, height] in work pixels of each corrupt chunk in an image of ``size_px``,
        row by row.
        """
        return [[*chunk.xy, *chunk.size(size_px)] for chunk in sorted(self._chunks)]

    def add(self, chunk: Chunk, cause: SlideError) -> None:
        """Add a chunk that cannot be decoded because of ``cause``."""
        self._chunks.append(chunk)
        self._n_corrupt += int(self._n_pixels[chunk.row, chunk.column])
        share = self.fraction
        if share > self._max_fraction:
            raise SlideError(
                f"slide '{self._slide_id}': at least {share:.1%} of the tissue cannot be decoded,"
                f" more than the {self._max_fraction:.1%} allowed (last error: {cause}); copy the"
                " slide again or raise `max_corrupt`"
            ) from cause


@dataclass(frozen=True)
class ReadChunk:
    """A chunk ready to be written: its compressed content, None if the chunk is white and is
    therefore not written.

    It has a part (3, side, side) uint8 for each smaller level, and the error because of which it is
    white, or None.
    """

    content: bytes | None
    smaller: tuple[ndarray, ...]
    damage: SlideError | None


class ImageReader(Protocol):
    """A slide as an image at a fixed mpp, such as ``AreaReader``."""

    size_px: tuple[int, int]

    def read(self, xy: tuple[int, int], size: tuple[int, int]) -> ndarray:
        """A rectangle of the image, (h, w, 3) uint8; see ``AreaReader.read``."""


@dataclass(frozen=True)
class StoreOptions:
    """Options of the image that a store holds."""

    mpp: float = 0.5  # um per pixel of the store
    max_corrupt: float = 0.01  # largest fraction of the tissue that may be undecodable
    codec: str = LOSSLESS  # one of ``zarr_files.CODECS``
    # two corners (x, y) in work pixels; if given, only chunks that touch this rectangle are written
    within: tuple[ndarray, ndarray] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)  # added to the store's attributes


DEFAULT = StoreOptions()


def write_store(
    slide: Slide,
    info: SlideInfo,
    tissue: TissueMask,
    path: Path | str,
    options: StoreOptions = DEFAULT,
    threads: int = 1,
    open_image: Callable[[Slide, SlideInfo, float], ImageReader] = AreaReader,
) -> None:
    """Write the chunks of a slide within ``MARGIN_UM`` of ``tissue`` as a store in the folder
    ``path``.

    Chunks that cannot be decoded are white, and are listed in the store's attributes.

    Args:
        slide: the slide.
        info: facts about the slide.
        tissue: mask of the slide's tissue.
        path: folder to write.
        options: options of the image.
        threads: number of chunks read at the same time.
        open_image: function that returns the image of a slide at an mpp.
    """
    require_own_folder(Path(path), is_store(Path(path)))
    cv2.setNumThreads(1)
    mpp, codec = options.mpp, options.codec
    reader = open_image(tissue.scanned(slide, info), info, mpp)
    chunks = chunks_with_tissue(tissue, mpp, reader.size_px)
    if options.within is not None:
        chunks &= chunks_within(*options.within, chunks.shape)
    with complete_file(path) as folder:
        create_levels(folder, reader.size_px, codec)
        label = tissue_on_lattice(tissue, mpp, reader.size_px)
        write_label(folder, label, mpp)
        counts = count_cells(label, np.ones(2), CHUNK_PX / tissue_pixel_px(mpp), chunks.shape)
        n_pixels = np.concatenate([n for _, n in counts])
        corrupt = CorruptChunks(n_pixels, int(label.sum()), options.max_corrupt, info.slide_id)
        tissue_sha256 = tissue.sha256
        del label, tissue  # the masks of large slides need much memory
        pairs = map_in_time(
            lambda chunk: (chunk, read_chunk(reader, chunk, codec)),
            chunks_by_shard(chunks),
            threads,
        )
        with closing(pairs):
            for shard, of_shard in groupby(pairs, lambda pair: pair[0].shard):
                write_shard(folder, shard, of_shard, corrupt, codec)
        attributes = {
            "slide_id": info.slide_id,
            "fingerprint": info.fingerprint,
            "mpp": mpp,
            "slide_mpp": list(info.mpp),
            "slide_size_px": list(info.size_px),
            "background": [BACKGROUND] * 3,
            "corrupt": corrupt.rectangles(reader.size_px),
            "corrupt_fraction": corrupt.fraction,
            "files": list_files(folder),
            "tissue_sha256": tissue_sha256,
            "codec": codec,
            **options.facts,
        }
        write_group(
            folder, {"ome": image_metadata(info.slide_id, mpp, PYRAMID), "muse": attributes}
        )


def create_levels(path: Path, size_px: tuple[int, int], codec: str) -> None:
    """Create the empty arrays of an image, one per level of the pyramid."""
    for level, factor in enumerate(PYRAMID):
        codecs = in_shards((3, *[chunk_px(factor)] * 2), chunk_codecs(codec))
        shape = [3, *(-(-side // factor) for side in size_px[::-1])]
        shard = (3, *[SHARD_PX // factor] * 2)
        write_array(path / str(level), shape, shard, codecs, ("c", "y", "x"), BACKGROUND)


def read_chunk(reader: ImageReader, chunk: Chunk, codec: str) -> ReadChunk:
    """Read and compress a chunk; it is white outside the image, and if it cannot be decoded."""
    planes = np.full((3, CHUNK_PX, CHUNK_PX), BACKGROUND, np.uint8)
    damage = None
    try:
        pixels = reader.read(chunk.xy, chunk.size(reader.size_px))
        planes[:, : pixels.shape[0], : pixels.shape[1]] = cv2.split(pixels)
    except SlideError as error:
        damage = error
    smaller = [planes]
    for factor in PYRAMID[1:]:
        size = CHUNK_PX // factor, CHUNK_PX // factor
        smaller.append(
            np.stack(
                [cv2.resize(plane, size, interpolation=cv2.INTER_AREA) for plane in smaller[-1]]
            )
        )
    return ReadChunk(compress(planes, codec), tuple(smaller[1:]), damage)


def compress(planes: ndarray, codec: str) -> bytes | None:
    """A chunk (3, side, side) uint8, compressed; None if it is white."""
    return None if planes.min() == BACKGROUND else encode(planes, codec)


def write_shard(
    folder: Path,
    shard: tuple[int, int],
    chunks: Iterable[tuple[Chunk, ReadChunk]],
    corrupt: CorruptChunks,
    codec: str,
) -> None:
    """Write a shard's ``chunks`` as they arrive, then the shard at the smaller levels."""
    smaller = [
        np.full((3, SHARD_PX // factor, SHARD_PX // factor), BACKGROUND, np.uint8)
        for factor in PYRAMID[1:]
    ]
    with NewShardFile(shard_path(folder / "0", *shard), CHUNKS_PER_SHARD) as file:
        for chunk, read in chunks:
            if read.damage:
                corrupt.add(chunk, read.damage)
            if read.content:
                file.add(*chunk.in_shard, read.content)
            for image, part in zip(smaller, read.smaller, strict=True):
                image[slices(chunk.in_shard, part.shape[1])] = part
    for level, image in enumerate(smaller, 1):
        side_px = chunk_px(PYRAMID[level])
        n = image.shape[1] // side_px
        with NewShardFile(shard_path(folder / str(level), *shard), n) as file:
            for at in z_order(n):
                if content := compress(np.ascontiguousarray(image[slices(at, side_px)]), codec):
                    file.add(*at, content)


def slices(row_column: tuple[int, int], side_px: int) -> tuple[slice, ...]:
    """Slices of an image (3, h, w) for the square (row, column) of a grid with squares of
    ``side_px``.
    """
    return slice(None), *(slice(index * side_px, (index + 1) * side_px) for index in row_column)


def write_label(path: Path, label: ndarray, mpp: float) -> None:
    """Write ``labels/tissue``: 1 where nuclei are kept, with as many levels as the image, as
    viewers expect.
    """
    write_group(path / "labels", {"ome": {"version": OME_VERSION, "labels": ["tissue"]}})
    sides_px = tuple(tissue_pixel_px(mpp) * factor for factor in PYRAMID)
    write_group(path / "labels/tissue", {"ome": label_metadata(mpp, sides_px)})
    for level, factor in enumerate(PYRAMID):
        shape = _grid_shape(label.shape[::-1], factor)
        # a pixel is tissue if any of those that it replaces is
        smaller = touched_cells(label, np.ones(2), factor, shape)
        write_planes(path / f"labels/tissue/{level}", smaller.astype(np.uint8))

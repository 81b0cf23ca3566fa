"""Write the tissue of a slide as a store, chunk by chunk, so that memory does not grow with the slide."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from muse_pipeline.core.errors import SlideError
from muse_pipeline.core.files import complete_file, require_own_folder
from muse_pipeline.core.types import Slide, SlideInfo
from muse_pipeline.slides.isolation import map_in_time
from muse_pipeline.store.chunks import (
    Chunk,
    CorruptChunks,
    any_within,
    chunks_by_shard,
    chunks_with_tissue,
    chunks_within,
    count_cells,
    tissue_on_lattice,
)
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
from muse_pipeline.tissue.mask import TissueMask

MARGIN_UM = 32.0  # width of the margin that is stored around tissue, for the halos of windows


@dataclass(frozen=True)
class ReadChunk:
    """A chunk ready to be written.

    Attributes:
        content: compressed content; None if the chunk is white and is therefore not written.
        smaller: the chunk at the smaller levels, (3, side, side) uint8 each.
        damage: error because of which the chunk is white; None if it could be decoded.
    """

    content: bytes | None
    smaller: tuple[np.ndarray, ...]
    damage: SlideError | None


class ImageReader(Protocol):
    """A slide as an image at a fixed mpp, such as ``AreaReader``."""

    size_px: tuple[int, int]

    def read(self, xy: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
        """A rectangle of the image, (h, w, 3) uint8; see ``AreaReader.read``."""


def write_store(
    slide: Slide,
    info: SlideInfo,
    tissue: TissueMask,
    path: Path | str,
    *,
    mpp: float = 0.5,
    threads: int = 1,
    max_corrupt: float = 0.01,
    within: tuple[np.ndarray, np.ndarray] | None = None,
    open_image: Callable[[Slide, SlideInfo, float], ImageReader] = AreaReader,
    codec: str = LOSSLESS,
    facts: dict[str, Any] | None = None,
) -> None:
    """Write the chunks of a slide within ``MARGIN_UM`` of ``tissue`` as a store in the folder ``path``.

    Chunks that cannot be decoded are white, and are listed in the store's attributes.

    Args:
        slide: the slide.
        info: facts about the slide.
        tissue: mask of the slide's tissue.
        path: folder to write.
        mpp: um per pixel of the store.
        threads: number of chunks read at the same time.
        max_corrupt: largest fraction of the tissue that may be undecodable.
        within: two corners (x, y) in work pixels; if given, only chunks that touch this rectangle are written.
        open_image: function that returns the image of a slide at an mpp.
        codec: one of ``zarr_files.CODECS``.
        facts: facts to add to the store's attributes.
    """
    require_own_folder(Path(path), is_store(Path(path)))
    cv2.setNumThreads(1)
    reader = open_image(tissue.scanned(slide, info), info, mpp)
    chunks = chunks_with_tissue(tissue, mpp, reader.size_px, MARGIN_UM)
    if within is not None:
        chunks &= chunks_within(*within, chunks.shape)
    with complete_file(path) as folder:
        create_levels(folder, reader.size_px, codec)
        label = tissue_on_lattice(tissue, mpp, reader.size_px)
        write_label(folder, label, mpp)
        counts = count_cells(label, np.ones(2), CHUNK_PX / tissue_pixel_px(mpp), chunks.shape)
        n_pixels = np.concatenate([n for _, n in counts])
        corrupt = CorruptChunks(n_pixels, int(label.sum()), max_corrupt, info.slide_id)
        tissue_sha256 = tissue.sha256
        del label, tissue  # the masks of large slides need much memory
        ordered = chunks_by_shard(chunks)
        found = map_in_time(lambda chunk: (chunk, read_chunk(reader, chunk, codec)), ordered, threads)
        with closing(found) as read:
            for shard, of_shard in groupby(read, lambda one: one[0].shard):
                write_shard(folder, shard, of_shard, corrupt, codec)
        known = {"tissue_sha256": tissue_sha256, "codec": codec, **(facts or {})}
        write_attributes(folder, info, mpp, corrupt, reader.size_px, known)


def create_levels(path: Path, size_px: tuple[int, int], codec: str) -> None:
    """Create the empty arrays of an image, one per level of the pyramid."""
    for level, factor in enumerate(PYRAMID):
        codecs = in_shards((3, *[chunk_px(factor)] * 2), chunk_codecs(codec))
        shape, shard = [3, *(-(-side // factor) for side in size_px[::-1])], (3, *[SHARD_PX // factor] * 2)
        write_array(path / str(level), shape, shard, codecs, ("c", "y", "x"), BACKGROUND)


def read_chunk(reader: ImageReader, chunk: Chunk, codec: str) -> ReadChunk:
    """Read and compress a chunk; it is white outside the image, and if it cannot be decoded."""
    planes, damage = np.full((3, CHUNK_PX, CHUNK_PX), BACKGROUND, np.uint8), None
    try:
        pixels = reader.read(chunk.xy, chunk.size(reader.size_px))
        planes[:, : pixels.shape[0], : pixels.shape[1]] = cv2.split(pixels)
    except SlideError as error:
        damage = error
    smaller = [planes]
    for factor in PYRAMID[1:]:
        size = CHUNK_PX // factor, CHUNK_PX // factor
        smaller.append(np.stack([cv2.resize(plane, size, interpolation=cv2.INTER_AREA) for plane in smaller[-1]]))
    return ReadChunk(compress(planes, codec), tuple(smaller[1:]), damage)


def compress(planes: np.ndarray, codec: str) -> bytes | None:
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
    smaller = [np.full((3, SHARD_PX // factor, SHARD_PX // factor), BACKGROUND, np.uint8) for factor in PYRAMID[1:]]
    with NewShardFile(shard_path(folder / "0", *shard), CHUNKS_PER_SHARD) as file:
        for chunk, read in chunks:
            if read.damage:
                corrupt.add(chunk, read.damage)
            if read.content:
                file.add(*chunk.in_shard, read.content)
            for image, part in zip(smaller, read.smaller, strict=True):
                image[slices(chunk.in_shard, part.shape[1])] = part
    for level, image in enumerate(smaller, 1):
        write_smaller(shard_path(folder / str(level), *shard), image, chunk_px(PYRAMID[level]), codec)


def write_smaller(path: Path, image: np.ndarray, side_px: int, codec: str) -> None:
    """Write a shard of a smaller level from its whole ``image`` (3, h, w) uint8, in chunks of ``side_px``."""
    n = image.shape[1] // side_px
    with NewShardFile(path, n) as file:
        for at in z_order(n):
            if content := compress(np.ascontiguousarray(image[slices(at, side_px)]), codec):
                file.add(*at, content)


def slices(row_column: tuple[int, int], side_px: int) -> tuple[slice, ...]:
    """Slices of an image (3, h, w) for the square (row, column) of a grid with squares of ``side_px``."""
    return slice(None), *(slice(index * side_px, (index + 1) * side_px) for index in row_column)


def write_label(path: Path, label: np.ndarray, mpp: float) -> None:
    """Write ``labels/tissue``: 1 where nuclei are kept, with as many levels as the image, as viewers expect."""
    write_group(path / "labels", {"ome": {"version": OME_VERSION, "labels": ["tissue"]}})
    sides_px = tuple(tissue_pixel_px(mpp) * factor for factor in PYRAMID)
    write_group(path / "labels/tissue", {"ome": label_metadata("tissue", mpp, sides_px)})
    for level, factor in enumerate(PYRAMID):
        write_planes(path / f"labels/tissue/{level}", any_within(label, factor).astype(np.uint8))


def write_attributes(
    path: Path, info: SlideInfo, mpp: float, corrupt: CorruptChunks, size_px: tuple[int, int], facts: dict[str, Any]
) -> None:
    """Describe the store for viewers (``ome``) and for the steps of this package (``muse``)."""
    known = {
        "slide_id": info.slide_id,
        "fingerprint": info.fingerprint,
        "mpp": mpp,
        "slide_mpp": list(info.mpp),
        "slide_size_px": list(info.size_px),
        "background": [BACKGROUND] * 3,
        "corrupt": corrupt.rectangles(size_px),
        "corrupt_fraction": corrupt.fraction,
        "files": list_files(path),
        **facts,
    }
    write_group(path, {"ome": image_metadata(info.slide_id, mpp, PYRAMID), "muse": known})

"""Write the tissue of a slide as a store: shard by shard, so that memory does not grow with the slide."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from muse_pipeline.errors import OutputError, SlideError
from muse_pipeline.files import complete_file
from muse_pipeline.tiles.chunks import (
    Rectangle,
    any_within,
    blocks_of,
    chunks_with_tissue,
    shards_with_tissue,
    tissue_on_lattice,
)
from muse_pipeline.tiles.corrupt import CorruptRegions
from muse_pipeline.tiles.ome import OME_VERSION, image_metadata, label_metadata
from muse_pipeline.tiles.resample import AreaReader
from muse_pipeline.tiles.store import BACKGROUND, CHUNK_PX, SHARD_PX, tissue_pixel_px
from muse_pipeline.tissue.mask import TissueMask
from muse_pipeline.types import Slide, SlideInfo

PYRAMID = (1, 4, 16)  # a shard covers the same tissue at every level, so each is written once
MARGIN_UM = 32.0  # what a window sees beyond its core


def write_store(
    slide: Slide,
    info: SlideInfo,
    tissue: TissueMask,
    path: Path | str,
    *,
    mpp: float = 0.5,
    threads: int = 1,
    max_corrupt: float = 0.01,
    margin_um: float = MARGIN_UM,
) -> None:
    """Write the chunks of ``slide`` within ``margin_um`` of ``tissue``, at ``mpp``, to the folder ``path``.

    What cannot be decoded is white and listed in the store's attributes.

    Raises:
        MppError: the slide is too coarse for ``mpp``.
        SlideError: more than ``max_corrupt`` of the tissue cannot be decoded.
        OutputError: ``path`` is a folder of something else, or cannot be written.
    """
    require_store_name(Path(path))
    cv2.setNumThreads(1)
    reader = AreaReader(slide, info, mpp)
    label = tissue_on_lattice(tissue, mpp, reader.size_px)
    corrupt = CorruptRegions(label, tissue_pixel_px(mpp), max_corrupt, info.slide_id)
    chunks = chunks_with_tissue(tissue, mpp, reader.size_px, margin_um)
    limits = {"threading.max_workers": threads, "async.concurrency": threads}
    with complete_file(path) as partial, ThreadPoolExecutor(threads) as pool, zarr.config.set(limits):
        levels = create_levels(partial, reader.size_px)
        for shard in shards_with_tissue(chunks):
            blocks = blocks_of(shard, chunks, reader.size_px)
            write_shard(levels, shard, read_shard(reader, shard, blocks, corrupt, pool))
        write_label(partial, label, mpp)
        write_attributes(partial, info, mpp, corrupt)


def require_store_name(path: Path) -> None:
    """Spare a folder that is no image: an older store of that name is replaced, with all that lies in it."""
    if path.is_dir() and any(path.iterdir()) and not (path / "zarr.json").is_file():
        raise OutputError(f"{path}: is a folder with something else in it; name a new one, as image-500nm.zarr")


def create_levels(path: Path, size_px: tuple[int, int]) -> list[zarr.Array]:
    """Create the image's empty arrays, one per level of the pyramid."""
    group = zarr.create_group(store=str(path), zarr_format=3)
    return [
        group.create_array(
            str(level),
            shape=(3, -(-size_px[1] // factor), -(-size_px[0] // factor)),
            dtype="uint8",
            chunks=(3, *[min(CHUNK_PX, SHARD_PX // factor)] * 2),
            shards=(3, *[SHARD_PX // factor] * 2),
            compressors=[ZstdCodec(level=1, checksum=True)],
            fill_value=BACKGROUND,
            dimension_names=("c", "y", "x"),
        )
        for level, factor in enumerate(PYRAMID)
    ]


def read_shard(
    reader: AreaReader,
    shard: tuple[int, int],
    blocks: list[Rectangle],
    corrupt: CorruptRegions,
    pool: ThreadPoolExecutor,
) -> np.ndarray:
    """Read the ``blocks`` of a shard.

    Returns:
        (3, SHARD_PX, SHARD_PX) uint8, white where there is no block.
    """
    image = np.full((3, SHARD_PX, SHARD_PX), BACKGROUND, np.uint8)
    top, left = (index * SHARD_PX for index in shard)

    def place(block: Rectangle) -> None:
        rows, columns = (
            slice(block.y - top, block.y - top + block.height),
            slice(block.x - left, block.x - left + block.width),
        )
        image[:, rows, columns] = cv2.split(read_block(reader, block, corrupt))

    list(pool.map(place, blocks))
    return image


def read_block(reader: AreaReader, block: Rectangle, corrupt: CorruptRegions) -> np.ndarray:
    """Read a row of chunks as (h, w, 3); where that fails, chunk by chunk, white for those that cannot be decoded."""
    try:
        return reader.read(block.xy, block.size)
    except SlideError as error:
        if block.width <= CHUNK_PX:
            corrupt.add(block, error)
            return np.full((block.height, block.width, 3), BACKGROUND, np.uint8)
    return np.concatenate([read_block(reader, chunk, corrupt) for chunk in block.chunks()], axis=1)


def write_shard(levels: list[zarr.Array], shard: tuple[int, int], image: np.ndarray) -> None:
    """Write a shard's ``image`` (3, SHARD_PX, SHARD_PX), and what it becomes at every level of the pyramid."""
    for array, factor in zip(levels, PYRAMID, strict=True):
        side_px = SHARD_PX // factor
        if factor > 1:
            image = np.stack([cv2.resize(plane, (side_px, side_px), interpolation=cv2.INTER_AREA) for plane in image])
        top, left = (index * side_px for index in shard)
        _, height, width = array.shape
        array[:, top : top + side_px, left : left + side_px] = image[:, : height - top, : width - left]


def write_label(path: Path, label: np.ndarray, mpp: float) -> None:
    """Write ``labels/tissue``: 1 where nuclei are kept, with as many levels as the image, as viewers expect."""
    labels = zarr.create_group(store=str(path / "labels"), zarr_format=3)
    labels.attrs["ome"] = {"version": OME_VERSION, "labels": ["tissue"]}
    tissue = labels.create_group("tissue")
    tissue.attrs["ome"] = label_metadata("tissue", mpp, tuple(tissue_pixel_px(mpp) * factor for factor in PYRAMID))
    for level, factor in enumerate(PYRAMID):
        pixels = any_within(label, factor).astype(np.uint8)
        array = tissue.create_array(
            str(level), shape=pixels.shape, dtype="uint8", chunks=(1024, 1024), dimension_names=("y", "x")
        )
        array[:] = pixels


def write_attributes(path: Path, info: SlideInfo, mpp: float, corrupt: CorruptRegions) -> None:
    """Describe the store for viewers (``ome``) and for our own steps (``muse``)."""
    group = zarr.open_group(str(path), mode="r+")
    group.attrs["ome"] = image_metadata(info.slide_id, mpp, PYRAMID)
    group.attrs["muse"] = {
        "slide_id": info.slide_id,
        "fingerprint": info.fingerprint,
        "mpp": mpp,
        "slide_mpp": list(info.mpp),
        "slide_size_px": list(info.size_px),
        "background": [BACKGROUND] * 3,
        "corrupt": corrupt.rectangles(),
        "corrupt_fraction": corrupt.fraction,
    }

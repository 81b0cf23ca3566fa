"""A slide as one image on disk, at a fixed mpp: a sparse, sharded OME-Zarr.

The image is ``(c, y, x)`` uint8 on the work lattice, in chunks of 512 px; chunks without tissue are
absent and read as white. Any OME-Zarr 0.5 viewer can open the folder, unless its chunks are JPEG.
``docs/guide/store.md`` describes its contents.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy import ndarray

from muse_pipeline.core.errors import StoreError
from muse_pipeline.core.files import read_json
from muse_pipeline.core.text import one_line
from muse_pipeline.slides.base import overlap, walk_tiles
from muse_pipeline.store.zarr_files import (
    CODECS,
    LOSSLESS,
    METADATA,
    Plane,
    ShardFiles,
    read_recent_chunk,
)

CHUNK_PX = 512
SHARD_PX = 4096
CHUNKS_PER_SHARD = SHARD_PX // CHUNK_PX
# a shard covers the same tissue at every level, so that its levels can be written together
PYRAMID = (1, 4, 16)
BACKGROUND = 255
TISSUE_UM = 8.0  # side of a pixel of the tissue label, before rounding to whole work pixels
PERIOD_PX = 128  # width of the strip along an edge of an image that repeats beyond the edge


def tissue_pixel_px(mpp: float) -> int:
    """Side of a pixel of the tissue label in work pixels: 16 at 0.5 um/px."""
    return max(1, round(TISSUE_UM / mpp))


def chunk_px(factor: int) -> int:
    """Side of a chunk in the level that is shrunk by ``factor``."""
    return min(CHUNK_PX, SHARD_PX // factor)


def open_store(path: Path | str) -> Store:
    """Open a store written by ``muse step tile``."""
    folder = Path(path)
    if not (folder / METADATA).exists():
        raise StoreError(f"{path}: no such store; run `muse step tile` first")
    try:
        attributes = read_json(folder / METADATA)["attributes"]["muse"]
        image = read_json(folder / "0" / METADATA)
        tissue = Plane(folder / "labels/tissue/0")
        _require_ours(attributes, image, tissue)
        # A missing file would be read as glass.
        written = set(attributes["files"])
        if lost := sorted(written - set(list_files(folder))):
            raise ValueError(
                f"{len(lost)} of its {len(written)} files are missing, the first is {lost[0]}"
            )
        return Store(folder, tuple(image["shape"][:0:-1]), tissue, attributes)
    except Exception as error:  # foreign metadata may raise any exception
        why = one_line(f"{type(error).__name__}: {error}")[:200]
        raise StoreError(
            f"{path}: not a complete store of `muse step tile` ({why}); run `muse step tile` again"
        ) from error


def _require_ours(attributes: dict[str, Any], image: dict[str, Any], tissue: Plane) -> None:
    """Require the layout that ``Store`` expects; ``image`` is the metadata of its array."""
    mpp, slide_mpp = float(attributes["mpp"]), [float(mpp) for mpp in attributes["slide_mpp"]]
    if len(slide_mpp) != 2 or not all(0 < side < np.inf for side in (mpp, *slide_mpp)):
        raise ValueError(f"mpp {mpp} and slide_mpp {slide_mpp} are not valid pixel sizes")
    shape = image["shape"]
    kind = image["data_type"]
    shards = image["chunk_grid"]["configuration"]["chunk_shape"]
    shard_px = [3, SHARD_PX, SHARD_PX]
    if len(shape) != 3 or shape[0] != 3 or kind != "uint8" or shards != shard_px:
        raise ValueError(
            f"its image is {kind} of shape {shape} in shards of {shards}, not uint8 in {shard_px}"
        )
    if attributes["codec"] not in CODECS:
        raise ValueError(
            f"its chunks are compressed by {attributes['codec']}, not by {' or '.join(CODECS)}"
        )
    pixels = tuple(-(-side // tissue_pixel_px(mpp)) for side in shape[1:])
    if tissue.shape != pixels:
        raise ValueError(f"its tissue has the shape {tissue.shape}, not {pixels}")


def list_files(path: Path) -> list[str]:
    """Names of the chunk and shard files of a store's full-size image and tissue label, relative to
    ``path``.
    """
    chunks = [
        file for array in ("0", "labels/tissue/0") for file in (path / array / "c").rglob("*")
    ]
    return sorted(
        file.relative_to(path).as_posix()
        for file in chunks
        if file.name.isdigit() and file.is_file()
    )


def is_store(path: Path) -> bool:
    """True if ``path`` is a store of ``muse step tile``, complete or not."""
    try:
        return "muse" in read_json(path / METADATA)["attributes"]
    except ValueError:  # the metadata are damaged
        return (path / "labels/tissue" / METADATA).is_file()
    except (OSError, KeyError, TypeError):
        return False


class Store:
    """A slide's image at a fixed mpp; safe to read from several threads.

    Attributes:
        path: folder of the store.
        attributes: facts about the slide and the store (group attribute ``muse``).
        mpp: um per work pixel, in both directions.
        slide_mpp: (x, y) um per level-0 pixel.
        size_px: (width, height) of the work lattice.
        slide_id: the slide's name in the sheet.
        fingerprint: the slide's checksum.
        codec: one of ``zarr_files.CODECS``.
    """

    def __init__(
        self,
        path: Path,
        full_px: tuple[int, int],
        tissue: Plane,
        attributes: dict[str, Any],
        reduction: int = 1,
    ):
        self.path, self.attributes = path, attributes
        self._full_px = full_px
        self._tissue = tissue
        self._identity = _identity(path)
        self._level = max(factor for factor in PYRAMID if reduction % factor == 0)
        self._reduction, self._rest = reduction, reduction // self._level
        self._chunk_px = chunk_px(self._level)
        level = path / str(PYRAMID.index(self._level))
        self.codec = str(attributes["codec"])
        self._shards = ShardFiles(
            level, self._chunk_px, SHARD_PX // self._level // self._chunk_px, self.codec
        )
        self._read_chunk = self._shards.read_chunk
        self.mpp = float(attributes["mpp"]) * reduction
        self.slide_mpp = tuple(float(mpp) for mpp in attributes["slide_mpp"])
        self.size_px = tuple(-(-side // reduction) for side in full_px)
        self.slide_id = str(attributes["slide_id"])
        self.fingerprint = str(attributes["fingerprint"])

    def __reduce__(self) -> tuple:
        # without its cache
        return Store, (self.path, self._full_px, self._tissue, self.attributes, self._reduction)

    def at(self, mpp: float) -> Store:
        """The same image at a coarser mpp, read from the best level and averaged if that level is
        finer.
        """
        ratio = mpp / self.mpp
        if round(ratio) < 1 or abs(ratio - round(ratio)) > 1e-6:
            raise StoreError(
                f"{self.path}: stored at {self.mpp:g} um/px, of which {mpp:g} um/px is not an"
                f" integer multiple; tile the slide at {mpp:g} um/px or an integer fraction of it"
            )
        reduction = self._reduction * round(ratio)
        return Store(self.path, self._full_px, self._tissue, self.attributes, reduction)

    def keep_chunks(self, n: int) -> None:
        """Cache the last ``n`` decoded chunks, 0.8 MB each, for a reader of overlapping boxes."""
        self._read_chunk = lru_cache(n)(self._shards.read_chunk)

    def share_chunks(self) -> None:
        """Use the process's shared cache of decoded chunks, for boxes close together that are read
        in succession.
        """
        self._read_chunk = partial(read_recent_chunk, self._shards)

    def read(self, xy: tuple[int, int], size: tuple[int, int]) -> ndarray:
        """Read ``size`` = (width, height) work pixels from the corner ``xy``, which may lie outside
        the image.

        The result is (h, w, 3) uint8, contiguous, and white outside the image and in chunks without
        tissue.
        """
        return cv2.merge(list(self.read_planes(xy, size)))

    def read_continued(self, xy: tuple[int, int], size: tuple[int, int]) -> ndarray:
        """Read a box as in ``read``, but beyond the edges of the image its outermost ``PERIOD_PX``
        repeat.

        Networks find more nuclei next to white than next to tissue
        (docs/results/built-in-models.md).
        """
        if min(xy) >= 0 and (np.add(xy, size) <= self.size_px).all():
            return self.read(xy, size)
        columns, rows = map(continue_axis, xy, size, self.size_px)
        left, top = int(columns.min()), int(rows.min())
        pixels = self.read((left, top), (int(columns.max()) + 1 - left, int(rows.max()) + 1 - top))
        return pixels[np.ix_(rows - top, columns - left)]

    def read_planes(
        self, xy: tuple[int, int], size: tuple[int, int], channels: slice = slice(None)
    ) -> ndarray:
        """Read a box as in ``read``, but as planes (n, h, w) uint8 of the n ``channels``, by
        default all three.
        """
        (x, y), (width, height) = (
            [int(value) * self._rest for value in pair] for pair in (xy, size)
        )
        planes = np.full((len(range(3)[channels]), height, width), BACKGROUND, np.uint8)
        level_px = tuple(-(-side // self._level) for side in self._full_px)
        if meeting := overlap((x, y), (width, height), level_px):
            (rows, columns), inside = meeting
            chunk_px = self._chunk_px, self._chunk_px
            for row, column, of_chunk, of_part in walk_tiles(rows, columns, chunk_px):
                if (chunk := self._require_chunk(row, column)) is not None:
                    planes[:, *inside][:, *of_part] = chunk[channels, *of_chunk]
        if self._rest == 1:
            return planes
        return np.stack(
            [
                cv2.resize(plane, tuple(map(int, size)), interpolation=cv2.INTER_AREA)
                for plane in planes
            ]
        )

    def _require_chunk(self, row: int, column: int) -> ndarray | None:
        """A chunk of the level, (3, h, w) uint8, or None if it is absent."""
        try:
            return self._read_chunk(row, column)
        except (ValueError, OSError, RuntimeError) as error:
            raise StoreError(
                f"{self.path}: chunk ({row}, {column}) is damaged ({error}); run `muse step tile`"
                " again"
            ) from error

    def require_lossless(self) -> None:
        """Reject a store with lossy compression, which is only for pretraining."""
        if self.codec != LOSSLESS:
            raise StoreError(
                f"{self.path}: has lossy compression ({self.codec}), for pretraining only; write a"
                " lossless store with `muse step tile`"
            )

    def require_unchanged(self) -> None:
        """Require that the folder was not replaced since it was opened.

        If another job removes or replaces the store meanwhile, as can happen when a killed workflow
        is restarted, its missing chunks would be read as glass.
        """
        if _identity(self.path) != self._identity:
            raise StoreError(f"{self.path}: was replaced while it was read; run this step again")

    @cached_property
    def tissue(self) -> tuple[ndarray, float]:
        """Mask (h, w) bool of the area where nuclei are kept, and the side of its pixels in work
        pixels.
        """
        return self._read_tissue(), self._tissue_px

    def in_tissue(self, xy: ndarray) -> ndarray:
        """(M,) bool: True for positions (M, 2) in work px that lie in tissue; reads only the label
        around them.
        """
        is_tissue = np.zeros(len(xy), bool)
        cells = np.floor(np.asarray(xy) / self._tissue_px).astype(int)[:, ::-1]
        inside = ((cells >= 0) & (cells < self._tissue.shape)).all(1)
        if inside.any():
            rows, columns = cells[inside].T
            top, left = rows.min(), columns.min()
            label = self._read_tissue(top, left, rows.max() + 1, columns.max() + 1)
            is_tissue[inside] = label[rows - top, columns - left]
        return is_tissue

    def _read_tissue(self, *box: int) -> ndarray:
        try:
            return self._tissue.read(*box) > 0
        except (ValueError, OSError, RuntimeError) as error:
            raise StoreError(
                f"{self.path}: its tissue is damaged ({error}); run `muse step tile` again"
            ) from error

    @property
    def _tissue_px(self) -> float:
        """Side of a pixel of the tissue label in work pixels."""
        return tissue_pixel_px(float(self.attributes["mpp"])) / self._reduction


def continue_axis(start: int, n: int, side: int) -> ndarray:
    """Pixels (n,) of an axis of length ``side`` that are shown from ``start`` on, also beyond the
    ends of the axis.

    Beyond an end, the ``PERIOD_PX`` next to it repeat. They are not mirrored, because a nucleus
    that is cut by the edge and its mirror image would appear as one nucleus.
    """
    pixel, period = np.arange(start, start + n), min(PERIOD_PX, side)
    after = side - period + (pixel - side) % period
    return np.where(pixel < 0, pixel % period, np.where(pixel < side, pixel, after))


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


OME_VERSION = "0.5"
RGB = ("red", (255, 0, 0), True), ("green", (0, 255, 0), True), ("blue", (0, 0, 255), True)


def image_metadata(
    name: str,
    mpp: float,
    factors: tuple[int, ...],
    channels: Iterable[tuple[str, Iterable[int], bool]] = RGB,
) -> dict[str, Any]:
    """Attribute ``ome`` of an image ``(c, y, x)`` whose level k is shrunk by ``factors[k]``.

    Each of ``channels`` is a name, a colour (r, g, b), and whether viewers show the channel at
    first.
    """
    window = {"min": 0, "max": 255, "start": 0, "end": 255}
    described = [
        {"label": label, "color": bytes(color).hex().upper(), "active": is_shown, "window": window}
        for label, color, is_shown in channels
    ]
    return {
        "version": OME_VERSION,
        "multiscales": [multiscale(name, ("c", "y", "x"), mpp, factors)],
        "omero": {"name": name, "channels": described, "rdefs": {"model": "color"}},
    }


def label_metadata(mpp: float, factors: tuple[int, ...]) -> dict[str, Any]:
    """Attribute ``ome`` of the tissue label ``(y, x)`` whose level k has pixels as wide as
    ``factors[k]`` of its image.
    """
    return {
        "version": OME_VERSION,
        "multiscales": [multiscale("tissue", ("y", "x"), mpp, factors)],
        "image-label": {
            "source": {"image": "../../"},
            "colors": [{"label-value": 1, "rgba": [0, 160, 80, 96]}],
        },
    }


def multiscale(
    name: str, axes: tuple[str, ...], mpp: float, factors: tuple[int, ...]
) -> dict[str, Any]:
    """An entry of ``multiscales`` for an image at ``mpp`` whose level k is shrunk by
    ``factors[k]``.
    """
    datasets = []
    for level, factor in enumerate(factors):
        # The origin is the centre of the first pixel in OME-Zarr, but its corner in this package.
        scale = [1.0 if axis == "c" else mpp * factor for axis in axes]
        shift = [0.0 if axis == "c" else mpp * (factor - 1) / 2 for axis in axes]
        transformations = [
            {"type": "scale", "scale": scale},
            {"type": "translation", "translation": shift},
        ]
        datasets.append({"path": str(level), "coordinateTransformations": transformations})
    space = {"type": "space", "unit": "micrometer"}
    described = [{"name": axis, **({"type": "channel"} if axis == "c" else space)} for axis in axes]
    return {"name": name, "axes": described, "datasets": datasets, "type": "area mean"}

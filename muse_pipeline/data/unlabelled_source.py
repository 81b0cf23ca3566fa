"""Where unlabelled tissue comes from, as a training config names it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2

from muse_pipeline.config import require_between
from muse_pipeline.data.picture_labels import read_picture
from muse_pipeline.data.pictures import list_pictures
from muse_pipeline.data.unlabelled_windows import Image, Picture
from muse_pipeline.errors import ConfigError, MppError
from muse_pipeline.tiles.store import open_store


@dataclass(frozen=True)
class UnlabelledSource:
    """A folder of pictures or a store; one of the two.

    Attributes:
        images: folder of pictures.
        store: that ``muse tile`` wrote.
        mpp: um per pixel of the pictures; stores know theirs.
    """

    images: Path | None = None
    store: Path | None = None
    mpp: float | None = None

    def __post_init__(self) -> None:
        if (self.images is None) == (self.store is None):
            raise ConfigError("a source of unlabelled tissue names neither `images` nor `store`, or both; give one")
        require_between(self, "a source of unlabelled tissue", mpp=(0.01, 100))


def open_unlabelled(sources: Iterable[UnlabelledSource], mpp: float) -> list[Image]:
    """Every picture, resampled to ``mpp`` and held in memory, and every store, which is only opened.

    Raises:
        ConfigError: there is no source, no such folder, or no picture in it.
        LabelError: a picture cannot be read, or its mpp is not known.
        MppError: a store has another mpp.
        StoreError: a store is missing or damaged.
    """
    images = [image for source in sources for image in _open(source, mpp)]
    if not images:
        raise ConfigError("no unlabelled tissue is named; give `sources`, each with `images` or `store`")
    return images


def _open(source: UnlabelledSource, mpp: float) -> list[Image]:
    if source.store is not None:
        store = open_store(source.store)
        if abs(store.mpp / mpp - 1) > 1e-3:
            raise MppError(f"{store.path}: is at {store.mpp:g} um/px and the config says {mpp:g}; correct `mpp`")
        return [store]
    if not source.images.is_dir():
        raise ConfigError(f"{source.images}: no such folder of pictures; correct `images` in the config")
    paths = list_pictures(source.images)
    if not paths:
        raise ConfigError(f"{source.images}: holds no picture; correct `images` in the config")
    return [_read(path, source.mpp, mpp) for path in paths]


def _read(path: Path, stated: float | None, mpp: float) -> Picture:
    pixels, picture_mpp = read_picture(path, stated)
    factor = picture_mpp / mpp
    if abs(factor - 1) > 1e-6:
        how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
        size = [max(1, round(side * factor)) for side in pixels.shape[1::-1]]
        pixels = cv2.resize(pixels, size, interpolation=how)
    return Picture(pixels)

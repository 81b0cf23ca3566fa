"""Sources of unlabelled tissue in a training config, and windows and crops of this tissue."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import torch
from numpy import ndarray
from numpy.random import Generator
from torch import Tensor

from muse_pipeline.core.config import Mpp, require_one
from muse_pipeline.core.errors import ConfigError, MppError, StoreError
from muse_pipeline.core.pictures import list_pictures, resize_picture, spread_evenly
from muse_pipeline.data.augment import seed_of_step
from muse_pipeline.labels.base_source import read_picture
from muse_pipeline.store.store import open_store


@dataclass(frozen=True)
class UnlabelledSource:
    """A source of unlabelled tissue: either a folder of pictures or a store.

    Attributes:
        images: folder of pictures.
        store: image store, from ``muse step tile``.
        mpp: um per pixel of the pictures.
    """

    images: Path | None = None
    store: Path | None = None
    mpp: Mpp | None = None

    def __post_init__(self) -> None:
        require_one(self, ("images", "store"), "a source of unlabelled tissue")


def open_unlabelled(sources: Iterable[UnlabelledSource], mpp: float) -> list[Image]:
    """Read all pictures into memory, resampled to ``mpp``, and open all stores, which are read
    window by window.
    """
    images = [image for source in sources for image in _open(source, mpp)]
    if not images:
        raise ConfigError(
            "no unlabelled tissue is named; give `sources`, each with `images` or `store`"
        )
    return images


def _open(source: UnlabelledSource, mpp: float) -> list[Image]:
    if source.store is not None:
        store = open_store(source.store)
        if abs(store.mpp / mpp - 1) > 1e-3:
            raise MppError(
                f"{store.path}: is at {store.mpp:g} um/px, but the config has {mpp:g}; correct"
                " `mpp`"
            )
        return [store]
    read = ((path.stem, *read_picture(path, source.mpp)) for path in picture_files(source.images))
    return [
        Picture(resize_picture(pixels, picture_mpp / mpp), name)
        for name, pixels, picture_mpp in read
    ]


def picture_files(folder: Path) -> list[Path]:
    """List the pictures in the folder of a source."""
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder of pictures; correct `images` in the config")
    paths = list_pictures(folder)
    if not paths:
        raise ConfigError(f"{folder}: holds no picture; correct `images` in the config")
    return paths


MASK_PX = 16  # side of a pixel of a picture's tissue mask, in px of the picture


class Image(Protocol):
    """An image to cut windows from, such as a ``Store``; ``tissue`` is (mask, side of a mask pixel
    in px).
    """

    slide_id: str
    size_px: tuple[int, int]
    tissue: tuple[ndarray, float]

    def read(self, xy: tuple[int, int], size: tuple[int, int]) -> ndarray:
        """(h, w, 3) uint8 of ``size`` = (width, height) px with the corner ``xy``."""


class Picture:
    """A picture (h, w, 3) uint8 in memory, mirrored beyond its border; all of it counts as
    tissue.
    """

    def __init__(self, pixels: ndarray, slide_id: str = ""):
        self.pixels, self.slide_id = pixels, slide_id
        self.size_px = pixels.shape[1], pixels.shape[0]
        self.tissue = (
            np.ones((-(-pixels.shape[0] // MASK_PX), -(-pixels.shape[1] // MASK_PX)), bool),
            float(MASK_PX),
        )

    def in_tissue(self, xy: ndarray) -> ndarray:
        """(M,) bool: True for all positions (M, 2)."""
        return np.ones(len(xy), bool)

    def read(self, xy: tuple[int, int], size: tuple[int, int]) -> ndarray:
        """(h, w, 3) uint8 as in ``Image.read``, mirrored beyond the border."""
        (x, y), (width, height) = xy, size
        left = max(x, 0)
        top = max(y, 0)
        right = min(x + width, self.size_px[0])
        bottom = min(y + height, self.size_px[1])
        inside = self.pixels[top:bottom, left:right]
        if inside.shape[:2] == (height, width):
            return inside
        borders = top - y, y + height - bottom, left - x, x + width - right
        return np.pad(inside, (borders[:2], borders[2:], (0, 0)), "symmetric")


class WindowSampler:
    """Samples windows that are centred on tissue and, as far as possible, inside their image;
    images have the same mpp.

    Images are sampled in proportion to their tissue area, and positions uniformly over the tissue
    of an image.
    """

    def __init__(self, images: Sequence[Image], window_px: int):
        self.images, self.window_px = images, window_px
        self._cells = [
            (np.flatnonzero(mask), mask.shape[1], side)
            for mask, side in (image.tissue for image in images)
        ]
        area = np.array([len(cells) * side**2 for cells, _, side in self._cells], float)
        if not area.sum():
            raise StoreError(
                "no image has tissue to sample windows from; name slides or pictures that contain"
                " tissue"
            )
        self._share = area / area.sum()

    def __call__(self, n: int, generator: Generator) -> ndarray:
        """Sample ``n`` windows (n, S, S, 3) uint8 from the images."""
        chosen = generator.choice(len(self.images), n, p=self._share)
        return np.stack([self._cut(int(index), generator) for index in chosen])

    def _cut(self, index: int, generator: Generator) -> ndarray:
        image, (cells, columns, side) = self.images[index], self._cells[index]
        row, column = divmod(int(cells[generator.integers(len(cells))]), columns)
        centre = (np.array([column, row]) + generator.random(2)) * side
        last = np.maximum(np.array(image.size_px) - self.window_px, 0)
        x, y = np.floor(centre - self.window_px / 2).clip(0, last).astype(int).tolist()
        return image.read((x, y), (self.window_px, self.window_px))


@dataclass(eq=False)
class UnlabelledWindows:
    """Samples batches that depend only on their ``step``, so that a resumed run gets the same
    ones.
    """

    images: Sequence[Image]
    window_px: int
    batch: int
    seed: int
    device: torch.device

    def __post_init__(self) -> None:
        self.draw = WindowSampler(self.images, self.window_px)

    def __call__(self, step: int) -> Tensor:
        """The batch of ``step``: (B, 3, S, S) float, 0 to 255."""
        windows = self.draw(self.batch, np.random.default_rng(seed_of_step(self.seed, step)))
        return torch.from_numpy(windows).to(self.device).permute(0, 3, 1, 2).float()


MIN_TISSUE = 0.5  # minimum share of tissue in a tile


def list_tiles(image: Image, tile_px: int, whole: bool = False) -> ndarray:
    """(N, 2) upper left corners, px, of the tiles in a grid that are at least half tissue; with
    ``whole``, only of those inside the image.
    """
    mask, pixel_px = image.tissue
    columns, rows = (side // tile_px if whole else -(-side // tile_px) for side in image.size_px)
    if not columns or not rows:
        return np.zeros((0, 2), int)
    size = [max(1, round(number * tile_px / pixel_px)) for number in (rows, columns)]
    # Tiles at the right and at the bottom may extend beyond the mask, where there is no tissue.
    padded = np.zeros(size, np.float32)
    part = mask[: size[0], : size[1]]
    padded[: part.shape[0], : part.shape[1]] = part
    share = cv2.resize(padded, (columns, rows), interpolation=cv2.INTER_AREA)
    return np.argwhere(share >= MIN_TISSUE)[:, ::-1] * tile_px


# in names by ``cut_crops``
PATIENT_OF_CROP = r"(?:^picture-\d{5}-|^)(TCGA-\w\w-\w{4}|.+?(?=-\d{5}-\d+-\d+$|$))"


def cut_crops(image: Image, number: int, side_px: int, most: int) -> dict[str, ndarray]:
    """Cut an image into crops (h, w, 3) uint8, keyed by name: windows of a store, or a whole
    picture.

    ``number``, the index of the image in its run, makes the names unique. At most ``most`` windows
    of a store are cut, spread evenly over those that are at least half tissue.
    """
    if isinstance(image, Picture):
        return {f"picture-{number:05d}-{image.slide_id}": image.pixels}
    corners = list_tiles(image, side_px, whole=True)
    return {
        f"{image.slide_id}-{number:05d}-{x}-{y}": image.read((x, y), (side_px, side_px))
        for x, y in corners[spread_evenly(len(corners), most)].tolist()
    }

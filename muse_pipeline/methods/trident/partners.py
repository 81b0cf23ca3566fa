"""Partners of H&E images: data of the same tissue that are only needed in training.

A partner is a picture aligned pixel by pixel with its H&E image: a different stain, or outlines of
nuclei. It may cover only part of the image, or be missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from muse_pipeline.core.config import require_one
from muse_pipeline.core.coords import level0_to_work
from muse_pipeline.core.errors import ConfigError, LabelError, MppError, NucleiError, StoreError
from muse_pipeline.core.files import cache_name, complete_file
from muse_pipeline.core.pictures import PICTURE_SUFFIXES, read_rgb
from muse_pipeline.data.nucleus_images import (
    NucleusImage,
    NucleusIndex,
    NucleusSource,
)
from muse_pipeline.data.unlabelled import Picture
from muse_pipeline.data.views import ViewBatch, ViewBatches, ViewSet
from muse_pipeline.labels.nuclei_files import read_drawn, read_instances
from muse_pipeline.nuclei.parquet import read_nuclei, read_provenance
from muse_pipeline.nuclei.rays import rays_to_rings
from muse_pipeline.qupath.parse import GEOJSON_SUFFIXES
from muse_pipeline.registration.record import FAILED, read_outcome
from muse_pipeline.store.store import BACKGROUND, Store, open_store

MPP_TOLERANCE = 1e-3
# in units of a view's side
CORNERS = np.array([(0.5, 0.5), (0.1, 0.1), (0.9, 0.1), (0.1, 0.9), (0.9, 0.9)])


@dataclass(frozen=True)
class PartnerSource:
    """Partner of an H&E source: one of ``store``, ``images`` and ``nuclei``.

    Attributes:
        store: partner of a slide: a store with the size and mpp of the H&E store, from ``muse
            register``. Its tissue label marks where the partner may be used. A slide has no partner
            if partner.json records that its registration failed.
        images: partners of pictures: a folder of pictures with the same names and sizes. Pictures
            without a file have no partner.
        nuclei: outlines, rendered as a picture. For a slide: ``nuclei.parquet``,
            ``proposals.parquet`` or GeoJSON in level-0 px. For a folder of pictures: a folder of
            label images or GeoJSON with the pictures' names.
    """

    store: Path | None = None
    images: Path | None = None
    nuclei: Path | None = None

    def __post_init__(self) -> None:
        require_one(self, ("store", "images", "nuclei"), "partner")

    @property
    def location(self) -> Path:
        """The file or folder of the partner."""
        return self.store or self.images or self.nuclei


@dataclass(frozen=True)
class PairedSource(NucleusSource):
    """A ``NucleusSource`` of H&E tissue, a slide's ``store`` or a folder of ``images``, that may
    have a partner.

    Attributes:
        partner: partner of the images; if there is none, training uses only H&E views.
    """

    partner: PartnerSource | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.partner is None:
            return
        kind = require_one(self, ("store", "images", "labelled"), "a pretraining source")
        if self.partner.nuclei is None and getattr(self.partner, kind, None) is None:
            raise ConfigError(
                f"{self.partner.location}: cannot be the partner of a source of `{kind}`; a `store`"
                " takes a `store` or `nuclei`, and `images` take `images` or `nuclei`"
            )


# rays per outline; radius drawn for a point; maximum ray length
N_RAYS, POINT_UM, REACH_UM = 32, 3.0, 20.0
INSIDE, OUTLINE = (0, 160, 80), (0, 0, 0)  # colours on white; outlines separate touching nuclei
SUBPIXEL_BITS = 4
RAYS = "rays.npy"


@dataclass(frozen=True, eq=False)
class DrawnNuclei:
    """Outlines of nuclei, rendered as a picture window by window."""

    folder: Path  # folder that ``save`` wrote
    size_px: tuple[int, int]  # (width, height) of the H&E image
    mpp: float  # um per image px

    @staticmethod
    def save(
        folder: Path, xy: ndarray, rays: ndarray, size_px: tuple[int, int], mpp: float
    ) -> None:
        """Write outlines with centres (N, 2) in image px and rays (N, R) um into ``folder``,
        atomically.
        """
        index, order = NucleusIndex.build(xy, size_px, mpp)
        with complete_file(folder) as partial:
            partial.mkdir()
            index.write(partial)
            np.save(
                partial / RAYS,
                np.nan_to_num(rays[order], nan=POINT_UM).clip(max=REACH_UM).astype(np.float32),
            )

    def read(self, xy: tuple[int, int], size: tuple[int, int]) -> ndarray:
        """(h, w, 3) uint8 of ``size`` = (width, height) px with the corner ``xy``, rendered from
        the outlines.
        """
        canvas = np.full((size[1], size[0], 3), BACKGROUND, np.uint8)
        index = NucleusIndex.open(self.folder, self.size_px, self.mpp)
        margin = REACH_UM / self.mpp
        numbers, centres = index.inside(*np.subtract(xy, margin), *np.add(xy, size) + margin)
        rays = np.load(self.folder / RAYS, mmap_mode="r")[numbers]
        # OpenCV counts from pixel centres
        rings = rays_to_rings(centres - xy, rays, (self.mpp, self.mpp)) - 0.5
        points = list(np.round(rings * 2**SUBPIXEL_BITS).astype(np.int32))
        for ring in points:
            cv2.fillPoly(canvas, [ring], INSIDE, cv2.LINE_8, SUBPIXEL_BITS)
        cv2.polylines(canvas, points, True, OUTLINE, 1, cv2.LINE_8, SUBPIXEL_BITS)
        return canvas

    def in_tissue(self, xy: ndarray) -> ndarray:
        """(M,) bool: True for all positions (M, 2)."""
        return np.ones(len(xy), bool)


Partner = Store | Picture | DrawnNuclei  # may be used in its tissue


def open_partner(source: PartnerSource, image: NucleusImage, folder: Path) -> Partner | None:
    """Open the partner of an image; None if ``source`` has no file for the image, or its
    registration failed.

    Outlines are stored in the cache ``folder`` in a format that is fast to read.
    """
    if source.store is not None:
        return _open_store(source.store, image)
    if source.images is not None:
        return _open_picture(source.images, image)
    return _open_nuclei(source.nuclei, image, folder)


def _open_store(path: Path, image: NucleusImage) -> Store | None:
    if failure_of(path):
        return None
    store = open_store(path)
    if abs(store.mpp / image.mpp - 1) > MPP_TOLERANCE:
        raise MppError(
            f"{path}: is at {store.mpp:g} um/px, but the H&E store {image.image.path} is at"
            f" {image.mpp:g}; write the partner with `muse register` at the H&E store's mpp"
        )
    if store.size_px != image.size_px:
        raise StoreError(
            f"{path}: is {_size(store.size_px)} px, but the H&E store {image.image.path} is"
            f" {_size(image.size_px)} px, so it is not in the H&E slide's frame; write it with"
            " `muse register`"
        )
    mask, side = store.tissue
    rows, columns = np.nonzero(mask)
    if not image.image.in_tissue((np.stack([columns, rows], 1) + 0.5) * side).any():
        raise StoreError(f"{path}: covers no tissue of {image.image.path}; check the registration")
    return store


def failure_of(store: Path) -> str:
    """The reason why the registration of a partner's store failed; "" if it did not fail."""
    outcome = read_outcome(store.parent)
    return outcome["reason"] if outcome and outcome["status"] == FAILED else ""


def _open_picture(folder: Path, image: NucleusImage) -> Picture | None:
    path = _file_of(folder, image.name, tuple(PICTURE_SUFFIXES))
    if path is None:
        return None
    pixels = read_rgb(path)
    if pixels.shape[1::-1] != image.size_px:
        raise LabelError(
            f"{path}: is {_size(pixels.shape[1::-1])} px, but its H&E picture is"
            f" {_size(image.size_px)} px; give a partner of the same size"
        )
    return Picture(pixels)


def _open_nuclei(location: Path, image: NucleusImage, folder: Path) -> DrawnNuclei | None:
    is_slide = isinstance(image.image, Store)
    path = (
        location
        if is_slide
        else _file_of(location, image.name, (*GEOJSON_SUFFIXES, *PICTURE_SUFFIXES, ".npy"))
    )
    if path is None:
        return None
    if not path.is_file():
        raise NucleiError(f"{path}: no such file; correct `partner` in the config")
    kept = folder / cache_name(path, f"outlines {image.mpp} {image.size_px}")
    if not kept.is_dir():
        xy, rays = _read_outlines(path, image)
        inside = ((xy >= 0) & (xy < image.size_px)).all(1)
        if is_slide and not inside.any():
            raise NucleiError(
                f"{path}: none of its {len(xy)} nuclei lies in {image.name} ({_size(image.size_px)}"
                f" px at {image.mpp:g} um/px); give the nuclei of this slide, in level-0 px"
            )
        DrawnNuclei.save(kept, xy, rays, image.size_px, image.mpp)
    return DrawnNuclei(kept, image.size_px, image.mpp)


def _read_outlines(path: Path, image: NucleusImage) -> tuple[ndarray, ndarray]:
    """Read outlines as centres (N, 2) in image px and rays (N, R) in um."""
    if path.suffix == ".parquet":
        if read_provenance(path).fingerprint != image.image.fingerprint:
            raise NucleiError(
                f"{path}: contains nuclei of a slide other than {image.image.path}; correct one"
            )
        nuclei = read_nuclei(path)
        return level0_to_work(nuclei.xy, image.image.slide_mpp, image.mpp), nuclei.rays
    if not path.name.lower().endswith(GEOJSON_SUFFIXES):
        nuclei = read_instances(path, image.size_px, image.mpp, N_RAYS).nuclei
    elif isinstance(image.image, Store):
        nuclei = read_drawn(path, image.image.slide_mpp, N_RAYS).nuclei
        nuclei.xy = level0_to_work(nuclei.xy, image.image.slide_mpp, image.mpp)
    else:
        nuclei = read_drawn(path, (image.mpp, image.mpp), N_RAYS).nuclei
    return nuclei.xy, nuclei.rays


def _file_of(folder: Path, stem: str, suffixes: tuple[str, ...]) -> Path | None:
    """The file of a picture's partner, named ``stem`` with one of ``suffixes``; None if there is
    none.
    """
    if not folder.is_dir():
        raise LabelError(f"{folder}: no such folder of partners; correct `partner` in the config")
    return next(
        (path for suffix in suffixes if (path := folder / f"{stem}{suffix}").is_file()), None
    )


def _size(size_px: Sequence[int]) -> str:
    return f"{size_px[0]} x {size_px[1]}"


class PartnerBatch(NamedTuple):
    """The partners of B sets of views, cut like the first global view of each set."""

    image: Tensor  # pixels (K, 3, R, R) uint8 of the K sets with a partner
    image_known: Tensor  # (B,) bool, True for the K sets with a partner
    # (B, M) bool, True for nuclei in both global views that the partner covers
    nuclei_known: Tensor


class PairBatch(NamedTuple):
    """B sets of views, and their partners."""

    # H&E views; entry 0 of ``teacher_xy``, ``student_xy`` and ``shared`` is for the pair of global
    # views
    views: ViewBatch
    partner: PartnerBatch  # partners of the views


class PairBatches:
    """Batches of views with their partners (None for images without one); each batch depends only
    on its index.

    A partner is cut, scaled, mirrored and rotated like the first global view; its colours are not
    varied.
    """

    def __init__(
        self, views: ViewBatches, images: Sequence[NucleusImage], partners: Sequence[Partner | None]
    ):
        self.views = views
        self._partner = {image: partner for image, partner in zip(images, partners, strict=True)}

    def __call__(self, number: int) -> PairBatch:
        """The batch whose index is ``number``."""
        views, sets = self.views.draw(number)
        return PairBatch(
            views, self._read_partners(sets, views.teacher_xy[0].numpy(), views.shared[0].numpy())
        )

    def _read_partners(self, sets: Sequence[ViewSet], xy: ndarray, shared: ndarray) -> PartnerBatch:
        cut = []
        has_partner = np.zeros(len(sets), bool)
        at_nuclei = np.zeros_like(shared)
        for number, view_set in enumerate(sets):
            partner = self._partner[view_set.image]
            view = view_set.views[0]
            if partner is None:
                continue
            # The centre and four points near the corners represent the whole view.
            has_partner[number] = partner.in_tissue(view.source_xy(CORNERS * view.size_px)).all()
            if has_partner[number]:
                cut.append(view.cut(partner))
                at_nuclei[number] = shared[number] & partner.in_tissue(view.source_xy(xy[number]))
        side = sets[0].views[0].size_px
        pixels = torch.from_numpy(np.stack(cut) if cut else np.zeros((0, side, side, 3), np.uint8))
        return PartnerBatch(
            pixels.permute(0, 3, 1, 2), torch.from_numpy(has_partner), torch.from_numpy(at_nuclei)
        )

"""The mask of tissue: the whole slide at about 8 um per pixel, with the region of interest if there
is one.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from muse_pipeline.core.errors import StoreError
from muse_pipeline.core.files import complete_file
from muse_pipeline.core.text import one_line
from muse_pipeline.core.types import Slide, SlideInfo
from muse_pipeline.slides.mpp import is_square
from muse_pipeline.tissue.background import ScannedSlide

KEEP_UM = 16.0  # nuclei this close to the mask are kept, since its border is not exact


@dataclass(frozen=True, eq=False)
class KeptArea:
    """The area where nuclei are kept: a bit mask that is looked up for every nucleus."""

    bits: np.ndarray  # (h, ceil(w / 8)) uint8, a bit for each pixel, the highest bit leftmost
    width: int  # width of the mask in pixels
    mask_mpp: np.ndarray  # (2,) float64, exact um per mask pixel in x and y
    roi: BaseGeometry | None  # polygon or multipolygon in absolute level-0 px, or None
    roi_file: dict[str, Any] | None = None  # origin of the ROI, as in ``TissueMask``
    tissue_sha256: str | None = None  # checksum of the mask, as in ``TissueMask``

    @property
    def area_mm2(self) -> float:
        """Area of the mask."""
        return float(np.bitwise_count(self.bits).sum() * np.prod(self.mask_mpp) / 1e6)

    def contains(self, xy_level0: np.ndarray, slide_mpp: tuple[float, float]) -> np.ndarray:
        """(N,) bool: True for positions (N, 2), in absolute level-0 px, within 16 um of tissue and
        inside any ROI.

        The mask counts as one pixel wider and higher than it is, since a slide's smaller levels are
        truncated to whole pixels.
        """
        xy = np.asarray(xy_level0, float).reshape(-1, 2)
        column, row = np.floor(xy * (np.asarray(slide_mpp) / self.mask_mpp)).astype(int).T
        height = len(self.bits)
        is_near = (column >= 0) & (row >= 0) & (column <= self.width) & (row <= height)
        row, column = row.clip(0, height - 1), column.clip(0, self.width - 1)
        kept = is_near & (self.bits[row, column >> 3] << (column & 7) & 128 > 0)
        if self.roi is not None:
            kept &= shapely.contains_xy(self.roi, xy[:, 0], xy[:, 1])
        return kept

    def crop(self, low: np.ndarray, high: np.ndarray, beyond: int = 0) -> np.ndarray:
        """The pixels (h, w) uint8 of the mask from (x, y) ``low`` to ``high``, with the value
        ``beyond`` outside it.
        """
        left, top = np.maximum(low, 0)
        right, bottom = np.minimum(high, (self.width, len(self.bits)))
        bits = self.bits[top:bottom, left // 8 : -(-right // 8)]
        mask = np.unpackbits(bits, axis=1)[:, left % 8 :][:, : right - left]
        margins = [(top - low[1], high[1] - bottom), (left - low[0], high[0] - right)]
        return np.pad(mask, margins, constant_values=beyond)


@dataclass(frozen=True, eq=False)
class RoiAnnotation:
    """One area of a region of interest, with its name and class in QuPath; the class is None if it
    has none.

    The geometry, a polygon or multipolygon on the slide, is in absolute level-0 px; ``tissue_mm2``
    is the area of tissue in it.
    """

    name: str
    class_name: str | None
    geometry: BaseGeometry
    area_mm2: float
    tissue_mm2: float

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary."""
        return vars(self) | {"geometry": shapely.to_wkb(self.geometry, hex=True)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RoiAnnotation:
        """The inverse of ``to_dict``."""
        return cls(**{**values, "geometry": shapely.from_wkb(values["geometry"])})


@dataclass(frozen=True, eq=False)
class TissueMask:
    """Tissue of one slide."""

    # (h, w) bool over the whole of level 0, from its top left corner; False outside the ROI, if any
    mask: np.ndarray
    mask_mpp: np.ndarray  # (2,) float64, exact um per mask pixel in x and y
    roi: BaseGeometry | None  # polygon or multipolygon in absolute level-0 px, or None
    area_mm2: float  # area of the tissue within the ROI
    roi_file: dict[str, Any] | None = (
        None  # origin of the ROI, from ``qupath.regions.describe_roi``, or None
    )
    fingerprint: str | None = None  # the slide's checksum; None in older files
    slide_mpp: tuple[float, float] | None = None  # (x, y) um per level-0 pixel; None in older files
    annotations: tuple[RoiAnnotation, ...] = ()  # the areas of the ROI with their measurements
    unscanned: np.ndarray | None = (
        None  # (h, w) bool, True where the slide was not scanned and is black, if anywhere
    )

    @property
    def is_empty(self) -> bool:
        """True if there is no tissue at all."""
        return not self.mask.any()

    @property
    def dilated(self) -> np.ndarray:
        """(h, w) bool: the mask grown by the 16 um within which nuclei are kept."""
        return dilate(self.mask, self.mask_mpp, KEEP_UM)

    @cached_property
    def kept(self) -> KeptArea:
        """The area where nuclei are kept, within the ROI."""
        bits = np.packbits(self.dilated, axis=1)
        return KeptArea(
            bits, self.mask.shape[1], self.mask_mpp, self.roi, self.roi_file, self.sha256
        )

    @cached_property
    def sha256(self) -> str:
        """Checksum of everything that results depend on: the mask, the size of its pixels and the
        ROI.
        """
        digest = hashlib.sha256(json.dumps([self.mask.shape, self.mask_mpp.tolist()]).encode())
        digest.update(np.packbits(self.mask))
        digest.update(b"" if self.roi is None else shapely.to_wkb(self.roi))
        digest.update(b"" if self.unscanned is None else np.packbits(self.unscanned))
        return digest.hexdigest()

    def scanned(self, slide: Slide, info: SlideInfo) -> Slide:
        """The slide, white where it was not scanned."""
        return (
            slide
            if self.unscanned is None
            else ScannedSlide(slide, info, self.unscanned, self.mask_mpp)
        )

    def save(self, path: Path | str) -> None:
        """Write ``tissue.npz``."""
        roi = np.frombuffer(b"" if self.roi is None else shapely.to_wkb(self.roi), np.uint8)
        with complete_file(path) as partial, partial.open("wb") as file:
            optional = {} if self.roi_file is None else {"roi_file": json.dumps(self.roi_file)}
            if self.fingerprint is not None:
                optional |= {"fingerprint": self.fingerprint, "slide_mpp": self.slide_mpp}
            if self.annotations:
                optional["annotations"] = json.dumps([area.to_dict() for area in self.annotations])
            if self.unscanned is not None:
                optional["unscanned"] = self.unscanned
            np.savez_compressed(
                file,
                mask=self.mask,
                mask_mpp=self.mask_mpp,
                roi=roi,
                area_mm2=self.area_mm2,
                **optional,
            )

    @classmethod
    def load(cls, path: Path | str, info: SlideInfo | None = None) -> TissueMask:
        """Read ``tissue.npz`` and, with ``info``, require that it belongs to that slide."""
        try:
            with np.load(path) as arrays:
                values = {
                    name: arrays[name]
                    for name in ("mask", "mask_mpp", "unscanned")
                    if name in arrays
                }
                values |= {
                    name: json.loads(str(arrays[name]))
                    for name in ("roi_file", "annotations")
                    if name in arrays
                }
                values["roi"] = (
                    shapely.from_wkb(arrays["roi"].tobytes()) if arrays["roi"].size else None
                )
                values["area_mm2"] = float(arrays["area_mm2"])
                if "fingerprint" in arrays:
                    values["fingerprint"] = str(arrays["fingerprint"])
                    values["slide_mpp"] = tuple(arrays["slide_mpp"].astype(float).tolist())
            annotations = tuple(map(RoiAnnotation.from_dict, values.pop("annotations", ())))
            tissue = cls(**values, annotations=annotations)
            tissue.require_sound()
        except (
            Exception
        ) as error:  # NumPy, zipfile and GEOS may raise any exception on foreign bytes
            raise StoreError(
                f"{path}: not a readable tissue mask ({one_line(error)[:200]}); run `muse step"
                " tissue` again"
            ) from error
        if info is None:
            return tissue
        if tissue.fingerprint not in {None, info.fingerprint}:
            raise StoreError(
                f"{path}: belongs to a slide other than '{info.slide_id}'; run `muse step tissue`"
                " for that slide"
            )
        if tissue.slide_mpp not in {None, tuple(info.mpp)}:
            raise StoreError(
                f"{path}: made for {list(tissue.slide_mpp)} um/px of slide '{info.slide_id}', which"
                f" now has {list(info.mpp)} um/px; run `muse step tissue` again"
            )
        return tissue

    def require_sound(self) -> None:
        """Require that a file contained a valid mask."""
        kinds = (
            self.mask.dtype == bool,
            self.mask.ndim == 2,
            self.mask.size > 0,
            self.mask_mpp.shape == (2,),
        )
        if self.unscanned is not None:
            kinds = *kinds, self.unscanned.dtype == bool, self.unscanned.shape == self.mask.shape
        if not all(kinds) or not all(
            0 < side < np.inf for side in (*self.mask_mpp, self.area_mm2 + 1)
        ):
            raise ValueError("an array has the wrong type, shape or values")


def dilate(mask: np.ndarray, mask_mpp: np.ndarray, radius_um: float) -> np.ndarray:
    """Grow a (h, w) bool mask by ``radius_um`` in every direction, to the nearest pixel."""
    radius_um = radius_um + np.min(mask_mpp) / 4
    reach = np.floor(radius_um / np.asarray(mask_mpp)).astype(int)
    x, y = np.meshgrid(*(np.arange(-n, n + 1) for n in reach))
    disc = (x * mask_mpp[0]) ** 2 + (y * mask_mpp[1]) ** 2 <= radius_um**2
    pixels = np.ascontiguousarray(mask, bool).view(
        np.uint8
    )  # a view, since masks of large slides are large
    return cv2.dilate(
        pixels, disc.astype(np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0
    ).view(bool)


def measure_depth(mask: np.ndarray, mask_mpp: np.ndarray) -> np.ndarray:
    """(h, w) distance in um from each pixel of a (h, w) uint8 mask to the nearest pixel that is
    0.
    """
    if is_square(tuple(mask_mpp)):
        distance = cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        # OpenCV's square roots depend on the position.
        return np.sqrt(np.rint(distance.astype(float) ** 2)) * mask_mpp.mean()
    from scipy.ndimage import (
        distance_transform_edt,
    )  # takes time, and most slides have square pixels

    framed = np.pad(mask, 1)  # SciPy needs a pixel that is 0
    return distance_transform_edt(framed, sampling=mask_mpp[::-1])[1:-1, 1:-1]


@dataclass(frozen=True, eq=False)
class RoiArea:
    """An annotated area: its name and class in QuPath, None if it has none, and a polygon or
    multipolygon.

    It is ignored if its class is "Ignore"; the colour (r, g, b) is that of its class.
    """

    name: str | None
    class_name: str | None
    shape: BaseGeometry
    is_ignored: bool
    color: tuple[int, int, int] = (128, 128, 128)

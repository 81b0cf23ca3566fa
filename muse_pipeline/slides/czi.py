"""Zeiss CZI slides that OpenSlide does not read, read with Zeiss' own library ``pylibCZIrw`` (extra
``czi``).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from muse_pipeline.core.errors import MissingPackageError, SlideError
from muse_pipeline.core.text import one_line
from muse_pipeline.slides.base import (
    READERS,
    NearlyReadError,
    OtherFormatError,
    SlideProperties,
    SlideReader,
    keep_upper,
    used_bits,
)
from muse_pipeline.slides.mpp import MppCandidate, mpp_from_values
from muse_pipeline.slides.signature import file_format

LEAST_PX = 256  # minimum side of a reduced level
COLOURS = {"Bgr24", "Bgr48", "Bgra32"}


@READERS.register("czi")
class CziReader(SlideReader):
    """A slide open in pylibCZIrw: the mosaic of all its scenes, white between them.

    The library reads at any scale, from the file's pyramid if it has one; here, each level is half
    the previous one.
    """

    name = "czi"
    priority = 3

    def __init__(self, path: Path):
        self.path = path
        if file_format(path) != "CZI":
            raise OtherFormatError("not a CZI file")
        try:
            from pylibCZIrw.czi import CziReader as Document
        except ModuleNotFoundError as error:
            raise MissingPackageError(
                f"{path}: a Zeiss CZI slide needs the package pylibCZIrw; install the extra `czi`,"
                " or export the slide as OME-TIFF"
            ) from error
        try:
            self._document = Document(str(path))
            _require_one_colour_picture(path, self._document)
            # around all scenes, in stage pixels
            box = self._document.total_bounding_rectangle_no_pyramid
            self._corner = box.x, box.y
            self.properties = _read_properties(self._document, (box.w, box.h))
            self._kind = "Bgr48" if "Bgr48" in self._document.pixel_types.values() else "Bgr24"
            if self._kind == "Bgr48":
                level, size = max(enumerate(self.properties.level_sizes_px))
                self._bits = used_bits(self._read_stored((0, 0), level, size))
        except RuntimeError as error:  # the only exception that the library raises
            raise NearlyReadError(f"pylibCZIrw: {one_line(error)}") from error

    def read_inside(self, xy_px: tuple[int, int], level: int, size: tuple[int, int]) -> np.ndarray:
        """Read pixels of a level, as described in ``SlideReader``."""
        pixels = self._read_stored(xy_px, level, size)
        return pixels if self._kind == "Bgr24" else keep_upper(pixels, self._bits)

    def _read_stored(self, xy_px: tuple[int, int], level: int, size: tuple[int, int]) -> np.ndarray:
        (width, height), step = size, 1 << level
        x, y = (corner + step * at for corner, at in zip(self._corner, xy_px, strict=True))
        try:
            pixels = self._document.read(
                roi=(x, y, width * step, height * step),
                zoom=1 / step,
                pixel_type=self._kind,
                background_pixel=(1.0, 1.0, 1.0),
            )
        except RuntimeError as error:
            where = f"{self.path}: level {level} at {xy_px}"
            raise SlideError(
                f"{where} cannot be read ({error}); copy the slide again from its source"
            ) from error
        return pixels[:height, :width, ::-1]

    def close(self) -> None:
        """Release the file."""
        self._document.close()


def _require_one_colour_picture(path: Path, document) -> None:
    kinds = set(document.pixel_types.values())
    sizes = document.total_bounding_box
    if len(document.pixel_types) > 1 or not kinds <= COLOURS:
        raise SlideError(
            f"{path}: has {len(document.pixel_types)} channels of {', '.join(sorted(kinds))}, not"
            " one in colour; export the bright-field picture as a slide"
        )
    for name, what in (("Z", "focal planes"), ("T", "time points")):
        if (n := sizes.get(name, (0, 1))[1]) > 1:
            raise SlideError(f"{path}: has {n} {what}; export one of them as a slide")


def _read_properties(document, size: tuple[int, int]) -> SlideProperties:
    n_levels = max(1, (min(size) // LEAST_PX).bit_length())
    sizes = tuple(tuple(-(-side >> level) for side in size) for level in range(n_levels))
    scenes = document.scenes_bounding_rectangle_no_pyramid
    warnings = (f"its {len(scenes)} scenes are read as one picture; QuPath opens each separately",)
    return SlideProperties(
        vendor="zeiss",
        level_sizes_px=sizes,
        level_downsamples=tuple((float(1 << level),) * 2 for level in range(n_levels)),
        mpp_candidates=tuple(filter(None, (_stated_mpp(document),))),
        warnings=warnings if len(scenes) > 1 else (),
    )


def _stated_mpp(document) -> MppCandidate | None:
    metadata = document.metadata.get("ImageDocument", {}).get("Metadata", {})
    distances = ((metadata.get("Scaling") or {}).get("Items") or {}).get("Distance") or []
    metres = {
        side.get("@Id"): side.get("Value")
        for side in (distances if isinstance(distances, list) else [distances])
    }
    try:
        sides = [1e6 * float(metres[axis]) for axis in "XY"]
    except (KeyError, TypeError, ValueError):
        return None
    return mpp_from_values(*sides, "CZI scaling")

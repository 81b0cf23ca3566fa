"""Readers from other packages, with OpenSlide's interface: entry points of the group of
``READERS`` that refer to a class.

An entry point is named after the reader, and its class is like OpenSlide's, which is called
with a path and has ``level_dimensions``, ``level_downsamples``, ``properties``, ``close()``, and
``read_region(location, level, size)`` with a location in level-0 pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from muse_pipeline.core.errors import SlideError
from muse_pipeline.core.text import one_line
from muse_pipeline.slides.base import (
    READERS,
    NearlyReadError,
    SlideProperties,
    SlideReader,
    UnsuitedError,
    exact_downsamples,
    rgb_on_white,
)
from muse_pipeline.slides.mpp import mpp_from_objective, mpp_from_values

PROBE_PX = 64
SAME_DOWNSAMPLE = 0.02  # maximum relative difference between stated and measured downsamples


class PackageReader(SlideReader):
    """A slide opened by a class from another package."""

    priority = 4
    load: ClassVar[Callable[[], Any]]

    def __init__(self, path: Path):
        self.path = path
        try:
            self._slide = self.load()(str(path))
        except Exception as error:  # other packages may raise any exception
            raise UnsuitedError(f"{self.name}: {one_line(error)}") from error
        try:
            self.properties = self._read_properties()
        except Exception as error:
            raise NearlyReadError(
                f"{self.name}: its properties cannot be read ({one_line(error)})"
            ) from error
        self._require_true_levels()

    def _read_properties(self) -> SlideProperties:
        values = dict(self._slide.properties)
        sizes = tuple((int(width), int(height)) for width, height in self._slide.level_dimensions)
        candidates = (
            mpp_from_values(
                values.get("openslide.mpp-x"), values.get("openslide.mpp-y"), "openslide.mpp-x"
            ),
            mpp_from_objective(values.get("openslide.objective-power")),
        )
        return SlideProperties(
            vendor=str(values.get("openslide.vendor", self.name)),
            level_sizes_px=sizes,
            level_downsamples=exact_downsamples(sizes),
            mpp_candidates=tuple(filter(None, candidates)),
        )

    def _require_true_levels(self) -> None:
        """Reject levels whose sizes, downsamples and pixels contradict each other."""
        sizes = self.properties.level_sizes_px
        stated = list(self._slide.level_downsamples)
        if not sizes or len(stated) != len(sizes):
            raise NearlyReadError(
                f"{self.name}: reports {len(sizes)} level sizes, but {len(stated)} downsamples"
            )
        for level, (size, downsample) in enumerate(zip(sizes, stated, strict=True)):
            own = np.mean(self.properties.level_downsamples[level])
            if abs(downsample / own - 1) > SAME_DOWNSAMPLE:
                raise NearlyReadError(
                    f"{self.name}: level {level} is {own:g} times smaller, not {downsample:g} times"
                )
            probe = tuple(min(PROBE_PX, side) for side in size)
            if (shape := self._samples((0, 0), level, probe).shape[1::-1]) != probe:
                raise NearlyReadError(
                    f"{self.name}: a read of {probe} px of level {level} returns {shape} px"
                )

    def _samples(self, xy_level0: tuple[int, int], level: int, size: tuple[int, int]) -> np.ndarray:
        return np.asarray(self._slide.read_region(xy_level0, level, size))

    def read_inside(self, xy_px: tuple[int, int], level: int, size: tuple[int, int]) -> np.ndarray:
        """Read pixels of a level, as described in ``SlideReader``."""
        at = tuple(
            round(x * own)
            for x, own in zip(xy_px, self.properties.level_downsamples[level], strict=True)
        )
        try:
            samples = self._samples(at, level, size)
        except Exception as error:
            where = f"{self.path}: level {level} at {xy_px}"
            raise SlideError(
                f"{where} cannot be read by {self.name} ({one_line(error)}); copy the slide again"
            ) from error
        return rgb_on_white(samples)

    def close(self) -> None:
        """Release the file."""
        self._slide.close()


for _point in entry_points(group=READERS.group):
    if _point.attr:  # otherwise a module, which registers a reader of its own
        READERS.register(_point.name)(
            type(_point.name, (PackageReader,), {"name": _point.name, "load": _point.load})
        )

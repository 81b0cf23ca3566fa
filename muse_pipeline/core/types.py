"""Types and lists of choices that several subpackages share."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, runtime_checkable

from muse_pipeline.core.config import Count, OneOf, Positive, parse_config
from muse_pipeline.core.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np


# annotation of parameters of steps and verbs: a file or folder that is written
Written = Path
GEOJSON_FRAMES = ("qupath", "openslide")  # see ``coords.qupath_offset_px``
ACCELERATORS = ("auto", "cpu", "cuda", "mps")  # devices for training
PROVIDERS = ("auto", "cpu", "cuda", "tensorrt", "openvino", "torch", "torch-cpu")  # for inference
MODEL_PRECISIONS = ("fp32", "fp16", "int8")  # types of weights and activations of exported models
ModelPrecision = Annotated[str, OneOf(MODEL_PRECISIONS)]
# kind of third-party networks that compute a vector for a tile (see ``inference.encoder``)
ENCODER = "encoder"
# how the input of these networks is scaled
SCALINGS = ("none", "unit", "symmetric", "imagenet", "percentile")
FEATURE_SETS = ("none", "basic", "all")  # see ``features.catalogue``
# findings that leave numbers of a slide out of totals (see ``inference.trust``)
DOUBTS = ("stain", "scale", "same", "classes", "regions", "membranes")
# values of the column ``quality`` (see ``inference.artefacts``)
ARTEFACTS = ("blurred", "fold", "bubble", "ink")
# artefacts that totals leave out by default: the others are also found in sound tissue
LEFT_OUT = ("blurred",)
# minimum optical densities (base 10) of DAB for 1+, 2+ and 3+: QuPath's defaults
INTENSITIES_OD = (0.2, 0.4, 0.6)
# Built-in models by `mode`; None if no mode is given, so that any model may be.
MODEL_OF_MODE = {None: "compact", "supervised": "compact", "label-free": "label_free"}
# value of the setting `regions` for tissue regions from the classes of the nuclei
FROM_NUCLEI = "nuclei"
# class of nuclei in lower case -> tissue that is mapped from them
TISSUES = {"epithelial": "Epithelium", "lymphocyte": "Lymphoid"}


class Frame(StrEnum):
    """Frame of a position (see ``coords``)."""

    LEVEL0 = "level0"
    WORK = "work"
    WINDOW = "window"


@dataclass(frozen=True)
class NucleusClass:
    """A class of nuclei.

    Attributes:
        name: name in QuPath.
        color: (red, green, blue), 0 to 255.
    """

    name: str
    color: tuple[int, int, int]

    def __post_init__(self) -> None:
        if not all(0 <= part <= 255 for part in self.color):
            raise ConfigError(
                f"class '{self.name}': color {self.color} is not (r, g, b); give numbers from 0"
                " to 255"
            )


@dataclass(frozen=True)
class Bounds:
    """Non-empty rectangle declared by the scanner, in absolute level-0 pixels."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class SlideInfo:
    """Header of a slide, the content of ``slide.json``.

    Attributes:
        slide_id: name of the slide in the sheet, unique in its cohort.
        path: slide file.
        reader: name of the reader that opens it.
        vendor: maker of the scanner as reported by the reader, or "unknown".
        size_px: (width, height) of level 0.
        mpp: (x, y) size of a level-0 pixel in um.
        mpp_source: description of where ``mpp`` comes from.
        level_sizes_px: (width, height) of every level, level 0 first.
        level_downsamples: (x, y) number of level-0 pixels per pixel, for every level.
        bounds: non-empty rectangle declared by the scanner, or None.
        fingerprint: a cheap checksum of the file's content.
        warnings: sentences for the report.
    """

    slide_id: str
    path: str
    reader: str
    vendor: str
    size_px: tuple[Count, Count]
    mpp: tuple[Positive, Positive]
    mpp_source: str
    level_sizes_px: tuple[tuple[Count, Count], ...]
    level_downsamples: tuple[tuple[Positive, Positive], ...]
    fingerprint: str
    bounds: Bounds | None = None
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SlideInfo:
        """Inverse of ``to_dict``."""
        info = parse_config(values, cls, "slide")
        if not info.level_sizes_px or len(info.level_sizes_px) != len(info.level_downsamples):
            raise ConfigError(
                "slide: there is no level, or the numbers of sizes and downsamples differ"
            )
        return info

    @property
    def scanned_box(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom, in level-0 pixels, of what QuPath shows: the scanner's
        bounds or level 0.
        """
        if self.bounds is None:
            return (0, 0, *self.size_px)
        right = self.bounds.x + self.bounds.width
        bottom = self.bounds.y + self.bounds.height
        return (
            max(self.bounds.x, 0),
            max(self.bounds.y, 0),
            min(right, self.size_px[0]),
            min(bottom, self.size_px[1]),
        )

    @property
    def area_mm2(self) -> float:
        """Area of level 0 in mm2."""
        return self.size_px[0] * self.mpp[0] * self.size_px[1] * self.mpp[1] / 1e6


@runtime_checkable
class Slide(Protocol):
    """An open slide, which several threads may read at once; each reader is a plug-in, one file in
    ``slides/``.
    """

    path: Path

    def read_region(
        self, xy_level0: tuple[int, int], level: int, size: tuple[int, int]
    ) -> np.ndarray:
        """Read ``size`` = (width, height) pixels of ``level`` whose corner is at ``xy_level0``
        (absolute level-0 px).

        The result is (h, w, 3) uint8 RGB; transparent pixels, and those outside the image, are
        white.
        """

    def close(self) -> None:
        """Release the file."""

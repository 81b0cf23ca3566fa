"""Detections imported as proposals: GeoJSON with outlines or points, label images, and CSV with
points.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy import ndarray

from muse_pipeline.core.config import Between, OneOf
from muse_pipeline.core.coords import GEOJSON_FRAMES, level0_to_work, qupath_offset_px
from muse_pipeline.core.errors import ConfigError, LabelError
from muse_pipeline.core.files import sha256_of
from muse_pipeline.core.types import Frame, SlideInfo
from muse_pipeline.labels.nuclei_files import (
    MASK_SUFFIXES,
    TABLE_SUFFIXES,
    ObjectRules,
    read_drawn,
    read_points,
)
from muse_pipeline.nuclei.masks import label_image_to_nuclei, read_label_image, require_nuclei
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.proposals import PROPOSERS
from muse_pipeline.proposals.base import N_RAYS, Proposer, SlideSample, proposer_facts
from muse_pipeline.qupath.parse import GEOJSON_SUFFIXES

PACKAGES = ("muse-pipeline", "numpy", "shapely")
# largest relative difference between the aspect ratios of a label image and its slide
SAME_SHAPE = 0.01
UNITS = ("px", "um")
SLIDE = "{slide}"


@dataclass(frozen=True)
class ImportSettings:
    """Settings of the import.

    Attributes:
        file: path of the slide's detections; ``{slide}`` stands for the slide's id.
        unit: unit of positions in CSV files: "px" for level-0 pixels, or "um" from the corner of
            level 0.
        x: name of the column with x in CSV files.
        y: name of the column with y in CSV files.
        frame: frame of positions in GeoJSON: "qupath", or "openslide" for absolute level-0 pixels.
        radius_um: radius of the circle that is given to a nucleus without an outline.
    """

    file: str
    unit: Annotated[str, OneOf(UNITS)] = "px"
    x: str = "x"
    y: str = "y"
    frame: Annotated[str, OneOf(GEOJSON_FRAMES)] = "qupath"
    radius_um: Annotated[float, Between(0.5, 20)] = 4.0

    def __post_init__(self) -> None:
        if SLIDE not in self.file and (word := re.search(r"\{.*?\}", self.file)):
            raise ConfigError(
                f"imported: unknown field {word[0]} in 'file'; write {SLIDE} for the slide's id"
            )


@PROPOSERS.register("imported")
@dataclass(frozen=True, eq=False)
class ImportedNuclei(Proposer):
    """Returns the nuclei that a file contains in each window."""

    Settings = ImportSettings
    name, is_guarded = "imported", False

    settings: ImportSettings  # settings of the import
    nuclei: Nuclei  # all nuclei of the file (frame: work), sorted by y
    sha256: str  # checksum of the file

    @classmethod
    def fit(cls, sample: SlideSample, settings: ImportSettings) -> ImportedNuclei:
        """Read the slide's file."""
        if sample.info is None:
            raise ConfigError(
                "imported: positions on a slide cannot be located without the slide's `slide.json`"
            )
        path = Path(settings.file.replace(SLIDE, sample.info.slide_id))
        if not path.is_file():
            raise LabelError(
                f"{path}: no such file of detections for slide '{sample.info.slide_id}'; correct"
                " `file`"
            )
        nuclei = read_foreign(path, settings, sample.info)
        nuclei = Nuclei(
            level0_to_work(nuclei.xy, sample.info.mpp, sample.mpp),
            Frame.WORK,
            rays=_with_outlines(nuclei.rays, settings.radius_um),
            label=np.zeros(len(nuclei)),
            score=np.clip(np.nan_to_num(nuclei.score, nan=1.0), 1e-6, 1),
            prob=np.ones((len(nuclei), 1)),
        )
        nuclei = nuclei[np.lexsort((nuclei.xy[:, 0], nuclei.xy[:, 1]))]
        return cls(sample.mpp, settings, nuclei, sha256_of(path))

    def __call__(self, pixels: ndarray, origin_xy: ndarray) -> list[Nuclei]:
        """The nuclei in the windows at ``origin_xy``, highest score first; ``pixels`` are
        ignored.
        """
        return [self._inside(np.asarray(origin, float)) for origin in origin_xy]

    def _inside(self, origin: ndarray) -> Nuclei:
        low, high = np.searchsorted(
            self.nuclei.xy[:, 1], (origin[1], origin[1] + self.card.input_px)
        )
        rows = self.nuclei[low:high]
        rows = rows[(rows.xy[:, 0] >= origin[0]) & (rows.xy[:, 0] < origin[0] + self.card.input_px)]
        rows = rows[np.argsort(-rows.score, kind="stable")]
        columns = {name: getattr(rows, name) for name in ("rays", "label", "score", "prob")}
        return Nuclei(rows.xy - origin, Frame.WINDOW, **columns)

    def facts(self) -> dict[str, Any]:
        """Settings of the import and checksum of the file."""
        proposer = {
            "method": "imported",
            "settings": asdict(self.settings),
            "file_sha256": self.sha256,
        }
        return proposer_facts(proposer, None, PACKAGES)


def read_foreign(path: Path, settings: ImportSettings, info: SlideInfo) -> Nuclei:
    """All nuclei in a file (frame: level0), but no annotated areas; nuclei without an outline have
    rays of 0.

    A label image must show the whole slide, at any resolution.
    """
    name = path.name.lower()
    if name.endswith(MASK_SUFFIXES):
        return _read_label_image(path, info)
    if name.endswith(GEOJSON_SUFFIXES):
        offset_px = qupath_offset_px(info.bounds, settings.frame)
        rules = ObjectRules(by_program=True)
        nuclei = read_drawn(path, info.mpp, N_RAYS, offset_px=offset_px, rules=rules).nuclei
    elif name.endswith(TABLE_SUFFIXES):
        columns = (settings.x, settings.y)
        remedy = "give the columns' names as `x` and `y`"
        nuclei = read_points(path, columns, n_rays=N_RAYS, unit=settings.unit, remedy=remedy).nuclei
        nuclei.xy /= np.asarray(info.mpp) if settings.unit == "um" else 1
    else:
        suffixes = ", ".join((*GEOJSON_SUFFIXES, *MASK_SUFFIXES, *TABLE_SUFFIXES))
        raise ConfigError(
            f"{path}: not one of the formats {suffixes}; export the detections in one of them"
        )
    return replace(nuclei, rays=np.nan_to_num(nuclei.rays))


def read_nuclei_of_others(path: Path, info: SlideInfo) -> Nuclei:
    """All nuclei of a file (frame: level0), sorted by y; those without an outline get a circle."""
    settings = ImportSettings(str(path))
    nuclei = read_foreign(path, settings, info)
    outside = np.flatnonzero(((nuclei.xy < 0) | (nuclei.xy >= info.size_px)).any(1))
    if len(outside):
        x, y = nuclei.xy[outside[0]]
        raise LabelError(
            f"{path}: {len(outside):,} of {len(nuclei):,} nuclei lie outside the slide of"
            f" {info.size_px[0]:,} x {info.size_px[1]:,} px, the first at ({x:.0f}, {y:.0f}); give"
            " positions in level-0 pixels of this slide"
        )
    columns = {
        "rays": _with_outlines(nuclei.rays, settings.radius_um),
        "label": np.zeros(len(nuclei), np.int32),
    }
    return Nuclei(nuclei.xy, Frame.LEVEL0, **columns)[np.lexsort(nuclei.xy.T)]


def _read_label_image(path: Path, info: SlideInfo) -> Nuclei:
    instances = read_label_image(path)
    scale = np.array(info.size_px) / instances.shape[::-1]  # level-0 pixels per pixel
    if abs(scale[0] / scale[1] - 1) > SAME_SHAPE:
        width, height = instances.shape[::-1]
        raise LabelError(
            f"{path}: {width} x {height} px do not have the slide's proportions; give a mask of all"
            " of it"
        )
    mpp = tuple(np.asarray(info.mpp) * scale)
    require_nuclei(path, instances, mpp)
    nuclei = label_image_to_nuclei(instances, mpp, N_RAYS)
    return Nuclei(nuclei.xy * scale, Frame.LEVEL0, rays=nuclei.rays)


def _with_outlines(rays: ndarray, radius_um: float) -> ndarray:
    """``rays`` (N, R), with circles for missing outlines."""
    return np.where(rays.max(1, keepdims=True, initial=0) > 0, rays, np.float32(radius_um))

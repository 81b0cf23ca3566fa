"""Labelled images, on which models are trained and validated: pixels and nuclei at the model's
mpp.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from muse_pipeline.core.errors import LabelError
from muse_pipeline.labels.outlines import outline_points
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.tissue.stain import MacenkoFit


class AreaCount(NamedTuple):
    """The number of nuclei in one class area of a picture."""

    classes: str  # names of the classes that the nuclei may have, joined by "or"
    area: str  # file and number of the area
    n_nuclei: int  # number of nuclei


@dataclass(frozen=True, eq=False, kw_only=True)
class LabelledImage:
    """One picture at the model's mpp with its nuclei (frame: window)."""

    # name of the picture; on a slide, the slide's id and the corner of the region's cell, in
    # level-0 px
    name: str
    pixels: ndarray  # (h, w, 3) uint8
    nuclei: Nuclei  # nuclei inside the region, with rays in um, NaN where an outline is unknown
    # stains fitted to the picture or to the tissue of its slide; None if the fit failed
    stain: MacenkoFit | None
    weight: float  # relative frequency at which the image is sampled in training
    grow_outlines: bool = True  # True if nuclei labelled as points have grown outlines
    # appearance of the slide, as `muse step tissue` measures it; None for a picture that belongs
    # to no slide
    appearance: dict[str, float] | None = None
    region: ndarray | None = None  # (h, w) bool, the annotated pixels; None if all are
    # (h, w) bool, pixels in any region of the slide, including regions whose nuclei are in other
    # images; None if ``region`` includes them all
    annotated: ndarray | None = None
    patient: str = ""  # patient of the picture
    organ: str = ""  # organ that the sheet of its slide states
    source: str = ""  # folder or sheet of the source
    stated_mpp: float | None = None  # um per pixel in the config; None if it was not given there
    # number of nuclei in the label file that were left out because they are outside all regions; 0
    # in every image of a slide but the first
    n_left_out: int = 0
    # class areas whose nuclei a detector found; empty if people labelled the nuclei. With areas,
    # only the expected class shares, in ``prob`` of ``nuclei``, are labels; positions are not
    areas: tuple[AreaCount, ...] = ()

    @property
    def unannotated(self) -> ndarray:
        """(h, w) bool: pixels outside all regions of the slide or picture."""
        if self.region is None:
            return np.zeros(self.pixels.shape[:2], bool)
        return ~(self.region if self.annotated is None else self.annotated)

    def in_region(self, xy: ndarray) -> ndarray:
        """(N,) bool: True for positions (N, 2) in px whose pixels are annotated."""
        if self.region is None:
            return np.ones(len(xy), bool)
        column, row = xy.astype(int).T
        return self.region[row, column]

    @property
    def annotated_box(self) -> tuple[int, int, int, int]:
        """Left, top, right, bottom of the annotated area, in px."""
        height, width = self.pixels.shape[:2]
        if self.region is None or not self.region.any():
            return 0, 0, width, height
        columns, rows = (np.flatnonzero(self.region.any(axis)) for axis in (0, 1))
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def complete_outlines(
    pixels: ndarray, nuclei: Nuclei, stain: MacenkoFit | None, mpp: float
) -> Nuclei:
    """Grow outlines for nuclei (frame: window) with unknown rays (NaN); all other outlines are
    unchanged.
    """
    drawn = np.isfinite(nuclei.rays).all(1)
    if drawn.all():
        return nuclei
    grown = outline_points(pixels, nuclei, stain, mpp)
    return replace(grown, rays=np.where(drawn[:, None], nuclei.rays, grown.rays))


# In BRCA-M2C, 90 % of the points lie on objects of nuclear size, but at most 38 % do with x and y
# exchanged.
LEAST_POINTS, FEW, MOST = 10, 0.5, 0.8


def require_order(
    path: Path, pixels: ndarray, points: Nuclei, stain: MacenkoFit | None, mpp: float
) -> None:
    """Reject points that lie on nuclei only with x and y exchanged.

    This is the case if, of at least ``LEAST_POINTS`` points, at most the share ``FEW`` lies on
    nuclei, but more than the share ``MOST`` does after the exchange.
    """
    exchanged = replace(points, xy=points.xy[:, ::-1])
    if (
        len(points) < LEAST_POINTS
        or (exchanged.xy >= pixels.shape[1::-1]).any()
        or _share_grown(points) > FEW
    ):
        return
    if (share := _share_grown(outline_points(pixels, exchanged, stain, mpp))) > MOST:
        raise LabelError(
            f"{path}: few of its points lie on nuclei, but {share:.0%} do with x and y exchanged;"
            " exchange them, or correct the order in `format`"
        )


def _share_grown(nuclei: Nuclei) -> float:
    return np.isfinite(nuclei.rays).all(1).mean()

"""The picture that training sees, wherever its labels came from."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from muse_pipeline.data.outlines import outline_points
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.tissue.macenko import MacenkoFit


@dataclass(frozen=True, eq=False, kw_only=True)
class LabelledImage:
    """One picture at the model's mpp with its nuclei (frame: window).

    Attributes:
        name: of the picture; for a piece of a slide the slide's id and where its region begins, in level-0 px.
        pixels: (h, w, 3) uint8.
        nuclei: those inside the region, with rays in um, NaN where an outline is unknown.
        stain: fitted on the picture, or on the tissue of its slide; None where that failed.
        appearance: measures of its slide as `muse tissue` takes them; None for a picture of no slide.
        weight: how often it is drawn, relative to others.
        region: (h, w) bool, the pixels that were annotated; None: all of them.
        annotated: (h, w) bool, ``region`` and the slide's other regions, whose nuclei other images have; None: there
            are no others.
        patient: whose it is.
        source: folder or sheet that it is from.
        stated_mpp: um per pixel as the config states it; None where the file knew.
        n_left_out: nuclei of the same label file outside every region, left out as the config says; counted once.
        hidden: nuclei whose labels a trial keeps from training, to compare pseudo-labels with.
    """

    name: str
    pixels: np.ndarray
    nuclei: Nuclei
    stain: MacenkoFit | None
    weight: float
    appearance: dict[str, float] | None = None
    region: np.ndarray | None = None
    annotated: np.ndarray | None = None
    patient: str = ""
    source: str = ""
    stated_mpp: float | None = None
    n_left_out: int = 0
    hidden: Nuclei | None = None

    @property
    def unannotated(self) -> np.ndarray:
        """(h, w) bool: the pixels that are in no region of the slide or picture."""
        if self.region is None:
            return np.zeros(self.pixels.shape[:2], bool)
        return ~(self.region if self.annotated is None else self.annotated)

    @property
    def annotated_box(self) -> tuple[int, int, int, int]:
        """Left, top, right, bottom of what was annotated, in px."""
        height, width = self.pixels.shape[:2]
        if self.region is None or not self.region.any():
            return 0, 0, width, height
        columns, rows = (np.flatnonzero(self.region.any(axis)) for axis in (0, 1))
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def complete_outlines(pixels: np.ndarray, nuclei: Nuclei, stain: MacenkoFit | None, mpp: float, n_rays: int) -> Nuclei:
    """Grow the outlines of nuclei whose rays are unknown (NaN); those that were drawn stay, and hold their ground.

    Args:
        pixels: (h, w, 3) uint8.
        nuclei: frame window, rays (N, R).
        stain: of the picture.
        mpp: um per pixel.
        n_rays: R.
    """
    drawn = np.isfinite(nuclei.rays).all(1)
    if drawn.all():
        return nuclei
    grown = outline_points(pixels, nuclei, stain, mpp, n_rays)
    return replace(grown, rays=np.where(drawn[:, None], nuclei.rays, grown.rays))

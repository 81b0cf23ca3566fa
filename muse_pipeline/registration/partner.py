"""Open a slide with its partner, and write the partner as a store in the slide's frame, on the same
lattice.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

import cv2
import numpy as np

from muse_pipeline.core.coords import work_size_px
from muse_pipeline.core.files import sha256_of
from muse_pipeline.core.types import Slide, SlideInfo
from muse_pipeline.registration.match import WarpedReader, grid_um
from muse_pipeline.registration.placement import Pair
from muse_pipeline.registration.record import RegisteredPartner
from muse_pipeline.registration.register import open_pair
from muse_pipeline.slides.base import open_slide
from muse_pipeline.store.resample import AreaReader
from muse_pipeline.store.write import StoreOptions, write_store
from muse_pipeline.tissue.mask import TissueMask
from muse_pipeline.tissue.overview import strips


@contextmanager
def open_pair_of_files(
    slide: Path, info: SlideInfo, partner: Path, partner_info: SlideInfo, threads: int = 1
) -> Iterator[Pair]:
    """Open a slide and its partner, and find the tissue of both; the pair is closed when the block
    ends.
    """
    with (
        open_slide(slide, info.reader) as opened,
        open_slide(partner, partner_info.reader) as opened_partner,
    ):
        yield open_pair(opened, info, opened_partner, partner_info, threads)


@dataclass(frozen=True, eq=False)
class PartnerTissue(TissueMask):
    """The tissue of a slide, limited to the area in which its partner can be trusted."""

    # (h, w) bool, True for pixels of the mask in kept tiles and on the partner
    trusted: np.ndarray | None = None

    @property
    def dilated(self) -> np.ndarray:
        """The mask in which the slide's nuclei are kept, limited to ``trusted``."""
        return super().dilated & self.trusted


def write_partner_store(
    pair: Pair,
    registered: RegisteredPartner,
    tissue: TissueMask,
    path: Path,
    *,
    mpp: float = 0.5,
    max_corrupt: float = 0.01,
) -> None:
    """Write a partner as a store in the frame of its slide.

    The label ``tissue`` is 1 where nuclei of the slide are kept, the registration's tile is kept,
    and the partner was scanned. Other pixels must not be used; they are white beyond the partner.
    ``max_corrupt`` is the largest fraction of the tissue that may be undecodable.
    """
    info, partner_info = pair.info, pair.partner_info
    registered.require(info, partner_info)

    def open_warped(slide: Slide, _: SlideInfo, image_mpp: float) -> WarpedReader:
        size_px = work_size_px(info.size_px, info.mpp, image_mpp)
        # a coarser partner is enlarged
        reader = AreaReader(slide, partner_info, max(image_mpp, *partner_info.mpp))
        return WarpedReader(reader, registered.transform, size_px, image_mpp)

    origin = {"partner": registered.partner, "transform_sha256": sha256_of(registered.path)}
    options = StoreOptions(mpp, max_corrupt, facts={"partner": origin})
    tissue = trusted_tissue(tissue, registered)
    write_store(pair.partner, info, tissue, path, options, pair.threads, open_warped)


def trusted_tissue(tissue: TissueMask, registered: RegisteredPartner) -> PartnerTissue:
    """The slide's tissue in the area where the partner can be trusted, which is eroded by one pixel
    of the mask.
    """
    trusted = np.empty(tissue.mask.shape, np.uint8)
    height, width = trusted.shape
    for rows in strips(height):
        pixels = grid_um(np.array([0.0, rows.start]), 1.0, (width, rows.stop - rows.start))
        trusted[rows] = registered.is_kept(pixels * tissue.mask_mpp)
    # Only the centres of pixels were tested, so pixels at the border may extend beyond the trusted
    # area.
    trusted = cv2.erode(trusted, np.ones((3, 3), np.uint8)) > 0
    parts = {field.name: getattr(tissue, field.name) for field in fields(TissueMask)}
    return PartnerTissue(
        **{**parts, "mask": tissue.mask & trusted, "unscanned": None}, trusted=trusted
    )

"""Find the tissue of a slide: stained areas that are neither ink nor specks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from muse_pipeline.core.errors import SlideError
from muse_pipeline.core.types import Slide, SlideInfo
from muse_pipeline.slides.tiff_pictures import DIM
from muse_pipeline.tissue.background import (
    ScannedSlide,
    absorbed,
    estimate_glass,
    find_unscanned,
    highest,
    is_ink,
    median_level,
    spread,
)
from muse_pipeline.tissue.components import Components, drop_small
from muse_pipeline.tissue.mask import RoiAnnotation, RoiArea, TissueMask, dilate
from muse_pipeline.tissue.overview import Overview, map_strips, read_overview, strips
from muse_pipeline.tissue.stain import DENSITY

DOUBT = "the tissue is doubtful: "  # beginning of a warning
MOST, MUCH, LITTLE = 0.5, 0.05, 0.1  # fractions of the slide, or of the area darker than glass
DARKER = (
    0.3  # a pixel is darker than glass if the density of a channel, relative to glass, exceeds this
)
NO_TISSUE = "no tissue found"
# A picture of at most this area is searched for detail if this share of it or less is tissue.
FIELD_MM2, COVERED = 1.0, 0.75
FINE_UM, DETAIL_UM, CELL_UM = 0.5, (1.0, 4.0), 16.0
# minimum deviation of the density of green in cells, in this share of them; glass has up to 0.004
MIN_DETAIL, STRUCTURED = 0.005, 0.8
MAX_BLUE = 0.75  # maximum ratio of the deviation of blue to that of green; dust has 1
ROI_ROWS = (
    16  # rows of mask pixels processed at a time; each pixel becomes a polygon of some 300 bytes
)


@dataclass(frozen=True, eq=False)
class FoundTissue:
    """Result of ``muse step tissue``: the mask, the picture that was searched, and warnings."""

    tissue: TissueMask
    overview: Overview
    warnings: tuple[str, ...]


def find_tissue(slide: Slide, info: SlideInfo, roi: BaseGeometry | None = None) -> FoundTissue:
    """Find the tissue of ``slide`` within ``roi`` (absolute level-0 px), or on the whole slide.

    If there is no tissue, the mask is empty, with a warning.
    """
    cv2.setNumThreads(1)
    overview, warnings = read_overview(slide, info), []
    unscanned = None if is_fluorescence(overview.pixels) else find_unscanned(overview.pixels)
    if unscanned is not None:
        warnings.append(f"{unscanned.mean():.0%} of the slide is black and was not scanned")
        overview = read_overview(ScannedSlide(slide, info, unscanned, overview.mpp), info)
    mask, of_mask = find_mask(overview.pixels, overview.mpp, overview.unread)
    if mask.mean() < COVERED and {NO_TISSUE}.issuperset(of_mask) and _is_pale_field(slide, info):
        mask, of_mask = np.ones_like(mask), ()
    size = np.array(info.size_px) / (overview.mpp / np.array(info.mpp))
    # The last row and column of the mask may extend beyond the slide, and count in part.
    across, down = (
        min(max(side - (n - 1), 0), 1) for side, n in zip(size, mask.shape[::-1], strict=True)
    )
    rows = mask[:, :-1].sum(1) + across * mask[:, -1]
    area_mm2 = _to_mm2(float(rows[:-1].sum() + down * rows[-1]) * np.prod(overview.mpp))
    of_slide = {"fingerprint": info.fingerprint, "slide_mpp": tuple(info.mpp)}
    tissue = TissueMask(mask, overview.mpp, None, area_mm2, **of_slide, unscanned=unscanned)
    on_slide = FoundTissue(tissue, overview, (*overview.warnings, *warnings, *of_mask))
    return on_slide if roi is None else limit_tissue(on_slide, info, roi)


def _is_pale_field(slide: Slide, info: SlideInfo) -> bool:
    """True for a small picture without glass, whose own pale tissue may be mistaken for it."""
    if np.prod(np.multiply(info.size_px, info.mpp)) > FIELD_MM2 * 1e6:
        return False
    try:
        overview = read_overview(slide, info, FINE_UM)
    except SlideError:  # a damaged part, which tiling reports
        return False
    return overview.unread is None and is_structured(overview.pixels, overview.mpp)


def is_structured(pixels: np.ndarray, mpp: np.ndarray) -> bool:
    """True if a picture (h, w, 3) uint8 at about 0.5 um per pixel has the detail of stained tissue
    nearly everywhere.

    Glass has hardly any detail from 1 to 4 um, and that of dust is grey. That of haematoxylin and
    eosin is stronger in green than in blue.
    """
    density, pixel_um = cv2.LUT(np.ascontiguousarray(pixels[..., 1:]), DENSITY), float(np.mean(mpp))
    fine, coarse = (cv2.GaussianBlur(density, (0, 0), um / pixel_um) for um in DETAIL_UM)
    size = [max(int(side * pixel_um / CELL_UM), 1) for side in pixels.shape[1::-1]]
    energy = cv2.resize((fine - coarse) ** 2, size, interpolation=cv2.INTER_AREA)
    green, blue = np.sqrt(energy.mean((0, 1)))
    is_detailed = np.sqrt(energy[..., 0]) > MIN_DETAIL
    return bool(blue < MAX_BLUE * green and is_detailed.mean() > STRUCTURED)


def limit_tissue(on_slide: FoundTissue, info: SlideInfo, roi: BaseGeometry) -> FoundTissue:
    """Limit the tissue found on the whole slide to ``roi``, in absolute level-0 px."""
    whole = on_slide.tissue
    area = roi.intersection(shapely.box(0, 0, *info.size_px))
    inside = roi_coverage(area, whole.mask.shape, whole.mask_mpp / np.array(info.mpp)) * whole.mask
    area_mm2 = _to_mm2(inside.sum() * np.prod(whole.mask_mpp))
    warnings = on_slide.warnings
    if not inside.any() and not whole.is_empty:
        warnings = (*warnings, "no tissue within the region of interest")
    return FoundTissue(
        replace(whole, mask=inside > 0, roi=roi, area_mm2=area_mm2), on_slide.overview, warnings
    )


def find_mask(
    pixels: np.ndarray, mpp: np.ndarray, unread: np.ndarray | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Find tissue in (h, w, 3) uint8 at about 8 um per pixel: the mask, (h, w) bool, and warnings.

    Pixels that are ``unread`` (h, w) count as tissue, so that `tile` reports them as lost.
    """
    if is_fluorescence(pixels):
        return np.zeros(pixels.shape[:2], bool), (
            "no tissue: the slide is black, as in fluorescence",
        )
    glass = estimate_glass(pixels)
    if _is_grey(pixels, glass):
        return np.zeros(pixels.shape[:2], bool), (
            f"{DOUBT}the picture is grey, and tissue is found by the colours of its stains",
            NO_TISSUE,
        )
    pen = find_pen(pixels, glass, mpp)
    mask = tidy(find_stained(pixels, glass) & ~pen, mpp) & ~pen
    if unread is not None:
        mask |= unread
    warnings = []
    if pen.mean() > 1e-3:
        warnings.append(f"pen marks on {pen.mean():.1%} of the slide were left out")
    if doubt := _describe_doubt(pixels, glass, mask, pen):
        warnings.append(f"{DOUBT}{doubt}")
    if not mask.any():
        warnings.append(NO_TISSUE)
    return mask, tuple(warnings)


def _is_grey(pixels: np.ndarray, glass: np.ndarray) -> bool:
    """True if a picture has no colour, and shows more than ``glass``."""
    if not map_strips(lambda strip: spread(strip) <= GREY, pixels).all():
        return False
    return bool((absorbed(pixels, glass).max(-1) > DARKER).mean() > MUCH)


def _describe_doubt(
    pixels: np.ndarray, glass: np.ndarray, mask: np.ndarray, pen: np.ndarray
) -> str:
    """A reason to suspect that ``mask`` lacks tissue; "" if it covers enough, or if little of the
    slide is dark.
    """
    if pen.mean() > MOST:
        return f"{pen.mean():.0%} of the slide has the colour of a pen; are its colours right?"
    if mask.mean() > LITTLE:
        return ""
    if (pixels.min((0, 1)) == pixels.max((0, 1))).all():
        return "all of the slide has one colour"
    dark = map_strips(
        lambda strip: (highest(absorbed(strip, glass)) > DARKER) & (highest(strip) >= BLACK), pixels
    )
    if dark.mean() < MUCH or (dark & mask).sum() > LITTLE * dark.sum():
        return ""
    left_out = (dark & ~mask & ~pen).mean(), (dark & pen).mean()
    return (
        f"{dark.mean():.0%} of the slide is darker than glass and was left out, as grey or specks"
        f" ({left_out[0]:.0%}) or pen ({left_out[1]:.0%})"
    )


def roi_coverage(roi: BaseGeometry, shape: tuple[int, int], mask_px: np.ndarray) -> np.ndarray:
    """Fraction of each mask pixel, (h, w) float32, within ``roi``; a pixel measures ``mask_px``
    (2,) level-0 px.
    """
    coverage = np.zeros(shape, np.float32)
    for strip, part in _cover_strips(roi, shape, mask_px):
        coverage[strip] = part
    return coverage


def measure_annotation(area: RoiArea, tissue: TissueMask, info: SlideInfo) -> RoiAnnotation:
    """Measure an area of the ROI and the tissue in it; the area, in absolute level-0 px, must lie
    within the slide.
    """
    mask_px = tissue.mask_mpp / np.array(info.mpp)
    strips_of_it = _cover_strips(area.shape, tissue.mask.shape, mask_px)
    covered = sum(
        float((part * tissue.mask[strip]).sum(dtype=float)) for strip, part in strips_of_it
    )
    areas_um2 = area.shape.area * np.prod(info.mpp), covered * np.prod(tissue.mask_mpp)
    return RoiAnnotation(area.name, area.class_name, area.shape, *map(_to_mm2, areas_um2))


def _to_mm2(um2: float) -> float:
    return round(float(um2 / 1e6), 6)


def _cover_strips(
    roi: BaseGeometry, shape: tuple[int, int], mask_px: np.ndarray
) -> Iterator[tuple[tuple[np.ndarray, ...], np.ndarray]]:
    """Yield indices into the mask within the bounds of ``roi``, some rows at a time, with their
    ``roi_coverage``.
    """
    if roi.is_empty:
        return
    left, top, right, bottom = roi.bounds
    columns, rows = (
        np.arange(max(int(low // size), 0), min(int(high // size) + 1, n))
        for low, high, size, n in (
            (left, right, mask_px[0], shape[1]),
            (top, bottom, mask_px[1], shape[0]),
        )
    )
    if not columns.size:
        return
    shapely.prepare(roi)
    for strip in strips(len(rows), ROI_ROWS):
        yield np.ix_(rows[strip], columns), _cover_cells(roi, columns, rows[strip], mask_px)


def _cover_cells(
    roi: BaseGeometry, columns: np.ndarray, rows: np.ndarray, mask_px: np.ndarray
) -> np.ndarray:
    """The ``roi_coverage`` of the mask pixels in these ``rows`` and ``columns``, float32."""
    x, y = columns * mask_px[0], rows * mask_px[1]
    cells = shapely.box(x[None], y[:, None], x[None] + mask_px[0], y[:, None] + mask_px[1])
    part = shapely.contains_properly(roi, cells).astype(np.float32)
    border = shapely.intersects(roi, cells) & (part == 0)
    part[border] = np.maximum(
        shapely.area(shapely.intersection(roi, cells[border])) / np.prod(mask_px), 1e-6
    )
    return part


MIN_STROKE_UM = 40.0  # narrower areas are not pen strokes
FAINT_EDGE_UM = 80.0  # width of the faint edge of a stroke
# Density of a channel that every stroke reaches somewhere; tinted glass may have the colour of a
# pen, but is paler.
OPAQUE = 0.6
CERTAIN_RED = (
    0.15  # every red stroke is somewhere purer red than blood, as in ``background.is_ink``
)


def find_pen(pixels: np.ndarray, glass: np.ndarray, mpp: np.ndarray) -> np.ndarray:
    """(h, w) bool: pen strokes in (h, w, 3) uint8 ``pixels`` on ``glass`` (3,), faint edges
    included.
    """
    ink = map_strips(lambda strip: is_ink(absorbed(strip, glass)), pixels)
    radius = np.maximum(np.round(MIN_STROKE_UM / 2 / np.asarray(mpp)), 1).astype(int)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, tuple(int(2 * r + 1) for r in radius))
    components = Components(cv2.morphologyEx(ink.astype(np.uint8), cv2.MORPH_OPEN, disc) > 0)

    def is_certain(strip: slice) -> np.ndarray:
        density = absorbed(pixels[strip], glass)
        return (highest(density) > OPAQUE) & is_ink(density, CERTAIN_RED)

    return dilate(components.containing(is_certain), mpp, FAINT_EDGE_UM)


# difference between the channels' densities; clean glass stays below 0.02 at 8 um per pixel
FAINT = 0.03
CERTAIN = 0.09  # a region of faint colour counts if a part of it is this strong
GREY = 3  # largest difference between the channels of a grey picture
BLACK = 70  # darker pixels are not stained: they lie outside the scan, or show fluorescence


def find_stained(pixels: np.ndarray, glass: np.ndarray) -> np.ndarray:
    """(h, w) bool: the stained pixels of (h, w, 3) uint8 ``pixels``, relative to the colour (3,) of
    ``glass``.

    Dust, shadows, bubbles and the edges of cover slips are grey: they absorb all colours alike.
    Stains, including brown and blue chromogens, do not.
    """
    faint, strong = (np.empty(pixels.shape[:2], bool) for _ in range(2))
    for strip in strips(len(pixels)):
        density = absorbed(pixels[strip], glass)
        colour = spread(density)
        greenish = density[..., 1] <= np.minimum(density[..., 0], density[..., 2])
        faint[strip] = (colour > FAINT) & ~greenish & (highest(pixels[strip]) >= BLACK)
        strong[strip] = colour > CERTAIN
    return Components(faint).containing(strong.__getitem__)


def is_fluorescence(pixels: np.ndarray) -> bool:
    """True if more than half of the slide is black and the rest is dark too."""
    n_by_sum = np.zeros(3 * 255 + 1, int)  # sums of the three channels of pixels that are not black
    for strip in strips(len(pixels)):
        lit = pixels[strip][highest(pixels[strip]) >= BLACK // 2]
        n_by_sum += np.bincount(lit.sum(-1, dtype=int), minlength=len(n_by_sum))
    n_lit, n = n_by_sum.sum(), pixels.shape[0] * pixels.shape[1]
    return bool(n_lit < n / 2 and (not n_lit or median_level(n_by_sum) < DIM))


JOIN_UM = 16.0  # radius of the closing, which joins tissue across cracks and thin walls of fat
MIN_COMPONENT_UM2 = 5_000.0  # 70 x 70 um, some 50 nuclei
MIN_HOLE_UM2 = 30_000.0  # a large fat cell covers 8,000, a small vessel 20,000
MIN_COMPONENT_SHARE = 0.02  # in a small picture, tissue needs to cover only this fraction


def tidy(mask: np.ndarray, mpp: np.ndarray) -> np.ndarray:
    """Join nearly touching areas of a mask (h, w) bool, drop specks and fill holes."""
    pixel_um2 = float(np.prod(mpp))
    least_um2 = min(MIN_COMPONENT_UM2, MIN_COMPONENT_SHARE * mask.size * pixel_um2)
    mask = _close(mask, np.maximum(np.round(JOIN_UM / np.asarray(mpp)), 1).astype(int))
    mask = drop_small(mask, least_um2 / pixel_um2)
    glass = drop_small(
        np.logical_not(mask, out=mask),
        MIN_HOLE_UM2 / pixel_um2,
        connectivity=4,
        keep_at_border=True,
    )
    return np.logical_not(glass, out=glass)


def _close(mask: np.ndarray, radius_px: np.ndarray) -> np.ndarray:
    """Morphological closing as if the picture continued beyond its border."""
    x, y = (int(r) for r in radius_px)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * x + 1, 2 * y + 1))
    pixels = np.ascontiguousarray(mask).view(np.uint8)
    pixels = cv2.copyMakeBorder(pixels, y, y, x, x, cv2.BORDER_REPLICATE)
    pixels = map_strips(
        lambda strip: cv2.morphologyEx(strip, cv2.MORPH_CLOSE, disc), pixels, halo=2 * y
    )
    return np.ascontiguousarray(pixels[y : y + mask.shape[0], x : x + mask.shape[1]]).view(bool)

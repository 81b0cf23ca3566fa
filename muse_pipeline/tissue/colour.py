"""How a slide is stained: the statistics over its tissue that a model's colour input is fitted from."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from muse_pipeline.errors import SlideError
from muse_pipeline.tissue.macenko import MIN_PIXELS, fit_macenko
from muse_pipeline.tissue.mask import TissueMask
from muse_pipeline.tissue.overview import choose_overview_level
from muse_pipeline.tissue.strips import strips
from muse_pipeline.types import Slide, SlideInfo

SAMPLE_UM = 0.5  # as the models see it: coarser pixels mix nuclei with what is around them
FIELD_UM = 128.0
SEED = 0
MAX_PIXELS = 1_000_000
NEAR_BLACK, NEAR_WHITE = 25, 250  # brightest, darkest channel: dirt and holes


def measure_colour(slide: Slide, info: SlideInfo, tissue: TissueMask) -> dict[str, Any]:
    """Fit the stains over the tissue of a slide: the content of ``colour.json``."""
    pixels, mpp, warnings = sample_tissue(slide, info, tissue)
    fit = fit_macenko(pixels)
    if fit is None and not tissue.is_empty:
        few = len(pixels) < MIN_PIXELS
        reason = "too few stained pixels" if few else "the colours are not those of haematoxylin and eosin"
        warnings.append(f"the stains cannot be estimated: {reason}; colours are left as they are")
    # rounded, so that the order in which a library adds up cannot be seen
    macenko = fit and {"stains": fit.stains.round(6).tolist(), "strong": fit.strong.round(6).tolist()}
    return {"macenko": macenko, "n_pixels": len(pixels), "mpp": round(mpp, 6), "warnings": warnings}


def sample_tissue(slide: Slide, info: SlideInfo, tissue: TissueMask) -> tuple[np.ndarray, float, list[str]]:
    """Up to about 1 MP of tissue, at about 0.5 um a pixel, in fields drawn at random over the slide.

    Returns:
        (N, 3) uint8 pixels, their mpp, and warnings.
    """
    level, factors = choose_overview_level(info, SAMPLE_UM)
    mpp = np.multiply(info.mpp, info.level_downsamples[level]) * factors
    fields = choose_fields(tissue, mpp)
    kept, n_failed = [np.empty((0, 3), np.uint8)], 0
    for field in fields:
        try:
            kept.append(_read_tissue(slide, info, tissue, level, factors, field))
        except SlideError:
            n_failed += 1
    warnings = [f"{n_failed} of {len(fields)} fields for the stains cannot be decoded"] if n_failed else []
    return np.concatenate(kept), float(mpp.mean()), warnings


def choose_fields(tissue: TissueMask, mpp: np.ndarray) -> np.ndarray:
    """Corners (N, 2), in um, of fields of 128 um that touch tissue; some of them, drawn, where all are over 1 MP."""
    parts = [_fields_of_strip(tissue, strip) for strip in strips(len(tissue.mask))]
    fields = np.unique(np.concatenate(parts), axis=0)
    n_pixels = int(tissue.mask.sum()) * np.prod(tissue.mask_mpp) / np.prod(mpp)
    n_fields = int(np.ceil(len(fields) * min(1.0, MAX_PIXELS / max(n_pixels, 1))))
    drawn = np.random.default_rng(SEED).permutation(len(fields))[:n_fields]
    return fields[np.sort(drawn)] * FIELD_UM


def _fields_of_strip(tissue: TissueMask, strip: slice) -> np.ndarray:
    """(column, row) of the fields that touch tissue in a strip of rows of the mask."""
    rows, columns = np.nonzero(tissue.mask[strip])
    return np.unique(np.stack([columns, rows + strip.start], 1) * tissue.mask_mpp // FIELD_UM, axis=0)


def _read_tissue(slide: Slide, info: SlideInfo, tissue: TissueMask, level: int, factors, corner_um) -> np.ndarray:
    """(N, 3) uint8: the tissue in the field at ``corner_um``, blocks of ``factors`` (x, y) level pixels averaged."""
    downsample = np.array(info.level_downsamples[level])
    level_mpp = info.mpp * downsample
    first = np.round(corner_um / level_mpp).astype(int)
    n = np.minimum(np.ceil(FIELD_UM / level_mpp), info.level_sizes_px[level] - first).astype(int) // factors
    if n.min() < 1:
        return np.empty((0, 3), np.uint8)
    x, y = (round(float(at)) for at in first * downsample)
    pixels = slide.read_region((x, y), level, (int(n[0] * factors[0]), int(n[1] * factors[1])))
    pixels = cv2.resize(pixels, (int(n[0]), int(n[1])), interpolation=cv2.INTER_AREA)
    # A coarse level, of which the mask was made, may lack some of the last pixels of a finer one.
    column, row = (
        ((first[i] + (np.arange(n[i]) + 0.5) * factors[i]) * level_mpp[i] / tissue.mask_mpp[i])
        .astype(int)
        .clip(max=last)
        for i, last in enumerate((tissue.mask.shape[1] - 1, tissue.mask.shape[0] - 1))
    )
    usable = tissue.mask[row[:, None], column] & (pixels.max(-1) > NEAR_BLACK) & (pixels.min(-1) < NEAR_WHITE)
    return pixels[usable]

"""How a slide is stained: the statistics over its tissue that a model's colour input is fitted from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from muse_pipeline.errors import SlideError
from muse_pipeline.tissue.appearance import FIELD_UM, SAMPLE_UM, AppearanceSample
from muse_pipeline.tissue.macenko import MIN_PIXELS, MacenkoFit, fit_macenko
from muse_pipeline.tissue.mask import TissueMask
from muse_pipeline.tissue.overview import choose_overview_level
from muse_pipeline.tissue.strips import strips
from muse_pipeline.types import Slide, SlideInfo

SEED = 0
MAX_PIXELS = 1_000_000


@dataclass(frozen=True, eq=False)
class SlideColour:
    """How a slide is stained: the content of ``colour.json``.

    Attributes:
        macenko: its stains, or None where they cannot be estimated.
        appearance: its measures by name (``tissue.appearance``); None where the file is of before they were taken.
        dark_background: whether it is fluorescence, and not bright-field.
        n_pixels: of tissue that were measured.
        mpp: um per pixel of theirs.
        warnings: sentences for the report.
        fingerprint: the slide's checksum; None where the file is of before it was noted.
    """

    macenko: MacenkoFit | None = None
    appearance: dict[str, float] | None = None
    dark_background: bool = False
    n_pixels: int = 0
    mpp: float = SAMPLE_UM
    warnings: tuple[str, ...] = ()
    fingerprint: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary."""
        fit = self.macenko
        return vars(self) | {
            "macenko": fit and {"stains": fit.stains.tolist(), "strong": fit.strong.tolist()},
            "warnings": list(self.warnings),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SlideColour:
        """The inverse of ``to_dict``; what an older file lacks has its default."""
        fit = values["macenko"]
        fit = fit and MacenkoFit(np.array(fit["stains"], float), np.array(fit["strong"], float))
        return cls(**{**values, "macenko": fit, "warnings": tuple(values.get("warnings", ()))})


def measure_colour(
    slide: Slide,
    info: SlideInfo,
    tissue: TissueMask,
    dark_background: bool = False,
    warnings: Sequence[str] = (),
) -> SlideColour:
    """Fit the stains over the tissue of a slide and measure how it looks.

    Args:
        slide: the slide.
        info: about it.
        tissue: where to look.
        dark_background: what its overview said of it (``stained.is_fluorescence``).
        warnings: of the search for its tissue, which come first.
    """
    sample, unread = sample_tissue(slide, info, tissue)
    warnings = [*warnings, *unread]
    pixels = sample.pixels
    fit = fit_macenko(pixels)
    if fit is None and not tissue.is_empty:
        few = len(pixels) < MIN_PIXELS
        reason = "too few stained pixels" if few else "the colours are not those of haematoxylin and eosin"
        warnings.append(f"the stains cannot be estimated: {reason}; colours are left as they are")
    # rounded, so that the order in which a library adds up cannot be seen
    rounded = fit and MacenkoFit(fit.stains.round(6), fit.strong.round(6))
    measures, mpp = sample.measure(fit), round(sample.mpp, 6)
    return SlideColour(rounded, measures, dark_background, len(pixels), mpp, tuple(warnings), info.fingerprint)


def sample_tissue(slide: Slide, info: SlideInfo, tissue: TissueMask) -> tuple[AppearanceSample, list[str]]:
    """Up to about 1 MP of tissue, at about 0.5 um a pixel, in fields drawn at random over the slide; and warnings."""
    level, factors = choose_overview_level(info, SAMPLE_UM)
    mpp = np.multiply(info.mpp, info.level_downsamples[level]) * factors
    fields = choose_fields(tissue, mpp)
    sample, n_failed = AppearanceSample(float(mpp.mean())), 0
    for field in fields:
        try:
            sample.add(*_read_field(slide, info, tissue, level, factors, field))
        except SlideError:
            n_failed += 1
    warnings = [f"{n_failed} of {len(fields)} fields for the stains cannot be decoded"] if n_failed else []
    return sample, warnings


def choose_fields(tissue: TissueMask, mpp: np.ndarray) -> np.ndarray:
    """Corners (N, 2), in um, of fields of 128 um that touch tissue; some of them, drawn, where all are over 1 MP."""
    fields = _touched_fields(tissue)
    n_pixels = int(tissue.mask.sum()) * np.prod(tissue.mask_mpp) / np.prod(mpp)
    n_fields = int(np.ceil(len(fields) * min(1.0, MAX_PIXELS / max(n_pixels, 1))))
    drawn = np.random.default_rng(SEED).permutation(len(fields))[:n_fields]
    return fields[np.sort(drawn)] * FIELD_UM


def _touched_fields(tissue: TissueMask) -> np.ndarray:
    """(column, row) of the fields that touch tissue, in order."""
    n_rows, n_columns = tissue.mask.shape
    mpp_x, mpp_y = tissue.mask_mpp
    column, row = ((np.arange(n) * mpp // FIELD_UM).astype(int) for n, mpp in ((n_columns, mpp_x), (n_rows, mpp_y)))
    touched = np.zeros((column[-1] + 1, row[-1] + 1), bool)
    for strip in strips(n_rows):
        rows, columns = np.nonzero(tissue.mask[strip])
        touched[column[columns], row[strip][rows]] = True
    return np.argwhere(touched)


def _read_field(
    slide: Slide, info: SlideInfo, tissue: TissueMask, level: int, factors, corner_um
) -> tuple[np.ndarray, np.ndarray]:
    """The field at ``corner_um``, blocks of ``factors`` (x, y) pixels averaged: (h, w, 3) uint8, and its tissue."""
    downsample = np.array(info.level_downsamples[level])
    level_mpp = info.mpp * downsample
    first = np.round(corner_um / level_mpp).astype(int)
    n = np.minimum(np.ceil(FIELD_UM / level_mpp), info.level_sizes_px[level] - first).astype(int) // factors
    if n.min() < 1:
        return np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1), bool)
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
    return pixels, tissue.mask[row[:, None], column]

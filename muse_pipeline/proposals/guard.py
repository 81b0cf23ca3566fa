"""Where nothing should be proposed, and why, in words: glass, ink, brown, out of focus.

A window is judged as a whole; single strokes and brown nuclei inside a good one are left out by ``inks``. The sample
of a slide gives the sentences that its ledger shows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import cv2
import numpy as np

from muse_pipeline.proposals.base import SlideSample, to_work_mpp
from muse_pipeline.tissue.ink import coarsen, find_ink
from muse_pipeline.tissue.stain import DENSITY, is_brown

GLASS, INK, BROWN, BLURRED = "glass", "ink", "brown stain", "out of focus"
STAINED_DENSITY = 0.15  # of the channel that absorbs most, at about 2 um a pixel; clean glass stays below 0.1
MIN_STAINED = 0.01  # share of a window
MAX_FOREIGN = 0.6  # share of what is stained
MIN_SHARPNESS = 0.15  # real fields lie above 0.2; blurred by 2 um (sigma), below 0.15
FILL_PX = 24  # how far an edge to white reaches into the detail of 4 um
MIN_CONTRAST = 2.0  # grey levels; less is an empty field, not a blurred one
BROWN_SLIDE = 0.01  # share of stained area: 0.000 in BRCA-M2C and ORION (H&E), 0.028 in a Ki-67 slide


def judge_window(pixels: np.ndarray, mpp: float) -> str:
    """Why nothing is to be found in (h, w, 3) uint8 ``pixels``, or ""."""
    pixels = to_work_mpp(pixels, mpp)
    density = DENSITY[coarsen(pixels)]
    stained = density.max(-1) > STAINED_DENSITY
    n_stained = np.count_nonzero(stained)
    if n_stained < MIN_STAINED * stained.size:
        return GLASS
    for reason, foreign in ((INK, find_ink(density)), (BROWN, is_brown(density))):
        if np.count_nonzero(foreign & stained) > MAX_FOREIGN * n_stained:
            return reason
    return BLURRED if is_blurred(pixels) else ""


def is_blurred(pixels: np.ndarray) -> bool:
    """Whether the detail of 0.5 to 1 um in ``pixels`` (at about 0.5 um) is weak beside that of 1 to 4 um.

    Areas of pure white, as stores have them outside the slide and the tissue, do not count: their edges are sharp.
    """
    white = (pixels.min(-1) == 255).astype(np.uint8)
    solid = cv2.erode(white, np.ones((9, 9), np.uint8))
    seen = cv2.dilate(solid, np.ones((2 * FILL_PX + 9,) * 2, np.uint8)) == 0
    if np.count_nonzero(seen) < MIN_STAINED * seen.size:
        return False
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)
    fine, middle, coarse = (cv2.GaussianBlur(grey, (0, 0), sigma) for sigma in (1.0, 2.0, 8.0))
    contrast = float((middle - coarse)[seen].std())
    return contrast > MIN_CONTRAST and float((fine - middle)[seen].std()) < MIN_SHARPNESS * contrast


def judge_slide(sample: SlideSample) -> list[str]:
    """Sentences of warning about a slide, from the crops of its sample."""
    if not sample.pictures:
        return ["no tissue to propose nuclei in"]
    warnings = []
    reasons = Counter(judge_window(picture, sample.mpp) for picture in sample.pictures)
    for reason in (INK, BLURRED):
        if reasons[reason] * 2 > len(sample.pictures):
            warnings.append(f"most of the tissue is {reason}; nothing is proposed there")
    if brown_share(sample) > BROWN_SLIDE:
        warnings.append(
            "brown stain, as of immunohistochemistry: only what is blue is proposed, and brown nuclei are missing"
        )
    return warnings


def brown_share(sample: SlideSample) -> float:
    """Share of the sample's stained area that is brown."""
    n_brown = n_stained = 0
    for picture in sample.pictures:
        density = DENSITY[coarsen(to_work_mpp(picture, sample.mpp))]
        n_stained += np.count_nonzero(density.max(-1) > STAINED_DENSITY)
        n_brown += np.count_nonzero(is_brown(density))
    return n_brown / max(n_stained, 1)


def name_guarded(guarded: Mapping[str, list[int]], n_windows: int) -> list[str]:
    """Sentences about the windows in which nothing was sought; glass is no news."""
    counts = {reason: len(windows) for reason, windows in sorted(guarded.items()) if reason != GLASS}
    return [f"{n} of {n_windows} windows are {reason}: nothing was sought there" for reason, n in counts.items()]

"""Read the pixels of a plain picture, and check its um per pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from muse_pipeline.core.errors import LabelError, SlideError
from muse_pipeline.slides.base import open_slide
from muse_pipeline.slides.mpp import PLAUSIBLE_RANGE_UM, is_square

MPP_TOLERANCE = 0.05  # maximum relative difference of a stated mpp from that in the file
OF_SOURCE = "`mpp` of this source"


def read_picture(path: Path, mpp: float | None, origin: str = OF_SOURCE) -> tuple[np.ndarray, float]:
    """Read the pixels (h, w, 3) uint8 and the um per pixel of a plain picture.

    Args:
        path: path of the picture.
        mpp: um per pixel that is stated elsewhere, if known.
        origin: description of ``mpp`` for messages.
    """
    try:
        with open_slide(path, "image") as picture:
            known = next(iter(picture.properties.mpp_candidates), None)
            pixels = picture.read_level((0, 0), 0, picture.properties.level_sizes_px[0])
    except SlideError as error:
        raise LabelError(str(error)) from error
    if known is not None and not is_square(known.mpp):
        raise LabelError(
            f"{path}: its pixels are {known.mpp[0]:.4g} um wide and {known.mpp[1]:.4g} um high ({known.source}), but a "
            "labelled picture needs square pixels; resample it and its labels, or label it as a slide"
        )
    if mpp is not None and known is not None:
        require_agreement(path, mpp, known.mpp, known.source, origin)
    if mpp is not None or known is None:
        return pixels, require_mpp(path, mpp, origin)
    return pixels, require_mpp(path, float(known.mpp[0]), f"the mpp in the file ({known.source})")


def require_mpp(path: Path, mpp: float | None, origin: str = OF_SOURCE) -> float:
    """Return the ``mpp`` of a picture if it is known and plausible for nuclei; ``origin`` describes it in messages."""
    if mpp is None:
        raise LabelError(f"{path}: its pixel size is unknown; give `mpp`, um per pixel, in this source")
    low, high = PLAUSIBLE_RANGE_UM
    if not low <= mpp <= high:
        raise LabelError(
            f"{path}: {mpp:.4g} um per pixel is outside the range for nuclei, {low:g} to {high:g}; correct {origin}"
        )
    return mpp


def require_agreement(
    path: Path | str, mpp: float, known: tuple[float, float], known_source: str, origin: str = OF_SOURCE
) -> None:
    """Reject an mpp that differs by more than 5 % from the mpp in the file; ``origin`` describes it in the message."""
    if any(abs(mpp / side - 1) > MPP_TOLERANCE for side in known):
        raise LabelError(
            f"{path}: {origin} is {mpp:.4g} um/px, but the file states {known[0]:.4g} um/px ({known_source}); correct "
            "or remove the former"
        )

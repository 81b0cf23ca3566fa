"""Work on a picture of a whole slide strip by strip, so that what is held beside the picture itself stays small."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

ROWS = 64


def strips(height: int, rows: int = ROWS) -> Iterator[slice]:
    """Slices of ``rows`` rows that cover ``height``."""
    return (slice(top, min(top + rows, height)) for top in range(0, height, rows))


def map_strips(function: Callable[[np.ndarray], np.ndarray], image: np.ndarray, halo: int = 0) -> np.ndarray:
    """``function`` of an (h, w, ...) ``image``, whose result at a row follows from ``halo`` rows on either side."""
    result = None
    for strip in strips(len(image)):
        first = max(strip.start - halo, 0)
        part = function(image[first : strip.stop + halo])
        if result is None:
            result = np.empty((len(image), *part.shape[1:]), part.dtype)
        result[strip] = part[strip.start - first :][: strip.stop - strip.start]
    return result

"""Repair of drawn and traced areas."""

from __future__ import annotations

import numpy as np
import shapely


def repair_areas(geometry: np.ndarray) -> np.ndarray:
    """Make geometries (N,) valid: holes stay empty, also along an edge, overlaps count once, spikes are removed."""
    # GEOS's other method fills a hole that shares an edge with its ring, and empties overlaps.
    return shapely.make_valid(geometry, method="structure", keep_collapsed=False)

"""One nucleus that was outlined more than once: long ones may have a peak of the centre map near each end."""

from __future__ import annotations

import numpy as np
import shapely

from muse_pipeline.nuclei.close_pairs import close_pairs
from muse_pipeline.nuclei.rays import rays_to_rings
from muse_pipeline.nuclei.table import Nuclei

SAME_SHARE = 0.4  # of the smaller outline; docs/model.md says how it was chosen
SANE_UM = 0.01, 1000.0  # a model may say 0, less than nothing or no number, of which GEOS makes no polygon


def drop_doubles(nuclei: Nuclei, mpp: float) -> Nuclei:
    """Of outlines that share more than ``SAME_SHARE`` of the smaller one, keep the one of the higher score.

    Greedy by score, as StarDist does (Schmidt et al., MICCAI 2018): what is dropped drops nothing.

    Args:
        nuclei: N nuclei of one window, by descending score.
        mpp: um per pixel of their frame.
    """
    if not nuclei.rays.size:
        return nuclei
    better, lesser = _overlapping_pairs(nuclei.xy * mpp, np.nan_to_num(nuclei.rays).clip(*SANE_UM))
    kept = np.ones(len(nuclei), bool)
    for one, other in zip(better, lesser, strict=True):
        if kept[one]:
            kept[other] = False
    return nuclei if kept.all() else nuclei[kept]


def _overlapping_pairs(xy_um: np.ndarray, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (P,), (P,) of numbers, the first one lower, that share so much; by ascending first number."""
    pairs = close_pairs(xy_um, 2 * float(rays.max()))
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    first, second = pairs.T
    x, y = (xy_um[second] - xy_um[first]).T
    turn = np.arctan2(y, x) / (2 * np.pi)  # of a whole one
    n_rays = rays.shape[1]
    ahead, back = (np.rint((turn + way) * n_rays).astype(int) % n_rays for way in (0, 0.5))
    meet = rays[first, ahead] + rays[second, back] > np.hypot(x, y)  # of few pairs the areas are worth computing
    first, second = first[meet], second[meet]
    rings = rays_to_rings(xy_um, rays, (1, 1))
    one, other = shapely.polygons(rings[first]), shapely.polygons(rings[second])
    shared = shapely.area(shapely.intersection(one, other))
    same = shared > SAME_SHARE * np.minimum(shapely.area(one), shapely.area(other))
    return first[same], second[same]

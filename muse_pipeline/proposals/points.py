"""Points from a map of foreground probability: one per nucleus, by peaks of the smoothed map.

PSM's post-processing, with its pixels of 0.25 um turned into um: blur, nothing below one half, peaks that keep a
distance, and peaks closer than a nucleus is wide drawn together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from muse_pipeline.config import require_between
from muse_pipeline.coords import row_column_index_to_xy


@dataclass(frozen=True)
class PeakRules:
    """What makes a peak; the defaults are the released code's at its 0.25 um/px.

    Attributes:
        blur_um: sigma of the Gaussian (13 x 13 px there, whose sigma is 2.3 px).
        least: smoothed probability below which nothing is a peak.
        distance_um: peaks keep at least this distance (6 px there).
        border_um: no peak lies nearer to the border of the picture (3 px there).
        merge_um: peaks whose distances in x and y add up to this or less become one, at their mean (20 px there).
    """

    blur_um: float = 0.575
    least: float = 0.5
    distance_um: float = 1.5
    border_um: float = 0.75
    merge_um: float = 5.0

    def __post_init__(self) -> None:
        require_between(self, "points", least=(0, 1), blur_um=(0, math.inf), distance_um=(0, math.inf))
        require_between(self, "points", border_um=(0, math.inf), merge_um=(0, math.inf))


def find_points(probability: np.ndarray, mpp: float, rules: PeakRules | None = None) -> np.ndarray:
    """(N, 2) float xy in px of the nuclei in ``probability`` (h, w), 0 to 1, at ``mpp`` um per pixel; by rows."""
    rules = rules or PeakRules()
    smooth = ndimage.gaussian_filter(np.asarray(probability, np.float32), rules.blur_um / mpp)
    smooth[smooth < rules.least] = 0
    radius_px = max(1, round(rules.distance_um / mpp))
    is_peak = (smooth > 0) & (smooth == ndimage.maximum_filter(smooth, 2 * radius_px + 1))
    border_px = round(rules.border_um / mpp)
    if border_px:
        is_peak[:border_px] = is_peak[-border_px:] = is_peak[:, :border_px] = is_peak[:, -border_px:] = False
    plateaus, n = ndimage.label(is_peak, np.ones((3, 3)))  # equal neighbours are one peak
    centres = np.array(ndimage.center_of_mass(is_peak, plateaus, np.arange(1, n + 1))).reshape(n, 2)
    heights = ndimage.maximum(smooth, plateaus, np.arange(1, n + 1)) if n else np.zeros(0)
    return merge_points(row_column_index_to_xy(centres), np.asarray(heights), rules.merge_um / mpp)


def merge_points(xy: np.ndarray, height: np.ndarray, reach_px: float) -> np.ndarray:
    """Draw points together that lie within ``reach_px`` of each other, |dx| + |dy|; the highest takes its neighbours.

    Args:
        xy: (N, 2).
        height: (N,), of equals the first goes first.
        reach_px: largest L1 distance; 0 merges nothing.

    Returns:
        (M, 2) means of the groups, by rows.
    """
    if len(xy) == 0:
        return np.zeros((0, 2))
    near = cKDTree(xy).query_ball_point(xy, reach_px, p=1) if reach_px else [[i] for i in range(len(xy))]
    free, merged = np.ones(len(xy), bool), []
    for index in np.argsort(-height, kind="stable"):
        if free[index]:
            group = [other for other in near[index] if free[other]]
            free[group] = False
            merged.append(xy[group].mean(0))
    merged = np.array(merged)
    return merged[np.lexsort(merged.T)]

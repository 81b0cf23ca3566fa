"""Outlines for nuclei that are labelled by a point: a seeded watershed on haematoxylin, then the clearest edge near."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import ndimage

from muse_pipeline.data.edge_outlines import follow_edges
from muse_pipeline.nuclei.label_image import march_rays
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.tissue.macenko import MacenkoFit
from muse_pipeline.tissue.stains import DENSITY, ROUNDED_TEXTBOOK

MAX_RADIUS_UM = 12.0
BLUR_UM, OTSU_SHARE = 0.35, 0.8  # grown from NuCLS centroids, outlines are then 2 % larger than the masks (median)
SMOOTHING = np.array([1, 2, 1]) / 4
PLAUSIBLE_AREA_UM2 = (8.0, 250.0)


def outline_points(pixels: np.ndarray, nuclei: Nuclei, stain: MacenkoFit | None, mpp: float, n_rays: int) -> Nuclei:
    """Give points outlines: a seeded watershed on smoothed haematoxylin, or a circle, put on the clearest edge near.

    Rays are NaN where no edge is clear or the outline is implausible.

    Args:
        pixels: (h, w, 3) uint8.
        nuclei: points in its pixels (frame: window).
        stain: the picture's stains, or None for the textbook haematoxylin.
        mpp: um per pixel.
        n_rays: rays per outline.
    """
    if not len(nuclei):
        return replace(nuclei, rays=np.zeros((0, n_rays), np.float32))
    amount = ndimage.gaussian_filter(measure_haematoxylin(pixels, stain), BLUR_UM / mpp)
    amount /= max(np.percentile(amount, 99), 1e-6)
    grown = march_rays(grow_regions(amount, nuclei.xy, mpp), nuclei.xy, (mpp, mpp), n_rays)
    rays = follow_edges(amount, nuclei.xy, grown, mpp)
    rays = ndimage.convolve1d(rays, SMOOTHING, axis=1, mode="wrap")  # edges are ragged, nuclei are not
    area_um2 = np.pi * (rays**2).mean(1)
    rays[(area_um2 < PLAUSIBLE_AREA_UM2[0]) | (area_um2 > PLAUSIBLE_AREA_UM2[1])] = np.nan
    return replace(nuclei, rays=rays)


def grow_regions(amount: np.ndarray, xy: np.ndarray, mpp: float) -> np.ndarray:
    """The seeded watershed: (h, w) int32, number i + 1 where the region of centre i lies.

    Args:
        amount: (h, w) smoothed haematoxylin, about 1 in the darkest nuclei.
        xy: (N, 2) centres, N > 0.
        mpp: um per pixel.
    """
    from skimage.filters import threshold_local, threshold_otsu
    from skimage.segmentation import watershed

    local = threshold_local(amount, 2 * round(25 / mpp) + 1, method="gaussian")
    dark = amount > np.maximum(local, OTSU_SHARE * threshold_otsu(amount))
    height, width = amount.shape
    seeds = np.zeros((height, width), np.int32)
    rows = np.floor(xy[:, 1]).astype(int).clip(0, height - 1)
    columns = np.floor(xy[:, 0]).astype(int).clip(0, width - 1)
    seeds[rows, columns] = np.arange(1, len(xy) + 1)
    near = ndimage.distance_transform_edt(seeds == 0)
    dark |= near <= 1.0 / mpp
    # Darkness and distance together: lines fall where it is lighter, else half way between two points.
    landscape = near * mpp / 4 - amount
    return _open_each(watershed(landscape, seeds, mask=dark & (near <= MAX_RADIUS_UM / mpp)), mpp)


def measure_haematoxylin(pixels: np.ndarray, stain: MacenkoFit | None) -> np.ndarray:
    """(h, w) float: the amount of haematoxylin by the picture's own stains, never negative."""
    density = DENSITY[pixels]
    if stain is None:  # their fit failed
        return density @ np.array(ROUNDED_TEXTBOOK[0], np.float32)
    return np.maximum(density @ np.linalg.pinv(stain.stains)[:, 0].astype(np.float32), 0)


def _open_each(regions: np.ndarray, mpp: float) -> np.ndarray:
    """Cut thin bridges off every region: keep what an opening of the foreground keeps."""
    radius = max(1, round(0.75 / mpp))
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    edges = ndimage.grey_erosion(regions, 3) != ndimage.grey_dilation(regions, 3)
    core = ndimage.binary_opening((regions > 0) & ~(edges & (regions == 0)), x * x + y * y <= radius * radius)
    return np.where(core, regions, 0)

"""How well outlines that are grown from points fit masks: by the watershed alone, and put on the nearest edge.

    python benchmarks/grown_outlines.py --data ../shared/data

Every instance of NuCLS that the picture's border does not cut is given a point near its centroid (half a pixel of
normal error). Dice of outline and mask over rays from that point, where an outline came out. Long: more than 1.8 times
as long as wide; large: a mean radius above 3.5 um.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from scipy import ndimage

from muse_pipeline.data.outlines import BLUR_UM, SMOOTHING, grow_regions, haematoxylin, outline_points
from muse_pipeline.nuclei.label_image import label_image_to_nuclei, march_rays
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.tissue.macenko import MacenkoFit, fit_macenko
from muse_pipeline.types import Frame

MASK_MPP, MPP, N_RAYS, ERROR_PX = 0.25, 0.5, 32, 0.5


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    folder = parser.parse_args().data / "nucls-cc0"
    rng = np.random.default_rng(0)
    true, watershed, edges = [], [], []
    for path in sorted((folder / "images").glob("*.png")):
        pixels, xy, rays = read_picture(path, folder / "instances" / path.name, rng)
        stain = fit_macenko(pixels.reshape(-1, 3))
        kept = np.isfinite(rays).all(1)
        true.append(rays[kept])
        watershed.append(watershed_rays(pixels, xy, stain)[kept])
        nuclei = Nuclei(xy=xy, frame=Frame.WINDOW)
        edges.append(outline_points(pixels, nuclei, stain, MPP, N_RAYS).rays[kept])
    rays = np.concatenate(true)
    across = rays + np.roll(rays, N_RAYS // 2, 1)
    groups = {"all": np.ones(len(rays), bool), "long": across.max(1) > 1.8 * across.min(1), "large": rays.mean(1) > 3.5}
    outlined = np.isfinite(np.concatenate(edges)).all(1)
    for name, found in (("watershed alone", watershed), ("on the nearest edge", edges)):
        dice = dice_of_rays(np.concatenate(found), rays)
        print(f"{name:20}", *(f"{group} {dice[chosen & outlined].mean():.3f}" for group, chosen in groups.items()))
    print(f"{'nuclei':20}", *(f"{group} {(chosen & outlined).sum()}" for group, chosen in groups.items()))


def read_picture(path: Path, mask_path: Path, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels at ``MPP``, points (N, 2) and true rays (N, R), NaN where the border cuts the instance."""
    share = MASK_MPP / MPP
    pixels = cv2.resize(cv2.imread(str(path))[..., ::-1], None, fx=share, fy=share, interpolation=cv2.INTER_AREA)
    mask = cv2.imread(str(mask_path), cv2.IMREAD_UNCHANGED)
    mask = cv2.resize(mask, pixels.shape[1::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    numbers, ranks = np.unique(mask, return_inverse=True)
    ranks = ranks.reshape(mask.shape) + int(numbers[0] != 0)
    centres = label_image_to_nuclei(ranks, (MPP, MPP), N_RAYS).xy
    xy = (centres + rng.normal(0, ERROR_PX, centres.shape)).clip(0, np.array(ranks.shape[::-1]) - 1e-3)
    rays = march_rays(ranks, xy, (MPP, MPP), N_RAYS)
    border = np.unique(np.concatenate([ranks[0], ranks[-1], ranks[:, 0], ranks[:, -1]]))
    rays[np.isin(np.arange(1, len(xy) + 1), border)] = np.nan
    return np.ascontiguousarray(pixels), xy, rays


def watershed_rays(pixels: np.ndarray, xy: np.ndarray, stain: MacenkoFit | None) -> np.ndarray:
    """(N, R) um, smoothed as ``outline_points`` does."""
    amount = ndimage.gaussian_filter(haematoxylin(pixels, stain), BLUR_UM / MPP)
    regions = grow_regions(amount / max(np.percentile(amount, 99), 1e-6), xy, MPP)
    return ndimage.convolve1d(march_rays(regions, xy, (MPP, MPP), N_RAYS), SMOOTHING, axis=1, mode="wrap")


def dice_of_rays(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """(N,) of two outlines around one point."""
    return 2 * (np.minimum(found, true) ** 2).sum(1) / ((found**2).sum(1) + (true**2).sum(1))


if __name__ == "__main__":
    main()

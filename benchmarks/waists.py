"""Whether slender nuclei are outlined with a waist: their width in the middle over their largest width.

    muse run ../shared/data/wsi-cmu-small-region/CMU-1-Small-Region.svs -o runs/cmu
    python benchmarks/waists.py runs/cmu/CMU-1-Small-Region/nuclei.parquet --masks ../shared/data/nucls-cc0/instances
    python benchmarks/waists.py demo/results/demo/nuclei.parquet --truth demo/truth.parquet      # after `make demo`

Widths are measured across the longest line through the centre. An ellipse has 1, a dumb-bell less; masks drawn by hand
are ragged and stay below 1 too. With the outlines that a slide was drawn with, also the Dice of what was found within
1.5 um of each, its own centre taken for both.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
from grown_outlines import dice_of_rays
from scipy.spatial import cKDTree

from muse_pipeline.nuclei.masks import label_image_to_nuclei
from muse_pipeline.nuclei.rays import ray_directions

LENGTHS = (1.0, 1.3, 1.8, 2.4, np.inf)  # over the width
MASK_MPP, N_RAYS = 0.25, 32
SAME_PX = 6.0  # of the drawn slide at 0.25 um/px


def main() -> None:
    """A line for each file and group of nuclei."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nuclei", type=Path, nargs="*", metavar="PARQUET", help="as `muse run` leaves it")
    parser.add_argument("--masks", type=Path, help="folder of instance masks, for comparison")
    parser.add_argument("--truth", type=Path, help="the nuclei that the slide was drawn with")
    args = parser.parse_args()
    for path in args.nuclei:
        show(str(path), np.stack(pq.read_table(path, columns=["rays"])["rays"].to_numpy()))
        if args.truth:
            show_dice(path, args.truth)
    if args.masks:
        masks = [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in sorted(args.masks.glob("*.png"))]
        nuclei = [label_image_to_nuclei(mask, (MASK_MPP, MASK_MPP), N_RAYS) for mask in masks]
        rays = np.concatenate([one.rays for one in nuclei])
        show(str(args.masks), rays[np.isfinite(rays).all(1)])


def show(name: str, rays: np.ndarray) -> None:
    """Print the mean of each group of lengths."""
    middle, length = measure(rays)
    print(name)
    for low, high in itertools.pairwise(LENGTHS):
        chosen = (length >= low) & (length < high)
        mean = f"{middle[chosen].mean():.3f}" if chosen.any() else "-"
        print(f"  length {low} to {high} widths: {chosen.sum():6,} nuclei, width in the middle {mean}")


def show_dice(found: Path, true: Path) -> None:
    """Print the mean Dice of each group of lengths of the true outlines."""
    (xy, rays), (true_xy, true_rays) = map(read_outlines, (found, true))
    distance, nearest = cKDTree(true_xy).query(xy)
    near = distance < SAME_PX
    true_rays = true_rays[nearest[near]]
    dice, length = dice_of_rays(rays[near], true_rays), measure(true_rays)[1]
    print(f"  Dice of all {dice.mean():.3f}")
    for low, high in itertools.pairwise(LENGTHS):
        chosen = (length >= low) & (length < high)
        print(f"  Dice where {low} to {high} widths long: {dice[chosen].mean():.3f}, {chosen.sum():,} nuclei")


def read_outlines(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Centres (N, 2) in level-0 pixels and rays (N, R) in um of a table."""
    table = pq.read_table(path, columns=["x", "y", "rays"])
    return np.stack([table["x"], table["y"]], 1), np.stack(table["rays"].to_numpy()).astype(float)


def measure(rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N,) width in the middle and (N,) length, both over the largest width, of rays (N, R)."""
    n_rays = rays.shape[1]
    across = rays + np.roll(rays, n_rays // 2, 1)
    axis = across.argmax(1)
    normals = ray_directions(n_rays)[(axis + n_rays // 4) % n_rays]  # (N, 2)
    sideways = np.einsum("nrk,nk->nr", rays[..., None] * ray_directions(n_rays), normals)
    width = sideways.max(1) - sideways.min(1)
    return across[np.arange(len(rays)), (axis + n_rays // 4) % n_rays] / width, across.max(1) / width


if __name__ == "__main__":
    main()

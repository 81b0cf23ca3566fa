"""How far rendered nuclei end inside the instances that they were rendered from.

    muse synthesize pictures --generator runs/unit/checkpoint.pt -o rendered --n 60 --size-px 128
    python benchmarks/rendered_edges.py rendered --mpp 0.5

Mean optical density of all pixels by their signed distance from the edge of the instances, and where it is halfway
between that of the background and that of the nuclei's middles.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from muse_pipeline.core.pictures import list_pictures, read_rgb

REACH_PX = 5


def main() -> None:
    """Print density by distance, and the distance of the halfway density."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rendered", type=Path, help="folder with images/ and instances/")
    parser.add_argument("--mpp", type=float, default=0.5)
    args = parser.parse_args()
    depth_px = np.arange(-REACH_PX, REACH_PX) + 0.5
    density = measure_profile(args.rendered)
    for each, value in zip(depth_px, density, strict=True):
        print(f"{each:+.1f} px  {value:.3f}")
    halfway = (density[0] + density[-1]) / 2
    edge_px = np.interp(halfway, density[REACH_PX - 1 :], depth_px[REACH_PX - 1 :])
    print(f"halfway ({halfway:.3f}) {edge_px:.2f} px, {edge_px * args.mpp:.2f} um inside the instances")


def measure_profile(folder: Path) -> np.ndarray:
    """(2 REACH_PX,) mean optical density; the first half outside the instances, from far to near."""
    total, n = np.zeros((2, 2 * REACH_PX))
    for path in list_pictures(folder / "images"):
        density = -np.log((read_rgb(path) + 1.0) / 256).mean(2)
        inside = (cv2.imread(str(folder / "instances" / path.name), -1) > 0).astype(np.uint8)
        within, beyond = (cv2.distanceTransform(mask, cv2.DIST_L2, 5) for mask in (inside, 1 - inside))
        signed = np.where(inside, within - 0.5, 0.5 - beyond)  # distances are to the next pixel's centre
        index = np.floor(signed).astype(int) + REACH_PX
        near = (index >= 0) & (index < 2 * REACH_PX)
        total += np.bincount(index[near], density[near], 2 * REACH_PX)
        n += np.bincount(index[near], minlength=2 * REACH_PX)
    return total / n


if __name__ == "__main__":
    main()

"""How well outlines that are grown from points fit masks: by the watershed alone, and put on the clearest edge near.

    python -m experiments.grown_outlines.run --data DATA    # measures what is not recorded
    python -m experiments.grown_outlines.run --table        # prints the table

Every instance of NuCLS, and of the bright-field pictures of the Data Science Bowl 2018, that the picture's border does
not cut is given a point near its centroid (half a pixel of normal error). Dice of outline and mask over rays from that
point, where an outline came out, and how many came out. Long: more than 1.8 times as long as wide; large: a mean radius
above 3.5 um. Of the Bowl's pictures nobody knows the um per pixel: each is scaled until its nuclei have a median radius
of 3.6 um, which makes "large" of them 4.5; most are stained with one dye, so that the textbook haematoxylin is theirs.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from scipy import ndimage

from experiments.common.crops import bowl_mpp
from experiments.common.runs import add_run, is_recorded, read_data, runs_of
from muse_pipeline.core.types import Frame
from muse_pipeline.labels.outlines import BLUR_UM, SMOOTHING, grow_regions, measure_haematoxylin, outline_points
from muse_pipeline.nuclei.masks import label_image_to_nuclei, march_rays
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.tissue.stain import MacenkoFit, fit_macenko

MASK_MPP, MPP, N_RAYS, ERROR_PX = 0.25, 0.5, 32, 0.5
RUNS = runs_of(__file__)
LARGE_UM = {"nucls-cc0": 3.5, "dsb2018-brightfield": 4.5}
KINDS = "watershed alone", "on the clearest edge"
TITLES = {"nucls-cc0": "NuCLS", "dsb2018-brightfield": "DSB-2018"}
LABELS = {"nucls-cc0": "instances", "dsb2018-brightfield": "labels"}


def main() -> None:
    """Measure the sets that are not recorded, or print the table."""
    if (data := read_data(__doc__, RUNS, render_table)) is None:
        return
    for name in LABELS:
        if not is_recorded(RUNS, set=name):
            add_run(RUNS, {"set": name, **describe(name, *measure(data / name))})


def describe(name: str, true: np.ndarray, *found: np.ndarray) -> dict:
    """Number of nuclei of each group, and mean Dice and fraction outlined of each kind of outlines."""
    across = true + np.roll(true, N_RAYS // 2, 1)
    groups = {
        "all": np.ones(len(true), bool),
        "long": across.max(1) > 1.8 * across.min(1),
        "large": true.mean(1) > LARGE_UM[name],
    }
    result = {"nuclei": {group: int(chosen.sum()) for group, chosen in groups.items()}}
    for kind, rays in zip(KINDS, found, strict=True):
        dice, outlined = dice_of_rays(rays, true), np.isfinite(rays).all(1)
        mean = {group: round(float(dice[chosen & outlined].mean()), 4) for group, chosen in groups.items()}
        result[kind] = {**mean, "outlined": round(float(outlined.mean()), 4)}
    return result


def render_table(runs: list[dict]) -> str:
    """Dice by group of nuclei."""
    rows = ["| pictures | outlines | all | long | large | outlined |", "|---|---|---|---|---|---|"]
    for run in runs:
        counts = " | ".join(f"{n:,}" for n in run["nuclei"].values())
        rows.append(f"| {TITLES[run['set']]} | nuclei | {counts} | |")
        for kind in KINDS:
            *dice, outlined = run[kind].values()
            rows.append(f"| | {kind} | {' | '.join(f'{value:.3f}' for value in dice)} | {100 * outlined:.0f} % |")
    return "\n".join(rows)


def measure(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rays (N, R) of the masks of a folder's pictures, of the watershed and of what training uses."""
    rng = np.random.default_rng(0)
    true, watershed, edges = [], [], []
    for path in sorted((folder / "images").glob("*.png")):
        picture = cv2.imread(str(path))[..., ::-1]
        mask = cv2.imread(str(folder / LABELS[folder.name] / path.name), cv2.IMREAD_UNCHANGED)
        mask_mpp = MASK_MPP if folder.name == "nucls-cc0" else bowl_mpp(mask)
        pixels, xy, rays = points_and_rays(picture, mask, mask_mpp, rng)
        stain = fit_macenko(pixels.reshape(-1, 3)) if folder.name == "nucls-cc0" else None
        kept = np.isfinite(rays).all(1)
        true.append(rays[kept])
        watershed.append(watershed_rays(pixels, xy, stain)[kept])
        nuclei = Nuclei(xy=xy, frame=Frame.WINDOW)
        edges.append(outline_points(pixels, nuclei, stain, MPP, N_RAYS).rays[kept])
    return np.concatenate(true), np.concatenate(watershed), np.concatenate(edges)


def points_and_rays(
    picture: np.ndarray, mask: np.ndarray, mask_mpp: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels at ``MPP``, points (N, 2) and true rays (N, R), NaN where the border cuts the instance."""
    share = mask_mpp / MPP
    how = cv2.INTER_AREA if share < 1 else cv2.INTER_LINEAR
    pixels = cv2.resize(picture, None, fx=share, fy=share, interpolation=how)
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
    amount = ndimage.gaussian_filter(measure_haematoxylin(pixels, stain), BLUR_UM / MPP)
    regions = grow_regions(amount / max(np.percentile(amount, 99), 1e-6), xy, MPP)
    return ndimage.convolve1d(march_rays(regions, xy, (MPP, MPP), N_RAYS), SMOOTHING, axis=1, mode="wrap")


def dice_of_rays(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """(N,) of two outlines around one point."""
    return 2 * (np.minimum(found, true) ** 2).sum(1) / ((found**2).sum(1) + (true**2).sum(1))


if __name__ == "__main__":
    main()

"""Whether training the self-supervised stage of PSM improves masks: 0, 100 and 10,000 updates.

    python -m experiments.psm_updates.run --data DATA       # trains and scores what is not recorded
    python -m experiments.psm_updates.run --table           # prints the table

The network is trained on the ten crops of NuCLS without their masks, and scored on these masks.
Every crop counts as a separate slide, and all masks are cut by one rule. Otsu's threshold has no
seed.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from experiments.common.crops import overlap_labels
from experiments.common.runs import run_arms, runs_of
from muse_pipeline.data.unlabelled import UnlabelledSource
from muse_pipeline.evaluation.detection import RADIUS_UM, jaccard_areas, jaccard_ratio, match_points
from muse_pipeline.methods.psm.activation_map import (
    ActivationNetwork,
    ClusterSettings,
    MaskSettings,
    PseudoMasker,
)
from muse_pipeline.methods.psm.run import ActivationConfig, ActivationStage, load_activation
from muse_pipeline.nuclei.masks import label_image_to_nuclei
from muse_pipeline.nuclei.rays import rays_to_rings
from muse_pipeline.nuclei.shape import measure_shapes
from muse_pipeline.proposals.otsu_mask import blend_stains, cut_mask, fit_otsu, haematoxylin
from muse_pipeline.tissue.stain import fit_macenko
from muse_pipeline.training.run import Options

BACKBONE = "shallow_cnn"  # backbone of the untrained network, the default of trained ones
MPP, N_RAYS = 0.25, 64
COLUMNS = ("pixel F1", "det. F1", "AJI", "recall", "least round", "middle", "roundest", "s/mm2")
Find = Callable[[np.ndarray], dict[str, np.ndarray]]
Fit = Callable[[np.ndarray, float], Find]
Mask = Callable[[np.ndarray, float], Callable[[np.ndarray], np.ndarray]]


def as_instances(mask: Mask) -> Fit:
    """A fit that finds instances, keyed "" for connected components and ", cut" for the mask cut by
    depth and stain.
    """

    def fit(pixels: np.ndarray, mpp: float) -> Find:
        fitted, stains = mask(pixels, mpp), blend_stains(macenko(pixels))

        def find(pixels: np.ndarray) -> dict[str, np.ndarray]:
            found = fitted(pixels)
            pieces = cv2.connectedComponents(found.astype(np.uint8))[1]
            return {"": pieces, ", cut": cut_mask(found, haematoxylin(pixels, stains), mpp)}

        return find

    return fit


def psm(network: ActivationNetwork | None, clusters: ClusterSettings) -> Mask:
    """A mask from clusters of an activation map and the colours; without a network, of the colours
    only.
    """
    settings = MaskSettings(clusters=clusters)
    return lambda pixels, mpp: PseudoMasker(network, [pixels], mpp, macenko(pixels), settings)


def macenko(pixels: np.ndarray) -> np.ndarray | None:
    """Stains (2, 3) of a picture; None if they are not plausible."""
    fit = fit_macenko(pixels.reshape(-1, 3))
    return fit and fit.stains


@dataclass(frozen=True)
class Picture:
    """A picture with its true nuclei.

    Attributes:
        pixels: (h, w, 3) uint8.
        labels: (h, w) int32, 0 background.
        xy: (T, 2) centres of the nuclei, px.
        circularity: (T,) 1 for a disc.
    """

    pixels: np.ndarray
    labels: np.ndarray
    xy: np.ndarray
    circularity: np.ndarray


def read_pictures(folder: Path, masks: str) -> list[Picture]:
    """Pictures and their instance masks, which are files with the same names in the folder
    ``masks``.
    """
    pictures = []
    for path in sorted((folder / "images").glob("*.png")):
        pixels = np.ascontiguousarray(cv2.imread(str(path))[..., ::-1])
        labels = cv2.imread(str(folder / masks / path.name), cv2.IMREAD_UNCHANGED).astype(np.int32)
        nuclei = label_image_to_nuclei(labels, (MPP, MPP), N_RAYS)
        shapes = measure_shapes(rays_to_rings(nuclei.xy, nuclei.rays, (MPP, MPP)), (MPP, MPP))
        circularity = 4 * np.pi * shapes["area_um2"] / shapes["perimeter_um"] ** 2
        pictures.append(Picture(pixels, labels, nuclei.xy, circularity))
    return pictures


class Tally:
    """Counts for one row of the table, summed picture by picture."""

    def __init__(self) -> None:
        self.shared = self.n_pixels = self.n_found = 0
        self.aji: list[float] = []
        self.hit: list[np.ndarray] = []

    def add(self, labels: np.ndarray, picture: Picture) -> None:
        """Compare an instance image (h, w) with the truth."""
        found, true = labels > 0, picture.labels > 0
        self.shared += (found & true).sum()
        self.n_pixels += found.sum() + true.sum()
        self.aji.append(float(jaccard_ratio(jaccard_areas(overlap_labels(labels, picture.labels)))))
        xy = label_image_to_nuclei(labels, (MPP, MPP), N_RAYS).xy
        taken = match_points(xy, np.ones(len(xy)), picture.xy, RADIUS_UM / MPP)
        self.hit.append(np.isin(np.arange(len(picture.xy)), taken))
        self.n_found += len(xy)

    def scores(self, third: np.ndarray) -> dict[str, float]:
        """All columns but the time; ``third`` (T,) is 0, 1 or 2: the third by roundness of each
        true nucleus.
        """
        hit = np.concatenate(self.hit)
        values = (
            2 * self.shared / self.n_pixels,
            2 * hit.sum() / (self.n_found + len(hit)),
            np.mean(self.aji),
            hit.mean(),
            *(hit[third == number].mean() for number in range(3)),
        )
        return {name: round(float(value), 3) for name, value in zip(COLUMNS, values, strict=False)}


def score_control(fit: Fit, pictures: list[Picture]) -> dict[str, dict[str, float]]:
    """Scores of each way to divide a mask into nuclei, keyed as in ``as_instances``."""
    circularity = np.concatenate([picture.circularity for picture in pictures])
    third = np.digitize(circularity, np.quantile(circularity, [1 / 3, 2 / 3]))
    tallies: dict[str, Tally] = {}
    for picture in pictures:
        for row, labels in fit(picture.pixels, MPP)(picture.pixels).items():
            tallies.setdefault(row, Tally()).add(labels, picture)
    return {row: tally.scores(third) for row, tally in tallies.items()}


RUNS = runs_of(__file__)
UPDATES = {"untrained": 0, "short": 100, "long": 10_000}
TITLES = {name: f"PSM, {steps:,} updates" for name, steps in UPDATES.items()} | {
    "otsu": "Otsu on haematoxylin"
}
SHOWN = COLUMNS[:-1]  # all but the time


def run_arm(arm: str, seed: int, args: argparse.Namespace) -> dict:
    """Scores of the masks of an arm, cut into nuclei."""
    cv2.setNumThreads(1)
    folder = args.data.resolve() / "nucls-cc0"
    mask = make_mask(arm, seed, folder / "images", args.work / f"{arm}-{seed}")
    return {
        "scores": score_control(as_instances(mask), read_pictures(folder, "instances"))[", cut"]
    }


def make_mask(arm: str, seed: int, images: Path, work: Path) -> Mask:
    """The mask of an arm, whose network, if any, is trained first."""
    if arm == "otsu":
        return lambda pixels, mpp: fit_otsu([pixels], mpp)
    if not UPDATES[arm]:
        torch.manual_seed(seed)
        return psm(ActivationNetwork(BACKBONE).eval(), ClusterSettings())
    config = ActivationConfig(
        sources=(UnlabelledSource(images=images, mpp=MPP),), mpp=MPP, seed=seed
    )
    config = dataclasses.replace(
        config, schedule=dataclasses.replace(config.schedule, steps=UPDATES[arm])
    )
    checkpoint = ActivationStage(config, work).run(Options(accelerator="cpu", threads=1))
    return psm(load_activation(checkpoint), ClusterSettings())


def render_table(runs: list[dict]) -> str:
    """The table of mean scores over seeds."""
    header = ["masks, cut into nuclei", "seeds", *SHOWN]
    rows = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for arm, title in TITLES.items():
        scores = [run["scores"] for run in runs if run["arm"] == arm]
        if scores:
            means = [f"{np.mean([one[column] for one in scores]):.3f}" for column in SHOWN]
            rows.append(f"| {title} | {len(scores)} | {' | '.join(means)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    run_arms(__doc__, RUNS, tuple(TITLES), run_arm, render_table, reads_data=True)

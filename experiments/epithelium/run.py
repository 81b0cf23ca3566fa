"""Epithelium in the regions that come from the classes of nuclei, on pictures whose epithelium is
outlined.

    python -m experiments.epithelium.run --data DATA     # scores what is not recorded
    python -m experiments.epithelium.run --table         # prints the tables

Nuclei are those of the built-in model `compact`. The Gaussian was chosen on "colon, to choose":
half of the accessions of EBHI-Seg that `compact` was not trained on; the other half is "colon, to
score". The tiles of the mouth (OCDC) are among its training data. Dice is over all pixels of a set;
"painting" calls every pixel epithelium. "Unlike" is, among epithelial and stromal nuclei, the share
of epithelial ones outside epithelium and stromal ones inside it, more than 16 um from its border,
if epithelium is what is outlined or everything. The second table has the share of each region in
patches of lymph nodes (CAMELYON16), 64 um wide. `python -m experiments.areas.prepare DATA` writes
DATA/prepared.
"""

from __future__ import annotations

import argparse
import zlib
from pathlib import Path

import cv2
import numpy as np

from experiments.common.areas import EBHI_MPP, EPITHELIAL, ORAL_MPP, ebhi_pictures, oral_pictures
from experiments.common.runs import change_from, run_arms, runs_of
from muse_pipeline.core.pictures import list_pictures, read_rgb
from muse_pipeline.inference.detect import detect_picture
from muse_pipeline.inference.model import find_model
from muse_pipeline.inference.nucleus_regions import (
    CELL_UM,
    MIN_AREA_MM2,
    NO_NUCLEI,
    SIGMA_UM,
    map_shares,
)
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.inference.region_lookup import MARGIN_UM
from muse_pipeline.inference.region_maps import SlideMap, classify
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.tissue.stain import fit_macenko

ARM = "nuclei"
SIGMAS_UM = (4.0, SIGMA_UM, 12.0, 16.0)
SETS = {
    "choose": "colon, to choose",
    "score": "colon, to score",
    "mouth": "mouth, in training, tiles of one patient",
}
NODES, NODE_MPP = {"normal": "lymph node", "tumor": "tumour in it"}, 0.25
REGIONS = ("no nuclei", "lymphoid", "epithelium", "stroma")
STROMA = 2  # index of the class


def run_arm(arm: str, seed: int, args: argparse.Namespace) -> dict:
    """Score the regions of all pictures."""
    cv2.setNumThreads(1)
    predictor = Predictor(find_model("compact"))
    colon = ebhi_pictures(args.data, odd=True)
    halves = [
        [row for row in colon if zlib.crc32(row[2].encode()) // 2 % 2 == half] for half in (0, 1)
    ]
    found = {
        name: score(predictor, half, EBHI_MPP)
        for name, half in zip(("choose", "score"), halves, strict=True)
    }
    found["mouth"] = score(predictor, oral_pictures(args.data), ORAL_MPP)
    nodes = {kind: list_pictures(args.data / f"camelyon16-patches/{kind}") for kind in NODES}
    return {
        **found,
        "nodes": {kind: count_cells(predictor, paths) for kind, paths in nodes.items()},
    }


def score(predictor: Predictor, pictures: list[tuple[Path, Path, str]], mpp: float) -> dict:
    """Patients, numbers of pixels and numbers of nuclei of each picture.

    The pixels are those correctly found and those found with each Gaussian and by painting, and
    those of epithelium. The nuclei are those unlike the outlines, those unlike painting, and all
    epithelial and stromal ones.
    """
    areas, unlike, patients = [], [], []
    for picture, mask_path, patient in pictures:
        true = cv2.imread(str(mask_path), cv2.IMREAD_GRAYSCALE) > 0
        nuclei = find_nuclei(predictor, picture, mpp)
        y, x = (np.floor((np.arange(n) + 0.5) * mpp / CELL_UM).astype(int) for n in true.shape)
        labels = [
            map_picture(predictor, nuclei, true.shape, mpp, sigma)[np.ix_(y, x)]
            for sigma in SIGMAS_UM
        ]
        found = [*(label == EPITHELIAL + 1 for label in labels), np.ones_like(true)]
        areas.append(
            [int(n) for one in found for n in ((one & true).sum(), one.sum())] + [int(true.sum())]
        )
        unlike.append(count_unlike(nuclei, true, mpp))
        patients.append(patient)
    return {"patients": patients, "areas": areas, "unlike": unlike}


def find_nuclei(predictor: Predictor, picture: Path, mpp: float) -> Nuclei:
    """The nuclei of a picture, in its pixels."""
    pixels = read_rgb(picture)
    return detect_picture(predictor, pixels, mpp, fit_macenko(pixels.reshape(-1, 3)))


def map_picture(
    predictor: Predictor, nuclei: Nuclei, shape: tuple[int, int], mpp: float, sigma_um: float
) -> np.ndarray:
    """Index into ``REGIONS`` of every cell (h, w) of a picture with this ``shape``."""
    size = tuple(int(np.ceil(n * mpp / CELL_UM)) for n in shape)
    cell = np.floor(nuclei.xy * mpp / CELL_UM).astype(int).clip(0, np.array(size[::-1]) - 1)
    shares = map_shares(cell, np.rint(nuclei.prob * 255).astype(np.uint8), size, CELL_UM, sigma_um)
    classes = (NO_NUCLEI, *predictor.card.classes)
    everywhere, facts = np.ones(size, bool), {"cell_um": CELL_UM}
    return (
        classify(
            SlideMap(classes, (False,) * 4, shares, everywhere, MIN_AREA_MM2, facts, rim_um=0.0)
        )
        - 1
    )


def count_unlike(nuclei: Nuclei, true: np.ndarray, mpp: float) -> list[int]:
    """Nuclei unlike the outlines, nuclei unlike painting everything, and epithelial and stromal
    nuclei.
    """
    column, row = np.floor(nuclei.xy).astype(int).clip(0, np.array(true.shape[::-1]) - 1).T
    framed = [
        np.pad(part.astype(np.uint8), 1, constant_values=1) for part in (true, ~true)
    ]  # no border at the frame
    depth = [
        cv2.distanceTransform(part, cv2.DIST_L2, 5)[1:-1, 1:-1] > MARGIN_UM / mpp for part in framed
    ]
    of_class = [nuclei.label == index for index in (STROMA, EPITHELIAL)]
    n_unlike = sum(
        int((part[row, column] & one).sum()) for part, one in zip(depth, of_class, strict=True)
    )
    n_stroma, n_epithelial = (int(one.sum()) for one in of_class)
    return [n_unlike, n_stroma, n_stroma + n_epithelial]


def count_cells(predictor: Predictor, paths: list[Path]) -> list[int]:
    """Number of cells of each region in all pictures."""
    counts = np.zeros(len(REGIONS), int)
    for path in paths:
        label = map_picture(
            predictor, find_nuclei(predictor, path, NODE_MPP), (256, 256), NODE_MPP, SIGMA_UM
        )
        counts += np.bincount(label.ravel(), minlength=len(REGIONS))
    return counts.tolist()


def dice(areas: np.ndarray) -> np.ndarray:
    """Dice coefficient (...) of summed pixels (..., 3): correctly found, found and true."""
    return 2 * areas[..., 0] / areas[..., 1:].sum(-1).clip(min=1)


def render(recorded: list[dict]) -> str:
    """Tables of Dice with intervals bootstrapped over patients (for the mouth, tiles), and of lymph
    nodes.
    """
    chosen = SIGMAS_UM.index(SIGMA_UM)
    heads = ["pictures", "n", "patients", *(f"{sigma:g} um" for sigma in SIGMAS_UM), "painting"]
    heads += [f"{SIGMA_UM:g} um, less painting (95 %)", "unlike: outlines", "unlike: painting"]
    lines, nodes = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"], []
    for run in (run for run in recorded if run["arm"] == ARM):
        for name, title in SETS.items():
            areas, patients = np.array(run[name]["areas"], float), run[name]["patients"]
            maps = [
                areas[:, [2 * number, 2 * number + 1, -1]] for number in range(len(SIGMAS_UM) + 1)
            ]
            unlike = np.array(run[name]["unlike"]).sum(0)
            cells = [title, str(len(areas)), "1" if name == "mouth" else str(len(set(patients)))]
            cells += [f"{dice(one.sum(0)):.3f}" for one in maps]
            cells += [
                change_from(dice, maps[-1], maps[chosen], patients),
                *(f"{n / unlike[2]:.0%}" for n in unlike[:2]),
            ]
            lines.append(f"| {' | '.join(cells)} |")
        for kind, counts in run["nodes"].items():
            nodes.append(
                f"| {' | '.join([NODES[kind], *(f'{n / sum(counts):.0%}' for n in counts)])} |"
            )
    return "\n".join([*lines, "", f"| patches | {' | '.join(REGIONS)} |", "|---" * 5 + "|", *nodes])


if __name__ == "__main__":
    run_arms(__doc__, runs_of(__file__), (ARM,), run_arm, render, reads_data=True, seeds=(0,))

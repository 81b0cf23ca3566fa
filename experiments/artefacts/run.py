"""Synthetic artefacts in real tissue: how much of them is found, and how much other tissue is lost.

    python -m experiments.artefacts.run --data DATA           # measures what is not recorded
    python -m experiments.artefacts.run --table               # prints the table
    python -m experiments.artefacts.run --data DATA --shares  # prints what other thresholds of \
        focus find and lose

An image at 0.5 um/px consists of a crop of BRCA-M2C and its mirror images (0.8 mm2, because folds
are recognised by being darker than the rest of their slide), or of 49 patches of CAMELYON16, whose
patients are unknown, side by side (0.2 mm2). In at least a 32nd of the image, irregular areas are
blurred by a Gaussian, or folds, bubbles or ink are synthesised (`draw.py`), and camera noise of 1.5
grey levels is added. The image goes through the steps of a slide; what `muse step tissue` leaves
out counts as flagged.

The model `artefacts` was not trained on patients of these pictures. Its colours, and all its
thresholds except the lower one of folds, were chosen on these pictures, on synthetic slides, and on
CMU-1-Small-Region, parts of which the model was trained on. The minimum area of folds, and the
margin of cells left out around them, were also chosen on the sets of `clean_tissue`. The thresholds
of focus were chosen on these pictures as well and on bone and cartilage of `clean_tissue`, and
confirmed on other crops of BRCA-M2C, on TNBC (`--shares`) and on CMU-1-Small-Region, of which
nothing is lost. The rules about the mean colour and the length of areas were chosen on synthetic
artefacts, the synthetic slide of `muse demo-slide` and `clean_tissue`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from experiments.artefacts.draw import (
    INKS,
    blank,
    draw_bubble,
    draw_fold,
    draw_specks,
    draw_stroke,
    evaluation_crops,
    write_slide,
)
from experiments.common.runs import add_run, is_recorded, read_runs, runs_of
from muse_pipeline.cohort.layout import SlideFiles
from muse_pipeline.cohort.sheet import SheetRow
from muse_pipeline.core.pictures import read_rgb
from muse_pipeline.inference.artefacts import (
    CELL_UM,
    CLEAN,
    KINDS,
    MIN_AREAS_MM2,
    MPP,
    RATIO_LIMITS,
    find_artefacts,
    find_blurred,
    measure_focus,
    settle_areas,
)
from muse_pipeline.inference.stains import read_colour
from muse_pipeline.pipeline import make_image
from muse_pipeline.settings import RunSettings
from muse_pipeline.store.store import open_store
from muse_pipeline.tissue.mask import TissueMask

SHARES = (
    (0, 0.36),
    (0.58, 9),
    (0.54, 0.36),
    (0.58, 0.36),
    (0.58, 0.4),
    (0.62, 0.36),
)  # threshold of the ratio of detail, as a share of its median, and the highest threshold allowed
RUNS = runs_of(__file__)
NOISE, SHARE = 1.5, 1 / 32
Draw = Callable[
    [np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]
]  # returns changed picture and area


def plant_blur(
    pixels: np.ndarray, rng: np.random.Generator, um: float
) -> tuple[np.ndarray, np.ndarray]:
    """Blur irregular areas, with soft edges of some 3 um; also return the areas."""
    area = draw_area(pixels.shape[:2], rng)
    soft = cv2.GaussianBlur(area.astype(np.float32), (0, 0), 6)[..., None]
    return pixels * (1 - soft) + cv2.GaussianBlur(pixels, (0, 0), um / MPP) * soft, area


def plant_drawn(
    pixels: np.ndarray, rng: np.random.Generator, draw: Callable[..., tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    """Call ``draw`` until its artefacts cover ``SHARE`` of the picture; also return their area."""
    area = blank(pixels) > 0
    while area.mean() < SHARE:
        pixels, drawn = draw(pixels, rng, MPP)
        area |= drawn
    return pixels, area


PLANTED: dict[str, Draw | None] = {
    "clean": None,
    **{f"blurred by {um:g} um": partial(plant_blur, um=um) for um in (0.75, 1, 1.5, 2, 3)},
    "folds": partial(plant_drawn, draw=draw_fold),
    "bubbles": partial(plant_drawn, draw=draw_bubble),
    **{f"{ink} pen": partial(plant_drawn, draw=partial(draw_stroke, ink=ink)) for ink in INKS},
    "specks of ink": partial(plant_drawn, draw=draw_specks),
}


def main() -> None:
    """Measure what is not recorded, or print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data",
        type=Path,
        help="folder with brca-m2c and camelyon16-patches, or for --shares tnbc-nuclei",
    )
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--shares", action="store_true")
    args = parser.parse_args()
    if args.table:
        print(table())
        return
    if args.shares:
        print_shares(args.data)
        return
    for source, images in evaluated_images(args.data):
        if not is_recorded(RUNS, source=source):
            found = {name: measure(images, planted) for name, planted in PLANTED.items()}
            add_run(RUNS, {"source": source, "found": found})


def evaluated_images(data: Path) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Yield the name and images (h, w, 3) uint8 at ``MPP`` of each source."""
    yield (
        "brca-m2c",
        [lay_out_mirrored(read_rgb(path)[:448, :448], 4) for path in evaluation_crops(data)],
    )
    patches = [read_rgb(path) for path in sorted((data / "camelyon16-patches").rglob("*.png"))]
    patches = [
        cv2.resize(each, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) for each in patches
    ]
    yield "camelyon16", [lay_out([each for each in patches if each.mean() < 225][:49], 128)] * 4


def other_images(data: Path) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Yield the same as ``evaluated_images``, for other patients of BRCA-M2C and for TNBC."""
    held = {path.name[:12] for path in evaluation_crops(data)}
    crops = [
        path
        for path in sorted((data / "brca-m2c/images").glob("*.png"))
        if path.name[:12] not in held
    ]
    yield "brca-m2c", [lay_out_mirrored(read_rgb(path)[:448, :448], 4) for path in crops[::2]]
    patients = defaultdict(list)
    for path in sorted((data / "tnbc-nuclei/images").glob("*.png")):
        patients[path.name[:2]].append(read_rgb(path))
    small = {
        patient: [
            cv2.resize(each, (256, 256), interpolation=cv2.INTER_AREA) for each in of_patient[:4]
        ]
        for patient, of_patient in patients.items()
    }
    yield (
        "tnbc",
        [
            lay_out_mirrored(lay_out(each, 256), 6 if len(each) < 4 else 3)
            for each in small.values()
        ],
    )


def print_shares(data: Path) -> None:
    """Print for each threshold the found share of areas blurred by 0.75 um, and the lost share
    of clean images.
    """
    for source, images in other_images(data):
        clean = [measure_focus_of(image, None, seed) for seed, image in enumerate(images)]
        blurred = [
            measure_focus_of(image, PLANTED["blurred by 0.75 um"], seed)
            for seed, image in enumerate(images)
        ]
        for share, upper in SHARES:
            found = [flag(energies, share, upper)[planted] for energies, planted in blurred]
            lost = [flag(energies, share, upper)[energies[1] > 0].mean() for energies, _ in clean]
            print(
                f"| {source}, {len(images)} | {share:g} | {upper:g} |"
                f" {percent(np.concatenate(found).mean())} | {percent(np.mean(lost))} |"
                f" {percent(max(lost))} |"
            )


def flag(energies: tuple[np.ndarray, np.ndarray], share: float, upper: float) -> np.ndarray:
    """(rows, columns) bool: the cells that are out of focus by these thresholds."""
    return settle_areas(find_blurred(*energies, share, (RATIO_LIMITS[0], upper)), MIN_AREAS_MM2[0])


def measure_focus_of(
    image: np.ndarray, plant: Draw | None, seed: int
) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Energies of detail in the cells of an image, and (rows, columns) bool, True if most of a
    cell is planted.
    """
    noisy, area = spoil(image, plant, seed)
    with tempfile.TemporaryDirectory() as folder:
        files, _ = take_to_store(Path(folder), noisy)
        store = open_store(files.store(MPP))
        n_cells = tuple(-(-side // round(CELL_UM / MPP)) for side in store.size_px[::-1])
        energies = measure_focus(store, n_cells)
    share = cv2.resize(area.astype(np.float32), n_cells[::-1], interpolation=cv2.INTER_AREA)
    return energies, (share > 0.5) & (energies[1] > 0)


def lay_out(pictures: list[np.ndarray], side: int) -> np.ndarray:
    """The largest square that the pictures can fill, each cut to ``side`` px."""
    n = int(len(pictures) ** 0.5)
    cut = [each[:side, :side] for each in pictures[: n * n]]
    return np.concatenate([np.concatenate(cut[n * row : n * row + n], 1) for row in range(n)])


def lay_out_mirrored(picture: np.ndarray, n: int) -> np.ndarray:
    """A square of n times n copies of a picture, each the mirror image of its neighbours."""
    height, width = picture.shape[:2]
    return np.pad(picture, [(0, (n - 1) * height), (0, (n - 1) * width), (0, 0)], "symmetric")


def measure(images: list[np.ndarray], plant: Draw | None) -> dict[str, float]:
    """Share of the planted area that is flagged, and share of the tissue at least two cells
    away that is flagged.
    """
    hit = true = lost = clean = 0
    for seed, image in enumerate(images):
        noisy, area = spoil(image, plant, seed)
        kind, tissue = find(noisy)
        rows, columns = (side // round(CELL_UM / MPP) for side in image.shape[:2])
        share = cv2.resize(area.astype(np.float32), (columns, rows), interpolation=cv2.INTER_AREA)
        beside = cv2.dilate((share > 0).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        flagged, tissue = kind[:rows, :columns] != CLEAN, tissue[:rows, :columns]
        planted = (share > 0.5) & tissue
        hit, true = hit + (flagged & planted).sum(), true + planted.sum()
        lost, clean = lost + (flagged & ~beside & tissue).sum(), clean + (~beside & tissue).sum()
    return {"recall": round(hit / true, 4) if true else None, "lost": round(lost / clean, 4)}


def spoil(image: np.ndarray, plant: Draw | None, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The image with planted artefacts and camera noise, and the planted area."""
    rng = np.random.default_rng(seed)
    changed, area = plant(image, rng) if plant else (image, blank(image))
    return (
        np.clip(np.rint(changed + rng.normal(0, NOISE, image.shape)), 0, 255).astype(np.uint8),
        area,
    )


def draw_area(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """(h, w) bool: irregular areas with radii of 150 to 350 px that cover ``SHARE`` of the
    image.
    """
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    area = np.zeros(shape, bool)
    while area.mean() < SHARE:
        (cx, cy), radius, (a, b) = (
            rng.uniform(0, shape[::-1]),
            rng.uniform(150, 350),
            rng.uniform(0, 2 * np.pi, 2),
        )
        angle = np.arctan2(y - cy, x - cx)
        area |= np.hypot(x - cx, y - cy) < radius * (
            1 + 0.25 * np.sin(3 * angle + a) + 0.15 * np.sin(5 * angle + b)
        )
    return area


def find(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(rows, columns) kind of artefact found in each cell of an image, and bool, True if the
    cell is tissue.
    """
    with tempfile.TemporaryDirectory() as folder:
        files, mask = take_to_store(Path(folder), image)
        kind = find_artefacts(
            open_store(files.store(MPP)), mask, read_colour(files.colour).macenko
        ).kind
        left_out = (
            cv2.resize(
                mask.dilated.view(np.uint8), kind.shape[::-1], interpolation=cv2.INTER_NEAREST
            )
            == 0
        )
        kind[left_out & (kind == CLEAN)] = KINDS.index("ink")
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    tissue = (
        cv2.resize((grey < 220).astype(np.float32), kind.shape[::-1], interpolation=cv2.INTER_AREA)
        > 0.5
    )
    return kind, tissue


def take_to_store(folder: Path, image: np.ndarray) -> tuple[SlideFiles, TissueMask]:
    """Run the steps of a slide up to its store, and return its files and its tissue."""
    slide, files = folder / "slide.tif", SlideFiles(folder / "results")
    write_slide(slide, image, MPP)
    files.folder.mkdir()
    make_image(slide, SheetRow("slide", str(slide)), files, MPP, RunSettings())
    return files, TissueMask.load(files.mask)


def table() -> str:
    """Markdown of all runs."""
    runs = read_runs(RUNS)
    head = "".join(f" {run['source']}: found | lost |" for run in runs)
    lines = [f"| planted |{head}", "|---|" + "---|---|" * len(runs)]
    for name in PLANTED:
        cells = (run["found"][name] for run in runs)
        lines.append(
            f"| {name} |"
            + "".join(f" {percent(each['recall'])} | {percent(each['lost'])} |" for each in cells)
        )
    return "\n".join(lines)


def percent(share: float | None) -> str:
    """A share as text, as in "96.4 %"; empty for None."""
    return "" if share is None else f"{100 * share:.1f} %"


if __name__ == "__main__":
    main()

"""Areas out of focus and in ink, planted into real tissue: how much of them is found, and how much else is lost.

    python experiments/artefacts.py --data DATA           # measures what has no JSON in experiments/artefacts/
    python experiments/artefacts.py --table               # prints the table

Pictures are laid side by side into an image of about 1 mm2 at 0.5 um/px. Irregular areas of an eighth of it are blurred
by a Gaussian, or dimmed as under a pen, and camera noise of 1.5 grey levels is added. The image goes through the steps
of a slide; a stroke that `muse tissue` leaves out counts as found. The threshold was chosen on every third picture of
BRCA-M2C, on TNBC and on CMU-1-Small-Region; those are not in here.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import tifffile

from muse_pipeline.cohort.layout import SlideFiles
from muse_pipeline.core.files import read_json
from muse_pipeline.core.pictures import read_rgb
from muse_pipeline.inference.artefacts import CELL_UM, CLEAN, KINDS, MPP, find_artefacts
from muse_pipeline.pipeline import make_image
from muse_pipeline.store.store import open_store
from muse_pipeline.tissue.mask import TissueMask

RUNS = Path(__file__).parent / "artefacts"
NOISE, SHARE, SEEDS = 1.5, 0.125, 3
PLANTED = {  # kind, and the deviation of the blur in um or the light that a pen lets through
    "clean": None,
    "blurred by 0.75 um": ("blurred", 0.75),
    "blurred by 1 um": ("blurred", 1.0),
    "blurred by 1.5 um": ("blurred", 1.5),
    "blurred by 2 um": ("blurred", 2.0),
    "blurred by 3 um": ("blurred", 3.0),
    "black pen": ("ink", (0.15, 0.15, 0.17)),
    "green pen": ("ink", (0.2, 0.65, 0.4)),
    "blue pen": ("ink", (0.25, 0.4, 0.8)),
}


def main() -> None:
    """Measure what is missing, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with brca-m2c and camelyon16-patches")
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    if args.table:
        print(table())
        return
    RUNS.mkdir(exist_ok=True)
    for source, image in images(args.data):
        output = RUNS / f"{source}.json"
        if not output.exists():
            found = {name: measure(image, planted) for name, planted in PLANTED.items()}
            output.write_text(json.dumps({"source": source, "found": found}, indent=1) + "\n")
            print(source, json.dumps(found))


def images(data: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Name and (h, w, 3) uint8 at ``MPP`` of each source."""
    crops = sorted((data / "brca-m2c").rglob("*.png"))
    yield "brca-m2c", lay_out([read_rgb(path) for n, path in enumerate(crops) if n % 3 == 1][:16], 448)
    patches = [read_rgb(path) for path in sorted((data / "camelyon16-patches").rglob("*.png"))]
    patches = [cv2.resize(each, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) for each in patches]
    yield "camelyon16", lay_out([each for each in patches if each.mean() < 225][:49], 128)


def lay_out(pictures: list[np.ndarray], side: int) -> np.ndarray:
    """A square of as many of the pictures as fill it, each cut to ``side`` px."""
    n = int(len(pictures) ** 0.5)
    cut = [each[:side, :side] for each in pictures[: n * n]]
    return np.concatenate([np.concatenate(cut[n * row : n * row + n], 1) for row in range(n)])


def measure(image: np.ndarray, planted: tuple[str, object] | None) -> dict[str, float]:
    """Share of the planted area that is found, and share of other tissue, two cells away, that is flagged."""
    hit = true = lost = clean = 0
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        area = draw_area(image.shape[:2], rng) if planted else np.zeros(image.shape[:2], np.float32)
        changed = plant(image, area, planted)
        noisy = np.clip(np.rint(changed + rng.normal(0, NOISE, image.shape)), 0, 255).astype(np.uint8)
        kind, tissue = find(noisy)
        rows, columns = (side // round(CELL_UM / MPP) for side in image.shape[:2])
        share = cv2.resize(area, (columns, rows), interpolation=cv2.INTER_AREA)
        beside = cv2.dilate((share > 0).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        kind, tissue = kind[:rows, :columns], tissue[:rows, :columns]
        flagged = kind == KINDS.index(planted[0]) if planted else kind != CLEAN
        hit, true = hit + (flagged & (share > 0.5) & tissue).sum(), true + ((share > 0.5) & tissue).sum()
        lost, clean = lost + ((kind != CLEAN) & ~beside & tissue).sum(), clean + (~beside & tissue).sum()
    return {"recall": round(hit / true, 4) if true else None, "lost": round(lost / clean, 4)}


def draw_area(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """(h, w) float32, 1 in irregular areas of 150 to 350 px radius that cover ``SHARE`` of the image."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    area = np.zeros(shape, np.float32)
    while area.mean() < SHARE:
        (cx, cy), radius, (a, b) = rng.uniform(0, shape[::-1]), rng.uniform(150, 350), rng.uniform(0, 2 * np.pi, 2)
        angle = np.arctan2(y - cy, x - cx)
        edge = radius * (1 + 0.25 * np.sin(3 * angle + a) + 0.15 * np.sin(5 * angle + b))
        area[np.hypot(x - cx, y - cy) < edge] = 1
    return area


def plant(image: np.ndarray, area: np.ndarray, planted: tuple[str, object] | None) -> np.ndarray:
    """The image with what is planted, float, with edges of some 3 um."""
    if planted is None:
        return image.astype(float)
    soft = cv2.GaussianBlur(area, (0, 0), 6)[..., None]
    kind, how = planted
    other = cv2.GaussianBlur(image, (0, 0), how / MPP) if kind == "blurred" else image * np.array(how)
    return image * (1 - soft) + other * soft


def find(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What is found in each cell of an image, and whether the cell is tissue, both (rows, columns)."""
    with tempfile.TemporaryDirectory() as folder:
        slide, files = Path(folder, "slide.tif"), SlideFiles(Path(folder, "results"))
        with tifffile.TiffWriter(slide) as tiff:
            pixels_per_cm = {"resolution": (1e4 / MPP,) * 2, "resolutionunit": "CENTIMETER"}
            tiff.write(image, tile=(256, 256), photometric="rgb", compression="deflate", **pixels_per_cm)
        files.folder.mkdir()
        make_image(slide, files, "slide", MPP)
        mask = TissueMask.load(files.mask)
        kind = find_artefacts(open_store(files.store(MPP)), mask).kind
        left_out = cv2.resize(mask.dilated.view(np.uint8), kind.shape[::-1], interpolation=cv2.INTER_NEAREST) == 0
        kind[left_out & (kind == CLEAN)] = KINDS.index("ink")
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    tissue = cv2.resize((grey < 220).astype(np.float32), kind.shape[::-1], interpolation=cv2.INTER_AREA) > 0.5
    return kind, tissue


def table() -> str:
    """Markdown of all runs."""
    runs = [read_json(path) for path in sorted(RUNS.glob("*.json"))]
    head = "".join(f" {run['source']}: found | lost |" for run in runs)
    lines = [f"| planted |{head}", "|---|" + "---|---|" * len(runs)]
    for name in PLANTED:
        cells = (run["found"][name] for run in runs)
        lines.append(
            f"| {name} |" + "".join(f" {percent(each['recall'])} | {percent(each['lost'])} |" for each in cells)
        )
    return "\n".join(lines)


def percent(share: float | None) -> str:
    """96.4 % of 0.964."""
    return "" if share is None else f"{100 * share:.1f} %"


if __name__ == "__main__":
    main()

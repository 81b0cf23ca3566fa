"""Tumour regions from labels of slides only, by the workflow: synthetic slides, six folds.

    python -m experiments.mil_slides.run            # runs the folds that are not recorded
    python -m experiments.mil_slides.run --table    # prints the table

Twelve slides of 2 x 1.5 mm have stroma with spindles and crowds of lymphocytes, in colours that
differ between slides. Six of them also have three to five islands of larger nuclei on a lilac
background. In each fold, snakemake trains on the labels of ten slides and maps the other two, one
of each label. The outlines of the islands are used only to score these maps.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import tifffile
import yaml

from experiments.common.runs import TOP, add_run, is_recorded, read_runs, runs_of
from muse_pipeline.core.files import read_json
from muse_pipeline.core.pictures import write_png
from muse_pipeline.evaluation.bootstrap import area_under_curve

RUNS = runs_of(__file__)
SNAKEFILE = TOP / "workflow/Snakefile"
N_FOLDS = 6
MPP, TISSUE_PX, MARGIN_PX, GLASS = 0.5, (4000, 3000), 500, (243, 243, 245)
SPINDLE, LYMPHOCYTE, TUMOUR = (
    (3.0, 9.0),
    (4.5, 5.5),
    (8.0, 12.0),
)  # smallest and largest half axis in px
PER_MM2 = {"spindles": 1500, "tumour": 3200, "crowds": 6, "in a crowd": 60}
CONFIG = {
    "method": "mil",
    "name": "tumour",
    "backbone": "muse_compact_16",
    "mpp": 2,
    "classes": [
        {"name": "Normal", "color": [150, 200, 150]},
        {"name": "Tumour", "color": [200, 0, 0]},
    ],
    "slide_labels": {
        "folds": 5,
        "schedule": {"steps": 100, "learning_rate": 1e-3, "save_every": 100, "log_every": 50},
        "tiles_per_slide": 40,
    },
    "window_px": 64,
    "batch": 8,
    "schedule": {
        "steps": 150,
        "learning_rate": 2e-3,
        "save_every": 150,
        "validate_every": 50,
        "log_every": 50,
    },
    "export": {"input_px": 512, "halo_px": 64},
    "licence": "CC0-1.0",
    "training_data": "drawn slides",
}


def main() -> None:
    """Run and score the folds that are not recorded, or print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--work", type=Path, default=Path("runs/mil_slides"), help="folder (default: %(default)s)"
    )
    parser.add_argument("--folds", nargs="+", type=int, default=list(range(N_FOLDS)))
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument(
        "--table", action="store_true", help="print the table of the recorded folds"
    )
    args = parser.parse_args()
    if args.table:
        print(render_table())
        return
    work = args.work.resolve()
    draw_cohort(work)
    for fold in args.folds:
        if not is_recorded(RUNS, fold=fold):
            add_run(RUNS, run_fold(fold, work, args.cores))


def slide_names(fold: int) -> tuple[str, str]:
    """Names of the two slides that a fold holds out: one without and one with islands."""
    return f"s{2 * fold}", f"s{2 * fold + 1}"


def draw_cohort(work: Path) -> None:
    """Write the slides that are missing, and the masks of their islands into a separate folder."""
    (work / "masks").mkdir(parents=True, exist_ok=True)
    for number in range(2 * N_FOLDS):
        path, rng = work / f"s{number}.tif", np.random.default_rng(number)
        if not path.is_file():
            islands = draw_islands(rng) if number % 2 else np.zeros(TISSUE_PX[::-1], bool)
            write_png(
                work / "masks" / f"s{number}.png", np.pad(islands, MARGIN_PX).astype(np.uint8)
            )
            write_slide(path, draw_slide(islands, rng))


def draw_islands(rng: np.random.Generator) -> np.ndarray:
    """Mask (h, w) of three to five ragged islands 300 to 700 um wide, which do not reach the edge
    of the tissue.
    """
    height, width = TISSUE_PX[::-1]
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    islands = np.zeros((height, width), np.uint8)
    for _ in range(rng.integers(3, 6)):
        radius = rng.uniform(300, 700) * (
            1 + sum(rng.normal(0, 0.12) * np.cos(k * angle + k) for k in (2, 3, 5))
        )
        centre = rng.uniform(800, (width - 800, height - 800))
        outline = centre[:, None] + radius * np.stack([np.cos(angle), np.sin(angle)])
        cv2.fillPoly(islands, [outline.T.round().astype(np.int32)], 1)
    return islands > 0


def draw_slide(islands: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Picture (h, w, 3) uint8 of the tissue with a margin of glass."""
    height, width = islands.shape
    mm2 = width * height * MPP**2 / 1e6
    eosin, lilac, dark = (
        np.add(base, rng.normal(0, 8, 3))
        for base in ((226, 170, 205), (208, 156, 202), (98, 62, 142))
    )
    picture = np.where(islands[..., None], lilac, eosin).clip(0, 255).astype(np.uint8)

    def paint(xy: np.ndarray, axes: tuple[float, float], in_islands: bool | None) -> None:
        xy = xy[((xy >= 0) & (xy < (width, height))).all(1)]
        column, row = xy.astype(int).T
        for x, y in xy if in_islands is None else xy[islands[row, column] == in_islands]:
            half = tuple(round(16 * each) for each in rng.uniform(*axes, 2))
            color = np.add(dark, rng.normal(0, 12, 3)).clip(0, 255).tolist()
            centre = round(x * 16), round(y * 16)
            cv2.ellipse(
                picture, centre, half, rng.uniform(0, 180), 0, 360, color, -1, cv2.LINE_AA, shift=4
            )

    def scatter(per_mm2: float) -> np.ndarray:
        return rng.uniform(0, (width, height), (rng.poisson(per_mm2 * mm2), 2))

    paint(scatter(PER_MM2["spindles"]), SPINDLE, False)
    paint(scatter(PER_MM2["tumour"]), TUMOUR, True)
    crowds = scatter(PER_MM2["crowds"])
    paint(
        crowds.repeat(PER_MM2["in a crowd"], 0) + rng.normal(0, 60, (60 * len(crowds), 2)),
        LYMPHOCYTE,
        None,
    )
    noise = rng.integers(-9, 10, (height, width, 1), np.int16)
    tissue = np.clip(cv2.GaussianBlur(picture, (0, 0), 0.8) + noise, 0, 255).astype(np.uint8)
    border = [MARGIN_PX] * 4
    return cv2.copyMakeBorder(tissue, *border, cv2.BORDER_CONSTANT, value=GLASS)


def write_slide(path: Path, picture: np.ndarray) -> None:
    """Write a picture as a tiled TIFF with two levels."""
    options = {"tile": (256, 256), "photometric": "rgb", "compression": "deflate"}
    partial = path.with_suffix(".partial")
    with tifffile.TiffWriter(partial) as tiff:
        tiff.write(picture, resolution=(1e4 / MPP,) * 2, resolutionunit="CENTIMETER", **options)
        small = cv2.resize(picture, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
        tiff.write(small, subfiletype=1, **options)
    partial.replace(path)


def run_fold(fold: int, work: Path, cores: int) -> dict:
    """Train on ten slides, map the other two, and score their maps."""
    held = slide_names(fold)
    rows = [["slide_id", "path", "patient", "label"]]
    for number in range(2 * N_FOLDS):
        name = f"s{number}"
        label = "" if name in held else CONFIG["classes"][number % 2]["name"]
        rows.append([name, f"{name}.tif", f"P{number}", label])
    with (work / f"slides-{fold}.tsv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter="\t", lineterminator="\n").writerows(rows)
    run = f"fold-{fold}"
    (work / f"{run}.yaml").write_text(
        yaml.safe_dump({**CONFIG, "seed": 100 * fold}), encoding="utf-8"
    )
    config = {"slides": f"slides-{fold}.tsv", "regions": f"{run}.yaml"}
    (work / f"config-{fold}.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--snakefile",
        SNAKEFILE,
        "--configfile",
        f"config-{fold}.yaml",
    ]
    targets = [f"results/{name}/regions.json" for name in held]
    subprocess.run([*command, "--cores", str(cores), *targets], cwd=work, check=True)
    stages = work / "results" / "region_training" / run / "stages"
    (scores,) = stages.glob("*-tiles/slides.json")
    return {
        "fold": fold,
        "auc_of_trained": read_json(scores)["auc"],
        "slides": {name: score_slide(work, name) for name in held},
    }


def score_slide(work: Path, name: str) -> dict:
    """Dice of the islands, and the found and true shares of the tissue that is tumour."""
    truth = cv2.imread(str(work / "masks" / f"{name}.png"), cv2.IMREAD_GRAYSCALE) > 0
    found = fill_tumour(work / "results" / name / "regions.geojson", truth.shape)
    both = truth.sum() + found.sum()
    return {
        "dice": 2 * int((truth & found).sum()) / int(both) if truth.any() else None,
        "share": int(found.sum()) / (TISSUE_PX[0] * TISSUE_PX[1]),
        "true_share": int(truth.sum()) / (TISSUE_PX[0] * TISSUE_PX[1]),
    }


def fill_tumour(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """Mask (h, w), in level-0 px, of the areas of tumour in a GeoJSON file."""
    found = np.zeros(shape, np.uint8)
    for feature in read_json(path)["features"]:
        if feature["properties"]["classification"]["name"] == "Tumour":
            geometry = feature["geometry"]
            polygons = (
                [geometry["coordinates"]]
                if geometry["type"] == "Polygon"
                else geometry["coordinates"]
            )
            for polygon in polygons:
                cv2.fillPoly(found, [np.round(ring).astype(np.int32) for ring in polygon], 1)
    return found > 0


def render_table() -> str:
    """The table with a row per fold, and a line about all folds."""
    runs = sorted(read_runs(RUNS), key=lambda run: run["fold"])
    rows = [
        (
            "| fold | AUC of the ten slides | Dice | share of tumour, found (drawn) | found in the"
            " slide without islands |"
        ),
        "|---|---|---|---|---|",
    ]
    for run in runs:
        without, with_islands = (run["slides"][name] for name in slide_names(run["fold"]))
        area = f"{with_islands['share']:.1%} ({with_islands['true_share']:.1%})"
        cells = [
            run["fold"] + 1,
            f"{run['auc_of_trained']:.3f}",
            f"{with_islands['dice']:.3f}",
            area,
            f"{without['share']:.2%}",
        ]
        rows.append(f"| {' | '.join(map(str, cells))} |")
    scored = [
        (run["slides"][name], bool(label))
        for run in runs
        for label, name in enumerate(slide_names(run["fold"]))
    ]
    dice = [one["dice"] for one, label in scored if label]
    auc = area_under_curve(
        np.array([one["share"] for one, _ in scored]), np.array([label for _, label in scored])
    )
    rows += [
        "",
        (
            f"{len(runs)} of {N_FOLDS} folds. Dice: mean {np.mean(dice):.3f}, least"
            f" {min(dice):.3f}. The area of tumour separates the held-out slides with an AUC of"
            f" {auc:.3f}; it is at most"
            f" {max(one['share'] for one, label in scored if not label):.2%} of slides without"
            " islands."
        ),
    ]
    return "\n".join(rows)


if __name__ == "__main__":
    main()

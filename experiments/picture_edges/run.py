"""How many nuclei are found in a part of a picture, with the rest of the picture around it or with
something else.

    python -m experiments.picture_edges.run --data DATA    # measures what is not recorded
    python -m experiments.picture_edges.run --table        # prints the table

The part is a square of 356 px in the middle of each crop of BRCA-M2C; only nuclei centred in it
count. "Fixed windows" are those of a GPU, 1,024 px wide. White around the part is also what models
saw beyond the end of a picture before stores repeated the pixels at their edges
(``store.store.continue_axis``). `compact` was trained on these crops.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from experiments.common.runs import add_run, is_recorded, read_data, read_runs, runs_of
from muse_pipeline.core.pictures import read_rgb
from muse_pipeline.evaluation.detection import match_points
from muse_pipeline.inference.detect import detect_image
from muse_pipeline.inference.model import find_model
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.inference.stains import colour_of_fit
from muse_pipeline.tissue.stain import fit_macenko

RUNS = runs_of(__file__)
SIDE_PX, WHITE_PX = 356, 256
RADIUS_PX = 6.0
AROUND = "the rest of the picture"
Points = tuple[np.ndarray, np.ndarray]  # positions (N, 2) and scores (N,)
Find = Callable[[np.ndarray], Points]


def main() -> None:
    """Measure the arms that are not recorded, or print the table."""
    if (data := read_data(__doc__, RUNS, render_table)) is None:
        return
    predictor = Predictor(find_model("compact"))
    for name, around in ARMS.items():
        if not is_recorded(RUNS, around=name):
            counts = sum(
                measure(path, predictor, around)
                for path in sorted((data / "brca-m2c/images").glob("*.png"))
            )
            add_run(
                RUNS,
                {
                    "around": name,
                    **dict(zip(("found", "true", "matched"), counts.tolist(), strict=True)),
                },
            )
            print(read_runs(RUNS)[-1], flush=True)


def measure(
    path: Path, predictor: Predictor, around: Callable[[Find, np.ndarray, np.ndarray], Points]
) -> np.ndarray:
    """Numbers of found, true and matched nuclei in the middle of a crop."""
    pixels = read_rgb(path)
    colour = colour_of_fit(predictor.card.colour, fit_macenko(pixels.reshape(-1, 3)[::4]))
    labels = path.parents[1] / "labels" / f"{path.stem}_gt_class_coords.txt"
    corner = (np.array(pixels.shape[1::-1]) - SIDE_PX) // 2

    def inside(xy: np.ndarray) -> np.ndarray:
        return ((xy >= 0) & (xy < SIDE_PX)).all(1)

    def find(picture: np.ndarray) -> Points:
        nuclei = detect_image(predictor, np.ascontiguousarray(picture), colour)
        return nuclei.xy, nuclei.score

    predictor.any_size = around is not in_fixed_windows
    xy, score = around(find, pixels, corner)
    true_xy = np.loadtxt(labels, ndmin=2)[:, 1::-1] + 0.5 - corner
    xy, score, true_xy = xy[inside(xy)], score[inside(xy)], true_xy[inside(true_xy)]
    return np.array(
        [len(xy), len(true_xy), (match_points(xy, score, true_xy, RADIUS_PX) >= 0).sum()]
    )


def cut(pixels: np.ndarray, corner: np.ndarray) -> np.ndarray:
    """The part of a picture (h, w, 3) at ``corner``."""
    x, y = corner
    return pixels[y : y + SIDE_PX, x : x + SIDE_PX]


def in_picture(find: Find, pixels: np.ndarray, corner: np.ndarray) -> Points:
    """Nuclei of the whole picture, in pixels of the part."""
    xy, score = find(pixels)
    return xy - corner, score


def alone(find: Find, pixels: np.ndarray, corner: np.ndarray) -> Points:
    """Nuclei of the part as a picture of its own."""
    return find(cut(pixels, corner))


def in_fixed_windows(find: Find, pixels: np.ndarray, corner: np.ndarray) -> Points:
    """Nuclei of the part as a picture of its own, in windows of one size."""
    return alone(find, pixels, corner)


def on_white(find: Find, pixels: np.ndarray, corner: np.ndarray) -> Points:
    """Nuclei of the part with white around it."""
    margins = [WHITE_PX] * 4
    xy, score = find(
        cv2.copyMakeBorder(cut(pixels, corner), *margins, cv2.BORDER_CONSTANT, value=(255,) * 3)
    )
    return xy - WHITE_PX, score


ARMS = {
    AROUND: in_picture,
    "the end of the picture": alone,
    "the end of the picture, in fixed windows": in_fixed_windows,
    "white": on_white,
}


def render_table(runs: list[dict]) -> str:
    """Markdown with a row per arm."""
    base = next((run["found"] for run in runs if run["around"] == AROUND), 1)
    lines = ["| around the part | nuclei found | compared | detection F1 |", "|---|---|---|---|"]
    for run in runs:
        f1 = 100 * 2 * run["matched"] / (run["found"] + run["true"])
        more = f"{100 * (run['found'] / base - 1):+.1f} %"
        lines.append(f"| {run['around']} | {run['found']:,} | {more} | {f1:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

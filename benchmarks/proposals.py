"""Ways to find nuclei without labels against true masks: the control table of ``docs/guide/label-free.md``.

    python benchmarks/proposals.py --data ../shared/data --output runs/proposals

Every picture is a slide of its own: stains, thresholds and clusters are fitted on it, without its mask. NuCLS is taken
at the 0.25 um/px of our other figures. DSB-2018 states no scale: all of its pictures are declared 0.25 um/px, one
constant that was not chosen by its masks, so that its figures are facts of pixels. The activation network of (a) and
(e) is trained on the source's own pictures, without masks; it is kept in the output folder. Pixel F1 and detection
(one-to-one within 3 um, which are 12 pixels) add up over pictures, AJI is the mean of pictures. Recall is also given
for thirds of the true nuclei by circularity, 4 pi area / perimeter^2. Seconds are of the processor, after the fit, on
all NuCLS pictures side by side; those of a mask include its cut.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from time import process_time

THREADS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
os.environ |= THREADS  # before NumPy and torch read them

import cv2  # noqa: E402
import numpy as np  # noqa: E402
from proposal_controls import Fit, make_controls  # noqa: E402

from muse_pipeline.core.files import write_json  # noqa: E402
from muse_pipeline.data.unlabelled import UnlabelledSource  # noqa: E402
from muse_pipeline.evaluation.detection import RADIUS_UM, match_points  # noqa: E402
from muse_pipeline.evaluation.overlaps import (  # noqa: E402
    jaccard_areas,
    jaccard_ratio,
    overlap_labels,
)
from muse_pipeline.methods.psm.activation import ActivationConfig, ActivationStage  # noqa: E402
from muse_pipeline.nuclei.masks import label_image_to_nuclei  # noqa: E402
from muse_pipeline.nuclei.rays import rays_to_rings  # noqa: E402
from muse_pipeline.nuclei.shape import measure_shapes  # noqa: E402
from muse_pipeline.training.run import Options  # noqa: E402

MPP = 0.25
N_RAYS = 64
TIMED = "NuCLS"
SOURCES = {"NuCLS": ("nucls-cc0", "instances"), "DSB-2018": ("dsb2018-brightfield", "labels")}
COLUMNS = ("pixel F1", "det. F1", "AJI", "recall", "least round", "middle", "roundest", "s/mm2")


@dataclass(frozen=True)
class Picture:
    """One picture with its truth.

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


def main() -> None:
    """Score every control on every source; print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--sources", nargs="+", choices=SOURCES, default=list(SOURCES))
    parser.add_argument("--only", nargs="+", metavar="NAME", help="controls whose name begins so")
    parser.add_argument("--model", metavar="ONNX", help="a network, for (g)")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    table: dict[str, dict[str, dict[str, float]]] = {}
    timed = read_pictures(args.data / SOURCES[TIMED][0], SOURCES[TIMED][1])
    for source in args.sources:
        folder, masks = SOURCES[source]
        pictures = timed if source == TIMED else read_pictures(args.data / folder, masks)
        unlabelled = UnlabelledSource(images=args.data / folder / "images", mpp=MPP)
        config = ActivationConfig(sources=(unlabelled,), mpp=MPP)
        activation = ActivationStage(config, args.output / folder).run(Options())
        table[source] = {}
        for name, fit in make_controls(activation, args.model).items():
            if not args.only or name.startswith(tuple(args.only)):
                seconds = {"s/mm2": time_control(fit, timed)}
                table[source] |= {name + row: one | seconds for row, one in score_control(fit, pictures).items()}
                write_json(args.output / "proposals.json", table)
                (args.output / "proposals.md").write_text("\n\n".join(map(render, table, table.values())) + "\n")
    print((args.output / "proposals.md").read_text())


def read_pictures(folder: Path, masks: str) -> list[Picture]:
    """Pictures and instance masks of the same name."""
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
    """Counts of one row of the table, picture by picture."""

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
        """All columns but the time; ``third`` (T,) says to which third by roundness each true nucleus belongs."""
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
    """Scores by what is added to the control's name."""
    circularity = np.concatenate([picture.circularity for picture in pictures])
    third = np.digitize(circularity, np.quantile(circularity, [1 / 3, 2 / 3]))
    tallies: dict[str, Tally] = {}
    for picture in pictures:
        for row, labels in fit(picture.pixels, MPP)(picture.pixels).items():
            tallies.setdefault(row, Tally()).add(labels, picture)
    return {row: tally.scores(third) for row, tally in tallies.items()}


def time_control(fit: Fit, pictures: list[Picture]) -> float:
    """Seconds per mm2 on all pictures side by side, which are fitted on together."""
    wall = np.concatenate([picture.pixels for picture in pictures], axis=1)
    find = fit(wall, MPP)
    start = process_time()
    find(wall)
    return round((process_time() - start) / (wall[..., 0].size * MPP**2 / 1e6), 2)


def render(source: str, rows: dict[str, dict[str, float]]) -> str:
    """A source's rows as Markdown."""
    lines = [f"| {source} | {' | '.join(COLUMNS)} |", "|---|" + "---|" * len(COLUMNS)]
    lines += [f"| {name} | {' | '.join(f'{row[column]:.3g}' for column in COLUMNS)} |" for name, row in rows.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()

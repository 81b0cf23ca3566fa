"""Ways to find nuclei without labels against true masks: the second table of ``docs/results/psm.md``.

    python -m experiments.proposals.run --data ../shared/data --output runs/proposals

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
from pathlib import Path
from time import process_time

THREADS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
os.environ |= THREADS  # before NumPy and torch read them

import cv2  # noqa: E402
import numpy as np  # noqa: E402

from experiments.common.proposals import COLUMNS, MPP, Fit, Picture, read_pictures, score_control  # noqa: E402
from experiments.proposals.controls import make_controls  # noqa: E402
from muse_pipeline.core.files import write_json  # noqa: E402
from muse_pipeline.data.unlabelled import UnlabelledSource  # noqa: E402
from muse_pipeline.methods.psm.activation import ActivationConfig, ActivationStage  # noqa: E402
from muse_pipeline.training.run import Options  # noqa: E402

TIMED = "NuCLS"
SOURCES = {"NuCLS": ("nucls-cc0", "instances"), "DSB-2018": ("dsb2018-brightfield", "labels")}


def main() -> None:
    """Score every control on every source; print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--sources", nargs="+", choices=SOURCES, default=list(SOURCES))
    parser.add_argument("--only", nargs="+", metavar="NAME", help="controls whose name begins so")
    parser.add_argument("--model", metavar="ONNX", help="a network, for (f)")
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

"""How much of `muse embed` depends on where its windows lie: the same nuclei read on a grid and on one half a core off.

    muse demo-slide demo --area-mm2 25 --mpp 0.25 && muse run demo/demo.svs -o results
    python -m experiments.embedding_windows.run results/demo compact-fp32 --most 6000
    python -m experiments.embedding_windows.run --table

Variance that the position in the window explains is that of a cubic polynomial of the position, adjusted for its terms.
The control is the position in the windows of the other grid, which the vectors were not read in.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from experiments.common.runs import add_run, is_recorded, read_runs, runs_of
from muse_pipeline.cohort.layout import SlideFiles
from muse_pipeline.core.coords import level0_to_work
from muse_pipeline.inference.colour_input import colour_of_fit, read_colour
from muse_pipeline.inference.embed import Embedder, embed_nuclei
from muse_pipeline.inference.model import find_model
from muse_pipeline.nuclei.parquet import read_nuclei
from muse_pipeline.slides.inspect import read_info
from muse_pipeline.store.store import open_store

RUNS = runs_of(__file__)


def main() -> None:
    """Read twice, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", type=Path, nargs="?", help="results of a slide, with its image")
    parser.add_argument("model", nargs="?", help="of `muse embed`")
    parser.add_argument("--table", action="store_true", help="print the table of the recorded runs")
    parser.add_argument("--most", type=int, default=14_000, help="nuclei that are read (default: %(default)s)")
    args = parser.parse_args()
    if args.table:
        print(render_table(read_runs(RUNS)), end="")
        return
    if is_recorded(RUNS, model=args.model, slide=args.slide.name):
        return
    files, embedder = SlideFiles(args.slide), Embedder(find_model(args.model))
    store, card = open_store(files.store(embedder.card.mpp)), embedder.card
    colour = colour_of_fit(card.colour, read_colour(files.colour).macenko)
    xy = level0_to_work(read_nuclei(files.nuclei).xy, read_info(files.info).mpp, store.mpp)
    middle = np.median(xy, axis=0)
    xy = xy[np.argsort(np.abs(xy - middle).max(1))[: args.most]]  # a square
    core_px = card.input_px - 2 * card.halo_px
    offset_px = core_px // 2 // card.stride_px * card.stride_px
    first, second = (embed_nuclei(store, embedder, colour, xy, offset_px=each).astype(float) for each in (0, offset_px))
    cosine = (first * second).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)
    result = {
        "model": args.model,
        "slide": args.slide.name,
        "nuclei": len(xy),
        "least_cosine": cosine.min(),
        "explained_by_position": explained(xy % core_px / core_px, first),
        "control": explained((xy + offset_px) % core_px / core_px, first),
        "variance_of_difference": ((first - second) ** 2).sum() / ((first - first.mean(0)) ** 2).sum(),
    }
    add_run(RUNS, {name: float(f"{x:.5g}") if isinstance(x, float) else x for name, x in result.items()})


def render_table(runs: list[dict]) -> str:
    """A row for each run."""
    lines = ["| model | slide | nuclei | least cosine | variance of the difference | position | control |"]
    lines.append("|---|---|---|---|---|---|---|")
    for run in runs:
        shares = f"{100 * run['explained_by_position']:.2f} %", f"{100 * run['control']:.2f} %"
        numbers = f"{run['nuclei']:,}", f"{run['least_cosine']:.5f}", f"{run['variance_of_difference']:.0e}", *shares
        lines.append(f"| {run['model']} | {run['slide']} | {' | '.join(numbers)} |")
    return "\n".join(lines) + "\n"


def explained(position: np.ndarray, vectors: np.ndarray) -> float:
    """Share of the variance of vectors (N, D) that a cubic polynomial of positions (N, 2), from 0 to 1, explains."""
    x, y = (position - 0.5).T
    terms = np.stack([x**i * y**j for i in range(4) for j in range(4 - i)], 1)
    centred = vectors - vectors.mean(0)
    rest = centred - terms @ np.linalg.lstsq(terms, centred, rcond=None)[0]
    n, k = terms.shape
    return 1 - (rest**2).sum() / (n - k) / ((centred**2).sum() / (n - 1))


if __name__ == "__main__":
    main()

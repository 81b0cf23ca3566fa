"""Costs of detection beyond running the model on tissue: running it on halo and glass, and reading
and cutting.

    python benchmarks/detection_costs.py RESULTS/SLIDE [--sides 512 1024 2048] [--threads 2]

On a CPU, the model runs on the part of each window that contains tissue, with its halo. Larger
windows have less halo, but the parts fit the tissue less closely. Seconds are processor seconds of
detection with a network that does nothing.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from muse_pipeline.cohort.layout import SlideFiles
from muse_pipeline.core.coords import work_size_px
from muse_pipeline.core.types import SlideInfo
from muse_pipeline.inference.detect import ModelFinder, detect_shard
from muse_pipeline.inference.model import find_model
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.slides.inspect import read_info
from muse_pipeline.store.grid import WindowGrid
from muse_pipeline.store.store import open_store, tissue_pixel_px
from muse_pipeline.store.write import tissue_on_lattice
from muse_pipeline.tissue.mask import TissueMask
from muse_pipeline.tissue.stain import IDENTITY


def main() -> None:
    """Print the area that the model runs on for each side of a window, then the seconds of three
    detections.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="RESULTS/SLIDE")
    parser.add_argument("--model", default="compact")
    parser.add_argument("--sides", type=int, nargs="+", default=[512, 768, 1024, 1536, 2048])
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    files, predictor = SlideFiles(args.folder), Predictor(find_model(args.model))
    info = read_info(files.info)
    tissue = TissueMask.load(files.mask, info)
    print(
        f"{tissue.area_mm2:.1f} mm2 of tissue\n\n| side of a window, px | windows | mm2 run"
        " |\n|---|---|---|"
    )
    for side in args.sides:
        n, mm2 = area_run(predictor, side, tissue, info)
        print(f"| {side} | {n:,} | {mm2:.1f} |")
    predictor.session = Blind(predictor)
    seconds = [time_without_network(predictor, files, args.threads) for _ in range(3)]
    print(f"\ndetection without its network, s: {', '.join(f'{each:.2f}' for each in seconds)}")


def area_run(
    predictor: Predictor, side_px: int, tissue: TissueMask, info: SlideInfo
) -> tuple[int, float]:
    """Number of windows with sides of ``side_px``, and the area in mm2 that the model runs on."""
    card = predictor.card
    predictor.card = replace(card, input_px=side_px)
    sizes = plan_windows(predictor, tissue, work_size_px(info.size_px, info.mpp, card.mpp))[:, 2:]
    predictor.card = card
    return len(sizes), float(sizes.prod(1).sum() * card.mpp**2 / 1e6)


def plan_windows(predictor: Predictor, tissue: TissueMask, size_px: tuple[int, int]) -> np.ndarray:
    """The parts of all windows of a slide that are run: corner, width and height (N, 4) in work px.

    Args:
        predictor: the model.
        tissue: tissue of the slide.
        size_px: (width, height) of the slide at the model's mpp.
    """
    card = predictor.card
    grid = WindowGrid(size_px, card.input_px, card.halo_px)
    label = tissue_on_lattice(tissue, card.mpp, size_px), float(tissue_pixel_px(card.mpp))
    windows = grid.windows_with_tissue(*label)
    parts = [
        grid.part(windows[i : i + 1], *label, card.stride_px) if predictor.any_size else grid.whole
        for i in range(len(windows))
    ]
    positions = [
        (*grid.part_xy(window, part), part.width, part.height)
        for window, part in zip(windows, parts, strict=True)
    ]
    return np.array(positions, int).reshape(-1, 4)


class Blind:
    """A session that ignores its input and finds nothing."""

    def __init__(self, predictor: Predictor):
        card = predictor.card
        widths = {"xy": (2,), "score": (), "prob": (len(card.classes),), "rays": (card.n_rays,)}
        self._shapes = widths | {"embedding": (card.embedding_dim,)}

    def run(self, outputs: list[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Outputs without a nucleus in any window."""
        return [
            np.zeros((len(inputs["density"]), 0, *self._shapes[name]), np.float32)
            for name in outputs
        ]


def time_without_network(predictor: Predictor, files: SlideFiles, threads: int) -> float:
    """Processor seconds of detection by a predictor whose session is ``Blind``."""
    store = open_store(files.store(predictor.card.mpp))
    with tempfile.TemporaryDirectory() as folder:
        started, finder = time.process_time(), ModelFinder(predictor, IDENTITY)
        detect_shard(store, finder, Path(folder) / "shard.parquet", threads=threads)
        return time.process_time() - started


if __name__ == "__main__":
    main()

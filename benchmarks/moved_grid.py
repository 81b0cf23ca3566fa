"""How many nuclei return when the grid of windows is moved by half a window, by halo.

    python benchmarks/moved_grid.py runs/cmu/CMU-1-Small-Region demo/results/demo --halos 32 64 96

Of the nuclei that score 0.1 above the threshold, the share that the other grid has within 0.5 and within 3 um: the
lesser of both ways. Folders are those that `muse run` or the workflow makes for a slide, with its store.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from muse_pipeline.inference.colour_input import colour_of_fit, read_colour
from muse_pipeline.inference.detect import ModelFinder, WindowChoice, detect_shard
from muse_pipeline.inference.model import find_model
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.inference.stitch import stitch_shards
from muse_pipeline.nuclei.parquet import read_nuclei
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.slides.inspect import read_info
from muse_pipeline.store.grid import Shard
from muse_pipeline.store.store import open_store
from muse_pipeline.tissue.mask import TissueMask

ABOVE = 0.1
WITHIN_UM = np.array([0.5, 3.0])


def main() -> None:
    """Print a line per slide, model and halo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    parser.add_argument("--models", nargs="+", default=["compact-int8", "compact-fp32"])
    parser.add_argument("--halos", type=int, nargs="+", default=[32], metavar="PX")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    for folder in args.folders:
        mpp = read_info(folder / "slide.json").mpp[0]
        for model in args.models:
            for halo in args.halos:
                predictor = Predictor(find_model(model))
                predictor.card = dataclasses.replace(predictor.card, halo_px=halo)
                near, far = 100 * returning(*detect_twice(folder, predictor, args.threads), mpp, predictor)
                print(f"{folder.name} {model} halo {halo} px: {near:.2f} % within 0.5 um, {far:.2f} % within 3 um")


def detect_twice(folder: Path, predictor: Predictor, threads: int) -> tuple[Nuclei, Nuclei]:
    """The nuclei of a slide on the grid as it is, and moved by half a window."""
    store, info = open_store(next(folder.glob("image-*.zarr"))), read_info(folder / "slide.json")
    tissue = TissueMask.load(folder / "tissue.npz")
    card = predictor.card
    colour = colour_of_fit(card.colour, read_colour(folder / "colour.json").macenko)
    half = (card.input_px // 2 - card.halo_px) // card.stride_px * card.stride_px
    found = []
    for offset_px in (0, half):
        with tempfile.TemporaryDirectory() as temporary:
            shard, nuclei = Path(temporary) / "1-of-1.parquet", Path(temporary) / "nuclei.parquet"
            choice = WindowChoice(offset_px=offset_px)
            detect_shard(store, ModelFinder(predictor, colour), Shard(1, 1), shard, threads=threads, choice=choice)
            stitch_shards([shard], info, tissue.kept, nuclei)
            found.append(read_nuclei(nuclei))
    return found[0], found[1]


def returning(first: Nuclei, second: Nuclei, mpp: float, predictor: Predictor) -> np.ndarray:
    """Shares within each of ``WITHIN_UM``."""
    shares = []
    for one, other in ((first, second), (second, first)):
        sure = one[one.score > predictor.card.threshold + ABOVE]
        distance_um = cKDTree(other.xy).query(sure.xy)[0] * mpp
        shares.append((distance_um[:, None] <= WITHIN_UM).mean(0))
    return np.min(shares, axis=0)


if __name__ == "__main__":
    main()

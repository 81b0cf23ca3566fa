"""Processor seconds per mm2 of tissue of the search for artefacts: the measure of focus, and the
whole search.

    muse demo-slide demo --area-mm2 25 --mpp 0.25 && muse run demo/demo.svs -o results
    python benchmarks/artefact_costs.py results/demo

Everything runs in one thread; of three calls the fastest counts, so that imports are not included.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

from muse_pipeline.inference import artefacts
from muse_pipeline.inference.stains import read_colour
from muse_pipeline.store.store import open_store
from muse_pipeline.tissue.mask import TissueMask


def main() -> None:
    """Measure the part and the whole, and print them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("slide", type=Path, help="results of a slide, with its image")
    args = parser.parse_args()
    (store,) = map(open_store, args.slide.glob("image-*.zarr"))
    fit = read_colour(args.slide / "colour.json").macenko
    tissue = TissueMask.load(args.slide / "tissue.npz")
    image = store.at(artefacts.MPP)
    n_cells = tuple(
        -(-side // round(artefacts.CELL_UM / image.mpp)) for side in image.size_px[::-1]
    )
    parts = {
        "focus": lambda: artefacts.measure_focus(image, n_cells),
        "all": lambda: artefacts.find_artefacts(store, tissue, fit),
    }
    seconds = {
        name: min(measure(run) for _ in range(3)) / tissue.area_mm2 for name, run in parts.items()
    }
    for name, each in seconds.items():
        print(f"{name} {each:.3f} s/mm2")


def measure(run: Callable[[], object]) -> float:
    """Processor seconds of a call."""
    start = time.process_time()
    run()
    return time.process_time() - start


if __name__ == "__main__":
    main()

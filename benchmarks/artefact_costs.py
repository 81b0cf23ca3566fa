"""Processor seconds per mm2 of tissue of `quality: true`: the measure of focus, and the map of folds, bubbles and ink.

    muse demo-slide demo --area-mm2 25 --mpp 0.25 && muse run demo/demo.svs -o results
    python benchmarks/artefact_costs.py results/demo

Everything runs in one thread, and the start of the process is not counted.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from muse_pipeline.inference import artefacts
from muse_pipeline.inference.region_maps import map_slide
from muse_pipeline.inference.stains import colour_of_fit, read_colour
from muse_pipeline.store.store import open_store
from muse_pipeline.tissue.mask import TissueMask


def main() -> None:
    """Measure both parts and the whole, and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", type=Path, help="results of a slide, with its image")
    args = parser.parse_args()
    (store,) = map(open_store, args.slide.glob("image-*.zarr"))
    fit = read_colour(args.slide / "colour.json").macenko
    tissue = TissueMask.load(args.slide / "tissue.npz")
    model = artefacts.ArtefactPredictor(artefacts.MODEL)
    image = store.at(artefacts.MPP)
    n_cells = tuple(-(-side // round(artefacts.CELL_UM / image.mpp)) for side in image.size_px[::-1])
    parts = {
        "focus": lambda: artefacts.measure_focus(image, n_cells),
        "model": lambda: map_slide(store, model, colour_of_fit(model.card.colour, fit)),
        "all": lambda: artefacts.find_artefacts(store, tissue, fit),
    }
    seconds = {}
    for name, run in parts.items():
        start = time.process_time()
        run()
        seconds[name] = (time.process_time() - start) / tissue.area_mm2
    for name, each in seconds.items():
        print(f"{name} {each:.3f} s/mm2")


if __name__ == "__main__":
    main()

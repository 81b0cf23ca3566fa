"""Which pictures keep their colours: detection F1 and AJI by the limit of `inference.colour_input`.

    python benchmarks/colour_gain.py compact-fp32 --data ../shared/data --set dsb2018

Each crop is normalised by its own stains. Outlines are not refined. DATA is as for `outline_fit.py`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from outline_fit import MEASURES, SETS, count_crop, network_finder, with_interval

from muse_pipeline.inference import colour_input
from muse_pipeline.inference.model import find_model
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.tissue.stain import IDENTITY, fit_macenko

SHOWN = "detection F1", "AJI"


def main() -> None:
    """Print a row for every limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="file or built-in name")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--set", choices=SETS, default="tnbc", help="of crops (default: %(default)s)")
    parser.add_argument("--patients", nargs="+", help="those to score on (default: all)")
    parser.add_argument("--limits", type=float, nargs="+", default=[np.inf, 40, 30, 18, 10, 5, 1])
    args = parser.parse_args()
    crops = [crop for crop in SETS[args.set](args.data) if not args.patients or crop[1] in args.patients]
    predictor = Predictor(find_model(args.model))
    predictor.refiner = None
    find, patients = network_finder(predictor), [crop[1] for crop in crops]
    fits = [fit_macenko(pixels.reshape(-1, 3)) for _, _, pixels, _ in crops]
    heads = "limit", f"of {len(crops)} crops keep their colours", *SHOWN
    print(f"| {' | '.join(heads)} |\n" + "|---" * len(heads) + "|")
    for limit in args.limits:
        colour_input.MAX_GAIN_RATIO = limit
        n_kept = sum(np.array_equal(colour_input.colour_of_fit(predictor.card.colour, fit), IDENTITY) for fit in fits)
        counts = np.array([count_crop(find(pixels), true) for _, _, pixels, true in crops], float)
        cells = [with_interval(MEASURES[name], counts, patients) for name in SHOWN]
        print(f"| {limit:g} | {n_kept} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

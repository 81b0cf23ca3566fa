"""How far the colours of a picture may be amplified: detection F1 and AJI by the limit of `inference.colour_input`.

    python benchmarks/colour_gain.py compact-fp32 --data ../shared/data --set dsb2018
    python benchmarks/colour_gain.py first-stage.onnx --data ../shared/data --patients 01 02 04

Each crop is normalised by its own stains; outlines are not refined. A limit of 1.001 hardly changes colours.
DATA is as for `outline_fit.py`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from outline_fit import MEASURES, SETS, count_crop, network_finder, with_interval

from muse_pipeline.inference import colour_input
from muse_pipeline.inference.card import ColourReference
from muse_pipeline.inference.model import find_model
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.tissue.stain import fit_macenko, stain_map

SHOWN = "detection F1", "AJI"


def main() -> None:
    """Print a row for every limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="file or built-in name")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--set", choices=SETS, default="tnbc", help="of crops (default: %(default)s)")
    parser.add_argument("--patients", nargs="+", help="those to score on (default: all)")
    parser.add_argument("--limits", type=float, nargs="+", default=[np.inf, 4, 3, 2.5, 2, 1.5, 1.001])
    args = parser.parse_args()
    crops = [crop for crop in SETS[args.set](args.data) if not args.patients or crop[1] in args.patients]
    predictor = Predictor(find_model(args.model))
    predictor.refiner = None
    find, patients = network_finder(predictor), [crop[1] for crop in crops]
    gains = np.array([gain(predictor.card.colour, pixels) for _, _, pixels, _ in crops])
    print(f"| limit | of {len(crops)} crops above | {' | '.join(SHOWN)} |\n" + "|---" * (len(SHOWN) + 2) + "|")
    for limit in args.limits:
        colour_input.MAX_GAIN = limit
        counts = np.array([count_crop(find(pixels), true) for _, _, pixels, true in crops], float)
        cells = [with_interval(MEASURES[name], counts, patients) for name in SHOWN]
        print(f"| {limit:g} | {(gains > limit).sum()} | {' | '.join(cells)} |", flush=True)


def gain(reference: ColourReference, pixels: np.ndarray) -> float:
    """How much the whole map of a picture amplifies differences of colour; 0 where its stains cannot be fitted."""
    fit = fit_macenko(pixels.reshape(-1, 3))
    if fit is None:
        return 0.0
    return float(np.linalg.norm(stain_map(fit.stains, fit.strong, reference.stains, reference.strong)[:, :3], 2))


if __name__ == "__main__":
    main()

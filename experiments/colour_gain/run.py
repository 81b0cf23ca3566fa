"""Detection F1 and AJI by the limit in `inference.stains` above which pictures keep their colours.

    python -m experiments.colour_gain.run --data DATA    # measures what is not recorded
    python -m experiments.colour_gain.run --table        # prints the table

Each crop of DSB-2018 is normalised by its own stains, unless the colour map would exceed the limit.
Outlines are not refined. DATA is a folder with dsb2018-brightfield/.
"""

from __future__ import annotations

import numpy as np

from experiments.common.crops import aji, compare, detection_f1, network_finder, read_dsb2018
from experiments.common.runs import add_run, is_recorded, read_data, runs_of, with_interval
from muse_pipeline.inference import stains
from muse_pipeline.inference.model import find_model
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.tissue.stain import IDENTITY, fit_macenko

RUNS = runs_of(__file__)
MODEL, LIMITS = "compact-fp32", (np.inf, 40, 30, 18, 10, 1)


def main() -> None:
    """Measure the limits that are not recorded, or print the table."""
    if (data := read_data(__doc__, RUNS, render_table)) is None:
        return
    crops, predictor = read_dsb2018(data), Predictor(find_model(MODEL))
    predictor.refiner = None
    find = network_finder(predictor)
    fits = [fit_macenko(pixels.reshape(-1, 3)) for _, _, pixels, _ in crops]
    for limit in LIMITS:
        if not is_recorded(RUNS, limit=f"{limit:g}"):
            stains.MAX_GAIN_RATIO = limit
            mapped = [stains.colour_of_fit(predictor.card.colour, fit) for fit in fits]
            counts = [compare(find(pixels), true) for _, _, pixels, true in crops]
            kept = sum(np.array_equal(one, IDENTITY) for one in mapped)
            add_run(RUNS, {"limit": f"{limit:g}", "model": MODEL, "kept": kept, "counts": counts})


def render_table(runs: list[dict]) -> str:
    """A row for every limit, with intervals bootstrapped over crops."""
    n = len(runs[0]["counts"])
    rows = [
        f"| limit | of {n} crops keep their colours | detection F1 | AJI |",
        "|---|---|---|---|",
    ]
    for run in runs:
        counts, crops = np.array(run["counts"], float), [str(number) for number in range(n)]
        cells = [with_interval(measure, counts, crops) for measure in (detection_f1, aji)]
        rows.append(f"| {run['limit']} | {run['kept']} | {' | '.join(cells)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()

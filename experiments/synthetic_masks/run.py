"""Synthesised masks compared with the published examples that they imitate.

    python -m experiments.synthetic_masks.run                 # measures what is not recorded
    python -m experiments.synthetic_masks.run --table         # prints the table

For each seed, 600 masks of 256 px at 0.25 um/px, like the examples, are measured, and the speed of
one core is measured on 200 masks at 0.25 and at 0.5 um/px. Nuclei at the border and contour pixels
are left out, as in the examples.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import cv2
import numpy as np

from experiments.common.runs import add_run, is_recorded, read_runs, runs_of
from muse_pipeline.methods.unit.synthesis_folder import (
    MEASURES,
    QUANTILES,
    measure,
    summarise_masks,
)
from muse_pipeline.methods.unit.synthesis_masks import InstanceMask, TissueSettings, synthesise_mask

# The six 256-px example masks of UNITPathSSL's framework figure at 0.25 um/px, measured without
# contour pixels and nuclei at the border: quantiles by measure, None if not measured; totals are
# the minimum and maximum over the six.
REFERENCE = {
    "Epithelial": {
        "area_um2": (9.5, 16.8, 33.4, 45.8, 83.8),
        "major_um": (None, 8.0, 9.0, 10.5, None),
        "minor_um": (None, 3.5, 4.5, 5.75, None),
        "ratio": (0.13, 0.42, 0.51, 0.70, 0.96),
    },
    "Stroma": {
        "area_um2": (8.4, 10.4, 19.4, 32.3, 64.3),
        "major_um": (None, 5.25, 7.25, 9.25, None),
        "minor_um": (None, 2.5, 3.75, 5.75, None),
        "ratio": (0.18, 0.39, 0.64, 0.76, 0.89),
    },
}
REFERENCE_TOTALS = {"nuclei": (14, 22), "epithelial": (0.0, 0.86), "covered": (0.055, 0.175)}
REFERENCE_PX, REFERENCE_MPP = 256, 0.25

RUNS = runs_of(__file__)
MASKS, TIMED = 600, 200
SPEED_MPP = (0.25, 0.5)
TITLES = {
    "area_um2": "area, um2",
    "major_um": "long axis, um",
    "minor_um": "short axis, um",
    "ratio": "short / long",
}
TOTALS = {"nuclei": "nuclei", "epithelial": "epithelial fraction", "covered": "fraction covered"}


def main() -> None:
    """Measure the seeds that are not recorded, or print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--table", action="store_true", help="print the table of the recorded seeds"
    )
    args = parser.parse_args()
    if args.table:
        print(render_table(read_runs(RUNS)))
        return
    cv2.setNumThreads(1)
    for seed in args.seeds:
        if not is_recorded(RUNS, seed=seed):
            add_run(RUNS, measure_seed(seed))


def measure_seed(seed: int) -> dict:
    """Statistics of the masks of a seed, and the number of masks per second on one core."""
    tissue = TissueSettings()
    masks = [
        synthesise_mask(index, seed, REFERENCE_PX, REFERENCE_MPP, tissue) for index in range(MASKS)
    ]
    within = {
        name: round(value, 3) for name, value in within_reference(masks, REFERENCE_MPP).items()
    }
    speed = {str(mpp): time_masks(seed, mpp, tissue) for mpp in SPEED_MPP}
    return {
        "seed": seed,
        "statistics": summarise_masks(masks, REFERENCE_MPP),
        "within": within,
        "masks_per_second": speed,
    }


def within_reference(masks: Sequence[InstanceMask], mpp: float) -> dict[str, float]:
    """Fractions of nuclei within the reference's p5 to p95, by kind and measure, and of masks
    within its ranges.

    For masks sampled from the distribution of the reference, the fraction of nuclei is 0.9.
    """
    tables, totals = measure(masks, mpp)
    ranges = {
        f"{kind}, {name}": (tables[kind][:, MEASURES.index(name)], quantiles[0], quantiles[-1])
        for kind, measures in REFERENCE.items()
        for name, quantiles in measures.items()
        if quantiles[0] is not None
    }
    ranges |= {
        f"masks, {name}": (totals[:, i], *ends)
        for i, (name, ends) in enumerate(REFERENCE_TOTALS.items())
    }
    return {
        name: float(((values >= low) & (values <= high)).mean())
        for name, (values, low, high) in ranges.items()
    }


def time_masks(seed: int, mpp: float, tissue: TissueSettings) -> int:
    """Number of masks of 256 px per second of processor time of one thread."""
    started = time.thread_time()
    for index in range(TIMED):
        synthesise_mask(index, seed, 256, mpp, tissue)
    return round(TIMED / (time.thread_time() - started))


def render_table(runs: list[dict]) -> str:
    """The table: published and synthesised medians, the latter as means over seeds, and fractions
    within p5 to p95.
    """
    rows = ["| median | published | synthesised | within p5 to p95 |", "|---|---|---|---|"]
    for kind, measures in REFERENCE.items():
        for name, published in measures.items():
            found = np.mean([run["statistics"][kind][name] for run in runs], 0)
            row = f"{kind}: {TITLES[name]}", published, found, mean_within(runs, f"{kind}, {name}")
            rows.append(render_row(*row))
    for name, (least, most) in REFERENCE_TOTALS.items():
        found = np.mean([run["statistics"][name] for run in runs], 0)
        published = f"{least:g} to {most:g}, of six"
        rows.append(
            render_row(
                f"per mask: {TOTALS[name]}", published, found, mean_within(runs, f"masks, {name}")
            )
        )
    speed = " and ".join(
        f"{np.mean([run['masks_per_second'][str(mpp)] for run in runs]):.0f} at {mpp:g} um/px"
        for mpp in SPEED_MPP
    )
    n_seeds, n_masks = len(runs), sum(run["statistics"]["masks"] for run in runs)
    return "\n".join(
        [
            *rows,
            "",
            (
                f"{n_masks:,} masks of {n_seeds} seeds. Masks of 256 px per second of one core:"
                f" {speed}."
            ),
        ]
    )


def mean_within(runs: list[dict], name: str) -> float | None:
    """Mean fraction over seeds within the published range; None if no range was published."""
    return (
        float(np.mean([run["within"][name] for run in runs])) if name in runs[0]["within"] else None
    )


def render_row(title: str, published: str | tuple, found: np.ndarray, within: float | None) -> str:
    """A row of the table, from the quantiles of a measure."""
    middle = QUANTILES.index(50)
    if not isinstance(published, str):
        published = f"{published[middle]:g}"
    share = "" if within is None else f"{100 * within:.0f} %"
    return f"| {title} | {published} | {found[middle]:.3g} | {share} |"


if __name__ == "__main__":
    main()

"""How often a test finds a difference between groups of patients, real or not, by the unit of the
test.

    python -m experiments.null_cohorts.run              # measures what is not recorded
    python -m experiments.null_cohorts.run --table      # prints the table

Cohorts are simulated: 24 patients in two groups, three slides per patient, 100 nuclei per slide.
Patients, slides and nuclei vary normally with standard deviations of 0.5, 0.3 and 1. The test by
nucleus and by slide is Student's; the test by patient is that of `muse statistics`.
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy import stats

from experiments.common.runs import add_run, is_recorded, read_runs, runs_of
from muse_pipeline.statistics.comparison import compare_groups

RUNS = runs_of(__file__)
DIFFERENCES, N_COHORTS = (0.0, 0.5, 1.0), 2000
N_PATIENTS, N_SLIDES, N_NUCLEI, AT_ONCE = 24, 3, 100, 500
IS_SECOND = np.arange(N_PATIENTS) % 2 == 1
UNITS = ("patient", "slide", "nucleus")


def main() -> None:
    """Simulate and test the cohorts that are not recorded, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    if not args.table:
        for each in DIFFERENCES:
            if not is_recorded(RUNS, difference=each):
                add_run(
                    RUNS, {"difference": each, "cohorts": N_COHORTS, **rejected(each, N_COHORTS)}
                )
    print(
        "| difference between the groups | cohorts | by patient | by slide | by nucleus"
        " |\n|---|---|---|---|---|"
    )
    for run in read_runs(RUNS):
        cells = (f"{100 * run[unit]:.1f} %" for unit in UNITS)
        print(f"| {run['difference']:g} | {run['cohorts']:,} | {' | '.join(cells)} |")


def rejected(difference: float, n_cohorts: int) -> dict[str, float]:
    """Fraction of the cohorts with p < 0.05, by the unit of the test."""
    p: dict[str, list[np.ndarray]] = {unit: [] for unit in UNITS}
    for part in range(n_cohorts // AT_ONCE):
        cohorts = draw_cohorts(difference, np.random.default_rng([part, int(10 * difference)]))
        p["patient"].append(compare_groups(cohorts.mean((2, 3)).T, IS_SECOND, n_bootstraps=1).p)
        for unit, values in (("slide", cohorts.mean(3)), ("nucleus", cohorts)):
            first, second = (
                values[:, chosen].reshape(AT_ONCE, -1) for chosen in (~IS_SECOND, IS_SECOND)
            )
            p[unit].append(stats.ttest_ind(first, second, axis=1).pvalue)
    return {unit: float((np.concatenate(each) < 0.05).mean()) for unit, each in p.items()}


def draw_cohorts(difference: float, random: np.random.Generator) -> np.ndarray:
    """Values (cohorts, patients, slides, nuclei) of one measure."""
    shape = AT_ONCE, N_PATIENTS, N_SLIDES, N_NUCLEI
    patient = random.normal(0, 0.5, (*shape[:2], 1, 1)) + difference * IS_SECOND[:, None, None]
    return patient + random.normal(0, 0.3, (*shape[:3], 1)) + random.normal(0, 1, shape)


if __name__ == "__main__":
    main()

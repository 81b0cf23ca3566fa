"""Tests between groups of patients are calibrated under the null hypothesis and find real
differences.
"""

import csv
import json
import re

import numpy as np
import pytest
from scipy import stats

from muse_pipeline.cli.main import main
from muse_pipeline.cohort.sheet import read_sheet
from muse_pipeline.statistics.cohort import read_groups
from muse_pipeline.statistics.comparison import (
    compare_groups,
    compare_pairs,
    mean_by_patient,
)

N_PATIENTS, N_SLIDES = 24, 3
SECOND = np.arange(N_PATIENTS) % 2 == 1


def draw_cohorts(n_cohorts: int, difference: float, seed: int) -> np.ndarray:
    """Values (slides, cohorts), which are correlated within patients."""
    random = np.random.default_rng(seed)
    patient = random.normal(0, 0.5, (N_PATIENTS, 1, n_cohorts)) + difference * SECOND[:, None, None]
    values = patient + random.normal(0, 0.3, (N_PATIENTS, N_SLIDES, n_cohorts))
    return values.reshape(-1, n_cohorts)


def test_a_planted_difference_is_found_with_an_interval_around_it():
    patients = [f"P{number:02d}" for number in range(N_PATIENTS) for _ in range(N_SLIDES)]
    values, names = mean_by_patient(draw_cohorts(300, 1.0, seed=9), patients)
    assert names == sorted(set(patients))
    found = compare_groups(values, SECOND, 999, 500)
    assert (found.p < 0.05).mean() > 0.9
    true = 1.0 / np.sqrt(0.5**2 + 0.3**2 / N_SLIDES)
    assert np.median(found.effect) == pytest.approx(true, rel=0.1)
    assert ((found.low <= true) & (true <= found.high)).mean() > 0.85


def test_q_takes_all_measures_into_account():
    values = np.random.default_rng(0).normal(size=(N_PATIENTS, 4)) + SECOND[:, None]
    values[0, 0] = values[1, 1] = np.nan
    found = compare_groups(values, SECOND, 999, 2)
    assert found.q == pytest.approx(stats.false_discovery_control(found.p))


def test_three_groups_are_compared_pair_by_pair():
    pairs = compare_pairs(np.random.default_rng(0).normal(size=(9, 2)), list("aaabbbccc"))
    assert [(first, second) for first, second, _ in pairs] == [("a", "b"), ("a", "c"), ("b", "c")]


@pytest.mark.filterwarnings("ignore:.*missing value")
def test_patients_called_na_are_not_one_patient(results):
    sheet = results / "slides.tsv"
    sheet.write_text(re.sub("P[234]", "NA", sheet.read_text()).replace("P5", "NaN"))
    rows = [row.to_dict() for row in read_sheet(sheet)]
    (results / "sheet.json").write_text(json.dumps(rows))
    patients = read_groups(results, sheet, "label", "patient")[1]
    assert patients == {"s0": "P0", "s1": "P0", **{name: name for name in ("s2", "s3", "s4", "s5")}}
    sheet.write_text(
        sheet.read_text().replace("patient", "case").replace("NaN", "unknown").replace("NA", "-")
    )
    assert read_groups(results, sheet, "label", "case")[1] == patients
    sheet.write_text(sheet.read_text().replace("\ta\n", "\tNA\n", 2))
    assert list(read_groups(results, sheet, "label", "patient")[0]) == ["s2", "s3", "s4", "s5"]


def compare(results, capsys, *words):
    """What `muse statistics` prints, and its rows by measure."""
    command = f"statistics {results} --sheet {results}/slides.tsv --group label".split()
    assert main([*command, "-o", str(results / "statistics.tsv"), *words]) == 0
    with (results / "statistics.tsv").open(encoding="utf-8", newline="") as file:
        rows = {row["measure"]: row for row in csv.DictReader(file, dialect="excel-tab")}
    return capsys.readouterr().out, rows


def test_doubtful_slides_and_counts_of_classes_are_left_out_unless_they_are_asked_for(
    results, write_doubtful, capsys
):
    write_doubtful("s6", 900, nuclear_size="too large")
    write_doubtful("s7", 70, class_sizes="larger than in training")
    rows = [f"{line}\t" for line in (results / "slides.tsv").read_text().splitlines()]
    rows[0], rows[-1] = f"{rows[0]}organ", f"{rows[-1]}kidney"
    rows += [f"{name}\tslides.tsv\t{name}\tb\t" for name in ("s6", "s7")]
    (results / "slides.tsv").write_text("\n".join(rows) + "\n")

    text, rows = compare(results, capsys)
    n = {name: int(row["n_second"]) for name, row in rows.items()}
    assert "7 slides of 6 patients" in text and "1 slide left out: doubtful scale" in text
    assert "without a value" not in text
    assert "classes of 1 slide left out: doubtful classes" in text
    assert "* classes: accuracy not measured in kidney (1 slide" in text
    assert float(rows["median_area_um2"]["mean_second"]) < 100
    assert n["nuclei_per_mm2"] == n["median_area_um2"] == 4
    assert n["percent_Lymphocyte"] == 3
    assert n["mixing_Lymphocyte_with_Epithelial"] == n["median_neighbours_fraction_Epithelial"] == 3
    assert n["nuclei_per_mm2_in_tumour_Lymphocyte"] == 3
    text, rows = compare(results, capsys, "--include-doubtful", "scale")
    assert "8 slides of 7 patients" in text and "1 slide marked: doubtful scale\n" in text
    assert "classes of 1 slide left out: doubtful classes" in text
    assert (rows["nuclei_per_mm2"]["n_second"], rows["percent_Lymphocyte"]["n_second"]) == (
        "5",
        "4",
    )


def test_slides_of_immunohistochemistry_are_compared_only_with_each_other(
    results, write_doubtful, capsys
):
    write_doubtful("s5", 50, is_ihc=True)
    text, mixed = compare(results, capsys)
    assert "1 slide left out: other stain" in text and "percent_positive" not in mixed
    for number in range(5):
        write_doubtful(f"s{number}", 50, is_ihc=True)
    text, of_ihc = compare(results, capsys)
    assert "left out" not in text
    assert float(of_ihc["percent_positive"]["mean_first"]) == 25
    assert not any("Lymphocyte" in name or "Epithelial" in name for name in of_ihc)


def test_groups_without_sound_slides_are_rejected_with_the_reason(results, write_doubtful, capsys):
    for name in ("s3", "s4", "s5"):
        write_doubtful(name, 900, nuclear_size="too large")
    words = f"--sheet {results}/slides.tsv --group label -o {results}/statistics.tsv"
    assert main(f"statistics {results} {words}".split()) == 2
    message = (
        "give slides of at least two groups (3 slides left out: doubtful scale; include_doubtful"
        " keeps"
    )
    assert message in capsys.readouterr().err

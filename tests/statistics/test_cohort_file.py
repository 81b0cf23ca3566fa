"""``cohort.h5ad``: a row per slide, in AnnData's format, read directly and, if it is installed, by
anndata.
"""

import csv
import json
from threading import Barrier, get_ident

import numpy as np
import pytest

from muse_pipeline.cli.main import main
from muse_pipeline.statistics import cohort
from muse_pipeline.statistics.cohort import measure_slide

h5py = pytest.importorskip("h5py", reason="h5py, the extra `spatial`, is not installed")


@pytest.fixture
def output(results):
    assert main(["step", "anndata", str(results), "-o", str(results / "cohort.h5ad")]) == 0
    return results / "cohort.h5ad"


@pytest.mark.parametrize("words", [["step", "anndata"], ["statistics", "--group", "label"]])
def test_as_many_slides_are_read_at_once_as_there_are_threads(results, monkeypatch, words):
    meeting, used = Barrier(3), set()

    def measure_and_meet(folder):
        meeting.wait(20)
        used.add(get_ident())
        return measure_slide(folder)

    monkeypatch.setattr(cohort, "measure_slide", measure_and_meet)
    rest = [str(results), "--sheet", str(results / "slides.tsv"), "-o", str(results / "output")]
    assert main([*words, *rest, "--threads", "3"]) == 0
    assert len(used) == 3


def test_a_slide_has_its_densities_its_mix_and_its_infiltration(results):
    measures = measure_slide(results / "s0")
    found = {measure.name: value for measure, value in measures.items()}
    groups = {measure.name: (measure.group, measure.unit) for measure in measures}
    assert (found["nuclei_per_mm2"], found["percent_Epithelial"]) == (40, 50)
    assert found["nuclei_per_mm2_in_tumour_Lymphocyte"] == 5 / 0.25
    assert found["nuclei_per_mm2_in_border_inside_50um_Lymphocyte"] == pytest.approx(3 / 0.1)
    assert found["nuclei_per_mm2_in_border_outside_50um_Epithelial"] == pytest.approx(2 / 0.05)
    assert found["mixing_Lymphocyte_with_Epithelial"] == 0.75
    assert found["mixing_Epithelial_with_Lymphocyte"] == 0.75
    assert groups["median_area_um2"] == ("feature", "um2")
    assert groups["nuclei_per_mm2_in_stroma_Epithelial"] == ("infiltration", "1/mm2")


def test_nuclei_out_of_focus_are_in_no_total_of_a_slide(flagged):
    found = {measure.name: value for measure, value in measure_slide(flagged).items()}
    assert (found["nuclei_per_mm2"], found["percent_Epithelial"]) == (pytest.approx(8 / 0.4), 50)
    assert found["median_area_um2"] < 60
    assert found["nuclei_per_mm2_in_tumour_Lymphocyte"] == pytest.approx(
        5 / 0.25
    )  # all nuclei count in regions


def test_a_row_per_slide_with_the_columns_of_the_sheet(results, output):
    with h5py.File(output) as file:
        names = list(file["var/_index"].asstr()[:])
        assert list(file["obs/_index"].asstr()[:]) == [f"s{number}" for number in range(6)]
        assert list(file["obs"].attrs["column-order"]) == ["path", "patient", "label"]
        patients = file["obs/patient/categories"].asstr()[:]
        assert list(patients[file["obs/patient/codes"][:]]) == ["P0", "P0", "P2", "P3", "P4", "P5"]
        assert list(file["obs/label/codes"][:]) == [0, 0, 0, 1, 1, 1]
        assert file["X"].shape == (6, len(names))
        row = {measure.name: value for measure, value in measure_slide(results / "s4").items()}
        np.testing.assert_array_equal(file["X"][4], [row[name] for name in names])
        assert file["var/unit"].asstr()[names.index("median_area_um2")] == "um2"
        assert json.loads(file["uns/muse"].asstr()[()])["slides"]["s2"]["model"]["name"] == "drawn"


def test_a_row_has_the_doubts_and_the_names_of_the_table_of_the_cohort(results):
    sheet = json.loads((results / "sheet.json").read_text())
    rows = [row | {"status": "seen", "nuclei": f"n{n}"} for n, row in enumerate(sheet)]
    (results / "sheet.json").write_text(json.dumps(rows))
    assert main(["report", str(results)]) == 0
    with (results / "cohort.tsv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file, dialect="excel-tab"))
    table[3] |= {"status": "ok", "appearance": "flagged", "left_out": "nuclei: doubtful scale"}
    with (results / "cohort.tsv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]), dialect="excel-tab")
        writer.writeheader()
        writer.writerows(table[1:])
    assert main(["step", "anndata", str(results), "-o", str(results / "cohort.h5ad")]) == 0
    with h5py.File(results / "cohort.h5ad") as file:
        columns = "path patient label status appearance left_out marked sheet_status sheet_nuclei"
        columns = columns.split()
        assert list(file["obs"].attrs["column-order"]) == columns
        found = {}
        for name in columns:
            categories = file[f"obs/{name}/categories"].asstr()[:]
            codes = file[f"obs/{name}/codes"][:]
            found[name] = [None if code < 0 else categories[code] for code in codes]
    assert found["status"] == [None, "failed", "failed", "ok", "failed", "failed"]
    assert found["appearance"] == [None, "", "", "flagged", "", ""]
    assert (
        found["left_out"][3] == "nuclei: doubtful scale" and found["sheet_status"] == ["seen"] * 6
    )
    assert found["sheet_nuclei"] == [f"n{n}" for n in range(6)]


OWN = {
    "_index": "sheet__index",
    "__categories": "sheet___categories",
    ".": "sheet_.",
    "nuclei": "sheet_sheet_nuclei",
    "sheet_nuclei": "sheet_nuclei",
    "status": "sheet_status",
    "grade/site": "grade_site",
    "grade_site": "sheet_grade_site",
    "index": "index",
}


def test_columns_with_reserved_names_get_names_of_their_own(results):
    rows = json.loads((results / "sheet.json").read_text())
    rows = [row | {name: f"{name} {n}" for name in OWN} for n, row in enumerate(rows)]
    (results / "sheet.json").write_text(json.dumps(rows))
    assert main(["report", str(results)]) == 0
    with (results / "cohort.tsv").open(encoding="utf-8", newline="") as file:
        header = next(csv.reader(file, dialect="excel-tab"))
    assert len(set(header)) == len(header)
    assert main(["step", "anndata", str(results), "-o", str(results / "cohort.h5ad")]) == 0
    with h5py.File(results / "cohort.h5ad") as file:
        for name, column in OWN.items():
            assert list(file[f"obs/{column}/categories"].asstr()[:]) == [
                f"{name} {n}" for n in range(6)
            ]
        assert set(OWN.values()) <= set(file["obs"].attrs["column-order"])
        assert list(file["obs/_index"].asstr()[:]) == [f"s{number}" for number in range(6)]


def test_a_slide_without_nuclei_is_left_out_and_a_sheet_may_be_given(results, output):
    (results / "s3/nuclei.parquet").unlink()
    (results / "sheet.json").unlink()
    again = results / "again.h5ad"
    sheet = results / "slides.tsv"
    assert main(["step", "anndata", str(results), "--sheet", str(sheet), "-o", str(again)]) == 0
    with h5py.File(again) as file:
        assert list(file["obs/_index"].asstr()[:]) == ["s0", "s1", "s2", "s4", "s5"]


def test_results_without_nuclei_are_one_sentence(tmp_path, capsys):
    (tmp_path / "sheet.json").write_text("[]")
    assert main(["step", "anndata", str(tmp_path), "-o", str(tmp_path / "cohort.h5ad")]) == 2
    assert "has no slides of the sheet with nuclei.parquet" in capsys.readouterr().err


def test_anndata_opens_it(output):
    anndata = pytest.importorskip("anndata", reason="the package anndata is not installed")
    cohort = anndata.read_h5ad(output)
    assert cohort.shape[0] == 6 and list(cohort.obs["label"]) == list("aaabbb")
    assert cohort[:, "nuclei_per_mm2"].X.ravel().tolist() == [40] * 6

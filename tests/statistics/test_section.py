"""The section of the report that compares groups of patients."""

import csv
import re
from xml.etree import ElementTree

import numpy as np
import pandas

from muse_pipeline.cli.main import main
from muse_pipeline.report.html import render
from muse_pipeline.report.page import SHOWN, read_statistics


def compare(results, group="label"):
    output = results / "statistics.tsv"
    words = f"statistics {results} --sheet {results / 'slides.tsv'} --group {group}".split()
    assert main([*words, "-o", str(output)]) == 0
    return output


def draw(table):
    return render("statistics.html", statistics=read_statistics(table))


def section_of(table):
    return ElementTree.fromstring(f"<main>{draw(table)}</main>")


def test_every_patient_has_a_row_with_the_means_of_its_slides(results):
    compare(results)
    with (results / "statistics.patients.tsv").open(encoding="utf-8", newline="") as file:
        rows = {row["patient"]: row for row in csv.DictReader(file, dialect="excel-tab")}
    assert {name: (row["group"], row["n_slides"]) for name, row in rows.items()} == {
        **{"P0": ("a", "2"), "P2": ("a", "1")},
        **{f"P{number}": ("b", "1") for number in (3, 4, 5)},
    }
    assert rows["P0"]["nuclei_per_mm2"] == "40" and float(rows["P3"]["median_area_um2"]) > 60


def test_a_measure_has_its_patients_its_effect_and_its_tests(results):
    page = section_of(compare(results))
    rows = {row.find("th").text: row for row in page.iter("tr") if row.find("td") is not None}
    with (results / "statistics.tsv").open(encoding="utf-8", newline="") as file:
        table = {row["measure"]: row for row in csv.DictReader(file, dialect="excel-tab")}
    assert set(rows) == {name.replace("_", " ") for name in table} and len(rows) > SHOWN
    dots, effect = rows["median area um2"].iter("svg")
    assert len(list(dots.iter("circle"))) == 5 and effect.find("g/circle") is not None
    text = "".join(rows["median area um2"].itertext())
    area = table["median_area_um2"]
    assert f"{float(area['effect']):+.2f}" in text and f"{float(area['p']):.2f}" in text
    shown = page.find("div").iter("th")
    assert len([cell for cell in shown if cell.get("scope") == "row"]) == SHOWN
    words = "".join(page.itertext())
    assert "The unit of the test is the patient" in words and "b 3 patients" in words
    assert "no p can be below 0.1" in words  # 2 and 3 patients can be assigned in ten ways


def test_differences_that_are_found_are_bold(results):
    output = compare(results)
    rows = pandas.read_csv(output, sep="\t")
    rows["q"] = np.where(rows["measure"] == "percent_Epithelial", 0.04, 0.06)
    rows.to_csv(output, sep="\t", index=False)
    page = section_of(output)
    rows = [row.find("th").text for row in page.iter("tr") if row.find("td/strong") is not None]
    assert rows == ["percent Epithelial"]
    assert re.search("1 of [0-9]+ measures differ", "".join(page.itertext()))


def test_groups_without_values_of_two_patients_are_not_tested(results):
    output = compare(results)
    rows = pandas.read_csv(output, sep="\t")
    rows[["effect", "low", "high", "p", "q"]] = None
    rows.to_csv(output, sep="\t", index=False)
    words = "".join(section_of(output).itertext())
    assert "No measure is tested" in words
    assert "measures differ at" not in words and "no p can be" not in words


def test_names_of_groups_stay_text(results):
    sheet = results / "slides.tsv"
    sheet.write_text(sheet.read_text().replace("\tb\n", "\t<script>alert(1)</script>\n"))
    page = draw(compare(results))
    assert "<script>" not in page and "&lt;script&gt;" in page


def test_the_report_has_the_section(results):
    output = compare(results)
    assert main(f"report {results} --statistics {output}".split()) == 0
    assert '<h2 id="statistics">Groups of patients</h2>' in (results / "report.html").read_text()
    assert main(["report", str(results)]) == 0
    assert "Groups of patients" not in (results / "report.html").read_text()

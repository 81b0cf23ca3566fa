import csv

from finished_slide import row, write_slide

from muse_pipeline.nuclei.parquet import footer_checksum
from muse_pipeline.report.cohort import gather_cohort
from muse_pipeline.report.page import write_page

FIELD = {"rank": 1, "slide_id": "<one>", "x": 700, "y": -20, "nuclei": 41, "why": "unsure"}


def write_table(results, checksum):
    with (results / "suggest.tsv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*FIELD, "checksum"], dialect="excel-tab")
        writer.writeheader()
        writer.writerow({**FIELD, "checksum": checksum})


def test_suggested_fields_are_listed_while_their_nuclei_are_there(tmp_path):
    folder = write_slide(tmp_path, "<one>")
    (folder / "viewer").mkdir()
    (folder / "viewer/index.html").write_text("")
    slides = gather_cohort(tmp_path, [row("<one>")])

    def page():
        write_page(slides, tmp_path / "report.html")
        return (tmp_path / "report.html").read_text(encoding="utf-8")

    assert "Fields to check next" not in page()
    write_table(tmp_path, footer_checksum(folder / "nuclei.parquet"))
    assert (
        'href="%3Cone%3E/viewer/index.html#at=700,-20,0.35"><bdi>&lt;one&gt; at 700, -20</bdi></a>: 41 nuclei, unsure'
        in page()
    )
    write_table(tmp_path, "0" * 32)
    assert "Fields to check next" not in page()

"""`muse run`, including repeated runs in the same results folder."""

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from slide_files import write_pyramid
from workflow_runs import draw_stained_slide

from muse_pipeline import steps
from muse_pipeline.cli import run_slides
from muse_pipeline.cohort.layout import OF_COHORT, remove_cohort_files
from muse_pipeline.cohort.lock import lock_results
from muse_pipeline.core.files import read_tsv, remove
from muse_pipeline.nuclei.parquet import read_provenance
from muse_pipeline.outputs.csv import Csv


def draw_glass(path):
    write_pyramid(path, np.full((600, 600, 3), 243, np.uint8))


def report_of(folder):
    """slide_id -> status, in the order of ``cohort.tsv``."""
    return {row["slide_id"]: row["status"] for row in read_tsv(folder / "cohort.tsv")}


def test_a_slide_that_is_added_leaves_the_others_in_the_report(muse, tmp_path):
    (tmp_path / "broken.svs").write_bytes(b"no slide")
    draw_glass(tmp_path / "glass.tif")
    results = tmp_path / "results"
    muse.fails(f"run {tmp_path / 'broken.svs'} -o {results}")
    (results / "glass").mkdir()
    (results / "glass/nuclei.csv.gz").touch()
    status, shown, _ = muse(f"run {tmp_path / 'glass.tif'} -o {results}")
    assert not (results / "glass/nuclei.csv.gz").exists()  # made from an earlier table
    assert (status, report_of(results)) == (
        0,
        {"broken": "failed", "glass": "empty"},
    )  # the status of this run only
    assert "slides of earlier runs that are also in the report: 1" in shown
    status, _, printed = muse(f"run {tmp_path / 'broken.svs'} -o {results}")
    assert (status, list(report_of(results))) == (2, ["broken", "glass"])
    assert "1 of 1 slides failed (broken)" in printed


@pytest.fixture
def mixed(tmp_path):
    """A folder of slides, one of which is broken, and a sheet with a further slide, which has two
    shards.
    """
    (tmp_path / "slides").mkdir()
    draw_stained_slide(tmp_path / "slides/a.tif", size_px=500, n_nuclei=60)
    (tmp_path / "slides/b.svs").write_bytes(b"no slide")
    shutil.copy(tmp_path / "slides/a.tif", tmp_path / "c.tif")
    (tmp_path / "sheet.tsv").write_text(
        "slide_id\tpath\tshards\tpatient\tgrade\tstatus\nC\tc.tif\t2\tP7\tII\talive\n"
    )
    return tmp_path


def times_in(folder):
    """Modification time of each file in ``folder``."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def rewritten(folder, before):
    """Names of the files that are newer than in ``before``, of those that tell which jobs have
    run.
    """
    jobs = "slide.json", "shards/1-of-1.parquet", "nuclei.parquet", "nuclei.h5ad"
    now = times_in(folder)
    return [
        name
        for name in jobs
        if folder / name in now and now[folder / name] != before.get(folder / name)
    ]


def test_folders_and_sheets_are_run_with_a_line_a_slide(muse, mixed):
    slides = mixed / "slides", mixed / "sheet.tsv"
    status, shown, printed = muse("run", *slides, "-o", mixed / "results", "--no-quality")
    assert status == 2 and "1 of 3 slides failed (b)" in printed
    model, first, second, third, *failures, summary = shown.splitlines()
    assert model.startswith("model: compact-")
    for name, line in (("a", first), ("C", third)):
        assert re.fullmatch(name + r": [1-9]\d* nuclei, \d.* s \([13] of 3\)", line)
    second = second.removesuffix(" (2 of 3)")
    assert second.startswith("b: inspect: ") and "is not a slide" in second
    assert summary.startswith("3 slides: 2 ok, 1 failed; see ")
    doubled = [
        "same picture twice (1 slide; remove one of the two from the sheet):",
        "  a: same picture as C; its nuclei are in no total",
    ]
    total, *failures, of_organ = failures
    assert total.endswith("nuclei of 1 slide; 1 slide left out: same picture twice")
    assert failures == ["1 slide failed:", f"  {second}", *doubled]
    assert of_organ.startswith(
        "* classes: organ not stated (2 slides); the accuracy of compact was measured in breast, "
    )
    assert (mixed / "results/C/shards/2-of-2.parquet").is_file()
    rows = {row["slide_id"]: row for row in read_tsv(mixed / "results/cohort.tsv")}
    own = "patient", "grade", "status", "sheet_status"
    assert [rows["C"][name] for name in own] == ["P7", "II", "ok", "alive"] and rows["a"][
        "grade"
    ] == ""
    assert "provider cpu" in (mixed / "results/a/logs/run.log").read_text(encoding="utf-8")


def test_an_output_is_added_or_made_again_with_the_nuclei_alone(muse, mixed):
    run = "run", mixed / "slides/a.tif", mixed / "sheet.tsv", "-o", mixed / "results"
    muse.ok(*run)
    folder = mixed / "results/a"
    for options, lost in ((["--csv"], None), ([], "viewer")):
        if lost:
            remove(folder / lost)
        before = times_in(folder)
        muse.ok(*run, *options)
        assert rewritten(folder, before) == ["nuclei.parquet"], (options, lost)
        assert (folder / "nuclei.csv.gz").exists() == bool(options)
        assert (folder / "nuclei.geojson.gz").is_file() and (folder / "viewer/index.html").is_file()


def test_another_patient_leaves_no_file_with_the_earlier_one(muse, mixed):
    run = "run", mixed / "sheet.tsv", "-o", mixed / "results"
    of_slide, of_cohort = mixed / "results/C/nuclei.h5ad", mixed / "results/cohort.h5ad"
    assert muse(*run, "--anndata")[0] == 0 and of_slide.is_file() and of_cohort.is_file()
    sheet = (mixed / "sheet.tsv").read_text()
    (mixed / "sheet.tsv").write_text(sheet.replace("P7", "P8"))
    before = times_in(of_slide.parent)
    assert "patient P7 -> P8: 1 slide (C)" in muse.ok(*run, "--anndata")
    assert rewritten(of_slide.parent, before) == ["nuclei.parquet", "nuclei.h5ad"]
    muse.ok(*run, "--features", "all")
    assert not of_slide.exists() and not of_cohort.exists()


def test_a_measurement_that_no_nucleus_has_stops_the_run_before_any_work(muse, mixed):
    config = mixed / "run.yaml"
    run = "run", mixed / "slides/a.tif", "-o", mixed / "results", "--config", config
    config.write_text("measurements: [h_men]")
    status, _, printed = muse(*run)
    assert (status, (mixed / "results").exists()) == (2, False)
    assert (
        "measurements: the table of nuclei has no numeric column 'h_men'; did you mean 'h_mean'?"
        in printed
    )
    config.write_text("measurements: [texture_asm]")
    assert muse(*run)[0] == 2 and not (mixed / "results").exists()


def test_a_failed_output_repeats_the_job_that_writes_it(muse, mixed, monkeypatch):
    run = "run", mixed / "slides/a.tif", "-o", mixed / "results"
    write, folder = Csv.write, mixed / "results/a"
    monkeypatch.setattr(Csv, "write", lambda *_: 1 / 0)
    muse.fails(*run, "--csv")
    before = times_in(folder)
    assert muse(*run, "--csv")[0] == 2 and report_of(mixed / "results") == {"a": "failed"}
    assert muse(*run)[0] == 0 and report_of(mixed / "results") == {"a": "ok"}
    monkeypatch.setattr(Csv, "write", write)
    muse.ok(*run, "--csv")
    assert rewritten(folder, before) == ["nuclei.parquet"]
    with gzip.open(folder / "nuclei.csv.gz", "rt") as file:
        assert len(file.readlines()) == 1 + pq.read_metadata(folder / "nuclei.parquet").num_rows


def test_a_killed_run_continues_with_the_job(muse, mixed, monkeypatch):
    run = "run", mixed / "slides/a.tif", "-o", mixed / "results"

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(steps, "stitch", interrupt)
        assert muse(*run)[0] == 130
    before = times_in(mixed / "results/a")
    muse.ok(*run)
    assert rewritten(mixed / "results/a", before) == ["nuclei.parquet"]


def test_images_and_shards_are_not_kept_if_they_are_not_wanted(muse, mixed):
    config = mixed / "config.yaml"
    config.write_text("keep_stores: false\n")
    run = "run", mixed / "slides/a.tif", "-o", mixed / "results", "--config", config
    muse.ok(*run)
    folder = mixed / "results/a"
    assert not list(folder.glob("image-*.zarr")) and not list(folder.glob("shards/*"))
    assert "unchanged, skipped" in muse(*run)[1]
    before = times_in(folder)
    muse.ok(*run, "--csv")
    assert rewritten(folder, before) == [
        "slide.json",
        "nuclei.parquet",
    ]  # the slide is read again for the image


@pytest.mark.slow
def test_small_slides_that_run_at_the_same_time_give_the_same_bytes(muse, tmp_path):
    (tmp_path / "slides").mkdir()
    for seed in range(2 * run_slides.LEAST_EACH - 1):
        draw_stained_slide(tmp_path / f"slides/{seed}.tif", 300, n_nuclei=20 + seed, seed=seed)
    (tmp_path / "slides/bad.svs").write_bytes(b"no slide")
    written = {}
    for threads in (1, 2):
        output = tmp_path / f"results-{threads}"
        run = "run", tmp_path / "slides", "-o", output, "--threads", threads
        status, shown, _ = muse(*run)
        assert status == 2 and f"bad: inspect: {tmp_path}/slides/bad.svs: " in shown
        assert "(8 of 8)" in shown
        files = (path for path in output.rglob("*") if path.suffix in {".gz", ".png", ".parquet"})
        written[threads] = {path.relative_to(output): path.read_bytes() for path in files}
    assert written[1] == written[2] and Path("6/nuclei.geojson.gz") in written[1]


def test_what_is_replaced_is_named_before_it_is(muse, mixed, monkeypatch):
    run = "run", mixed / "slides/a.tif", mixed / "c.tif", "-o", mixed / "results"
    muse.ok(*run, "--model", "label_free")
    run_logged, nuclei = run_slides.run_logged, mixed / "results/a/nuclei.parquet"
    before = nuclei.stat().st_mtime_ns

    def run_first(row, *others):
        print("first step")
        if row.slide_id == "a":
            assert nuclei.stat().st_mtime_ns == before
        return run_logged(row, *others)

    monkeypatch.setattr(run_slides, "run_logged", run_first)
    status, shown, _ = muse(*run)
    printed = shown[: shown.index("first step")]
    assert status == 0 and "This run replaces the finished results of 2 slides:" in printed
    assert re.search(
        r"  model label_free \(\w{8}\) -> compact \(\w{8}\): 2 slides \(a, c\)", printed
    )
    assert read_provenance(nuclei).model.name == "compact"


def test_a_defect_is_one_line_and_its_traceback_is_in_the_log(muse, tmp_path, monkeypatch):
    def break_down(*arguments):
        raise KeyError("lost")

    draw_glass(tmp_path / "glass.tif")
    monkeypatch.setattr(steps, "tile", break_down)
    status, shown, _ = muse(f"run {tmp_path / 'glass.tif'} -o {tmp_path / 'results'}")
    log = tmp_path / "results/glass/logs/run.log"
    assert status == 2 and f"glass: tile: unexpected KeyError: 'lost'; see {log}\n" in shown
    assert "Traceback" not in shown and "Traceback" in log.read_text(encoding="utf-8")


def test_the_report_alone_finds_the_sheet_and_writes_beside_it(muse, tmp_path):
    draw_glass(tmp_path / "glass.tif")
    results = tmp_path / "results"
    muse.ok(f"run {tmp_path / 'glass.tif'} -o {results}")
    written = {name: (results / name).read_bytes() for name in ("report.html", "cohort.tsv")}
    for name in written:
        (results / name).unlink()
    shown = muse.ok(f"report {results}")
    assert shown.endswith(f"1 slide: 1 empty; see {results / 'report.html'}\n")
    assert {name: (results / name).read_bytes() for name in written} == written
    assert "has no sheet.json; give the output folder of a run" in muse.fails(
        f"report {results / 'glass'}"
    )


def test_another_slide_of_that_name_replaces_nothing(muse, tmp_path):
    for case, grey in (("one", 243), ("two", 240), ("moved", 243)):
        (tmp_path / case).mkdir()
        write_pyramid(tmp_path / case / "HE.tif", np.full((600, 600, 3), grey, np.uint8))
    results = tmp_path / "results"
    muse.ok(f"run {tmp_path / 'one/HE.tif'} -o {results}")
    status, _, printed = muse(f"run {tmp_path / 'two/HE.tif'} -o {results}")
    assert (status, printed.count("\n"), report_of(results)) == (2, 1, {"HE": "empty"})
    assert f"results of {tmp_path / 'one/HE.tif'}, another slide of that name" in printed
    assert "slide files at another location: 1 slide (HE)" in muse.ok(
        f"run {tmp_path / 'moved/HE.tif'} -o {results}"
    )


AFAR = (
    '{"type": "Polygon", "coordinates": [[[9000, 9000], [9999, 9000], [9999, 9999], [9000, 9000]]]}'
)


@pytest.mark.parametrize(
    "option, text, reason",
    [
        *[(option, None, "No such file") for option in ("--roi", "--regions")],
        ("--roi", AFAR, "is outside slide 'glass'"),
        ("--roi", "x,y\n1,2\n", "not JSON"),
        ("--regions", AFAR, "has no area with a class on slide 'glass'"),
    ],
)
def test_wrong_areas_cost_no_finished_result(muse, tmp_path, option, text, reason):
    draw_glass(tmp_path / "glass.tif")
    roi = tmp_path / "roi.json"
    if text:
        roi.write_text(text)
    folder = tmp_path / "results/glass"
    muse.ok(f"run {tmp_path / 'glass.tif'} -o {tmp_path / 'results'}")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    status, shown, printed = muse(
        f"run {tmp_path / 'glass.tif'} -o {tmp_path / 'results'} {option} {roi}"
    )
    assert (
        (status, printed.count("\n")) == (2, 1)
        and f"{option} {roi}: " in shown + printed
        and reason in shown + printed
    )
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_roi_that_fits_one_slide_costs_the_other_alone(muse, tmp_path):
    for name, side in (("large", 900), ("small", 300)):
        write_pyramid(tmp_path / f"{name}.tif", np.full((side, side, 3), 243, np.uint8))
    ring = [[500, 500], [800, 500], [800, 800], [500, 500]]
    (tmp_path / "roi.json").write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    slides = tmp_path / "large.tif", tmp_path / "small.tif"
    muse.fails("run", *slides, "-o", tmp_path / "results", "--roi", tmp_path / "roi.json")
    assert report_of(tmp_path / "results") == {"large": "empty", "small": "failed"}


def test_an_earlier_result_is_not_read_and_replaced_at_once(muse, tmp_path):
    draw_glass(tmp_path / "glass.tif")
    mine = tmp_path / "results/glass/tissue.geojson"
    run = "run", tmp_path / "glass.tif", "-o", tmp_path / "results"
    muse.ok(*run)
    mine.write_text('{"type": "Polygon", "coordinates": [[[0, 0], [500, 0], [500, 500], [0, 0]]]}')
    status, _, printed = muse(*run, "--roi", mine)
    assert (status, mine.is_file()) == (2, True) and "give a copy of the file" in printed


def test_a_result_within_a_roi_is_recorded(muse, tmp_path):
    draw_glass(tmp_path / "glass.tif")
    ring = [[100, 100], [500, 100], [500, 300], [100, 300], [100, 100]]
    (tmp_path / "roi.json").write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    run = "run", tmp_path / "glass.tif", "-o", tmp_path / "results"
    muse.ok(*run)
    assert read_provenance(tmp_path / "results/glass/nuclei.parquet").roi is None
    muse.ok(*run, "--roi", tmp_path / "roi.json")
    printed = read_provenance(tmp_path / "results/glass/nuclei.parquet").roi
    assert (printed.name, printed.area_mm2, len(printed.sha256)) == ("roi.json", 0.02, 64)
    (row,) = read_tsv(tmp_path / "results/cohort.tsv")
    assert row["roi"] == "roi.json"
    assert row["reason"] == (
        "no tissue was found within the ROI roi.json; see tissue.png, and check that its positions"
        " are level-0 pixels, not um"
    )
    assert "<dt>Region of interest</dt>" in (tmp_path / "results/report.html").read_text(
        encoding="utf-8"
    )


@pytest.mark.parametrize("nuclei, is_kept", [("older", True), ("newer", False), ("missing", False)])
def test_files_of_the_cohort_go_with_the_nuclei_that_they_were_made_from(tmp_path, nuclei, is_kept):
    (tmp_path / "a").mkdir()
    for name in (*OF_COHORT, "cohort.tsv"):
        (tmp_path / name).touch()
    if nuclei != "missing":
        (tmp_path / "a/nuclei.parquet").touch()
        now = (tmp_path / "cohort.tsv").stat().st_mtime + (1 if nuclei == "newer" else -1)
        os.utime(tmp_path / "a/nuclei.parquet", (now, now))
    remove_cohort_files(tmp_path, [])
    assert all((tmp_path / name).exists() for name in OF_COHORT)
    remove_cohort_files(tmp_path, ["a"])
    assert [(tmp_path / name).exists() for name in OF_COHORT] == [is_kept] * 3
    assert (tmp_path / "cohort.tsv").exists()


def test_a_mode_that_the_model_does_not_go_with_is_rejected(muse, tmp_path):
    draw_glass(tmp_path / "glass.tif")
    run = "run", tmp_path / "glass.tif", "-o", tmp_path / "results"
    status, _, printed = muse(*run, "--mode", "label-free", "--model", "compact")
    assert (status, printed.count("\n"), (tmp_path / "results").exists()) == (2, 1, False)
    assert "is for models of one class, but model 'compact' has Lymphocyte, Epi" in printed


def test_results_and_lock_are_in_one_folder(muse, tmp_path, monkeypatch):
    draw_glass(tmp_path / "glass.tif")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    muse.ok("run glass.tif -o ~/x")
    assert {path.name for path in (tmp_path / "home/x").iterdir()} >= {
        ".lock",
        "glass",
        "report.html",
    }
    assert not (tmp_path / "~").exists()


def test_a_slide_whose_folder_is_deleted_leaves_the_report(muse, tmp_path):
    (tmp_path / "broken.svs").write_bytes(b"no slide")
    sheet = [{"slide_id": "gone", "path": "/gone.svs", "shards": 1}]
    (tmp_path / "results").mkdir()
    (tmp_path / "results/sheet.json").write_text(json.dumps(sheet))
    muse.fails(f"run {tmp_path / 'broken.svs'} -o {tmp_path / 'results'}")
    assert list(report_of(tmp_path / "results")) == ["broken"]


def test_a_sheet_of_a_user_else_is_no_position_for_results(muse, tmp_path):
    (tmp_path / "broken.svs").write_bytes(b"no slide")
    (tmp_path / "sheet.json").write_text("{}")
    muse.fails(f"run {tmp_path / 'broken.svs'} -o {tmp_path}")
    assert (tmp_path / "sheet.json").read_text() == "{}"


def test_a_folder_that_another_run_writes_to_is_left_alone(tmp_path):
    draw_glass(tmp_path / "glass.tif")
    command = [
        sys.executable,
        "-m",
        "muse_pipeline.cli.main",
        "run",
        tmp_path / "glass.tif",
        "-o",
        tmp_path / "results",
    ]
    with lock_results(tmp_path / "results", "snakemake"):
        run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert run.stderr.startswith(
        f"muse run: {tmp_path}/results: snakemake (process {os.getpid()} on "
    )
    assert [path.name for path in (tmp_path / "results").iterdir()] == [".lock"]


@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0,
    reason="root alone can make a file that root cannot remove",
)
def test_a_folder_of_a_user_else_costs_its_own_slide_alone(muse, tmp_path):
    for name in ("a", "b"):
        draw_glass(tmp_path / f"{name}.tif")
    mine = tmp_path / "results/a/nuclei.parquet"
    mine.parent.mkdir(parents=True)
    mine.touch()
    if subprocess.run(["chattr", "+i", mine], check=False, capture_output=True).returncode:
        pytest.skip("this file system has no files that cannot be removed")
    try:
        status, _, printed = muse(
            f"run {tmp_path / 'a.tif'} {tmp_path / 'b.tif'} -o {tmp_path / 'results'}"
        )
    finally:
        subprocess.run(["chattr", "-i", mine], check=True)
    assert status == 2
    assert "1 of 2 slides failed (a)" in printed
    assert report_of(tmp_path / "results")["b"] == "empty"

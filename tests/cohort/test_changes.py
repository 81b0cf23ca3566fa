"""What a run would change in finished results, found by comparing its settings with the recorded ones."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from slide_files import write_pyramid

from muse_pipeline.cli import run_slides
from muse_pipeline.cli.main import main
from muse_pipeline.cli.run_slides import find_changes, plan_run
from muse_pipeline.cohort.changes import describe_changes, read_changes, version_of_file
from muse_pipeline.cohort.sheet import SheetRow
from muse_pipeline.core.files import read_json, sha256_of
from muse_pipeline.inference.model import find_model
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.pipeline import Models
from muse_pipeline.settings import RunSettings
from muse_pipeline.slides.remote import SlideUrl

MODEL = sha256_of(find_model("compact"))
RING = [[100, 100], [500, 100], [500, 300], [100, 300], [100, 100]]


@pytest.fixture(scope="module")
def models() -> Models:
    return Models(Predictor(find_model("compact")))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A folder with a slide of bare glass, a ROI file, and the results of a run with neither mpp nor ROI given."""
    folder = tmp_path_factory.mktemp("finished")
    write_pyramid(folder / "S.tif", np.full((600, 600, 3), 243, np.uint8))
    (folder / "roi.json").write_text(json.dumps({"type": "Polygon", "coordinates": [RING]}))
    assert main(["run", str(folder / "S.tif"), "-o", str(folder / "results")]) == 0
    return folder


@pytest.fixture
def changes_of(models):
    def find(folder: Path, settings: dict | None = None, **cells) -> list[str] | None:
        row = replace(SheetRow("S", str(folder / "S.tif")), **cells)
        plan = plan_run([row], models, RunSettings({"output": str(folder / "results"), **(settings or {})}))
        changes = find_changes(row, plan)
        return changes if changes is None else list(changes.values())

    return find


def test_the_same_settings_change_nothing(finished, changes_of):
    assert changes_of(finished) == []
    assert changes_of(finished, patient="P1", split="test", shards=3) == []  # nuclei do not depend on these cells
    assert changes_of(finished, {"csv": True, "viewer": False, "embedding": True}) == []  # outputs may be added


@pytest.mark.parametrize(
    ("setting", "value", "change"),
    [
        ("frame", "openslide", "frame qupath -> openslide"),
        ("features", "all", "features basic -> all"),
        ("max_corrupt", 0.5, "max_corrupt 0.01 -> 0.5"),
        ("quality", False, 'quality {"subtract": ["blurred"]} -> false'),
        ("quality", {"subtract": []}, 'quality {"subtract": ["blurred"]} -> {"subtract": []}'),
    ],
)
def test_a_setting_of_the_run_is_named(finished, changes_of, setting, value, change):
    assert changes_of(finished, {setting: value}) == [change]


def test_another_model_is_named(finished):
    row, predictor = SheetRow("S", str(finished / "S.tif")), Predictor(find_model("label_free"))
    plan = plan_run([row], Models(predictor), RunSettings({"output": str(finished / "results")}))
    assert list(find_changes(row, plan).values()) == [
        f"model compact ({MODEL[:8]}) -> label_free ({predictor.sha256[:8]})"
    ]


def test_a_cell_of_the_row_is_named(finished, changes_of):
    roi = finished / "roi.json"
    assert changes_of(finished, mpp=0.5) == ["mpp of the file -> 0.5"]
    assert changes_of(finished, roi=str(roi)) == [f"roi none -> roi.json ({sha256_of(roi)[:8]})"]
    assert changes_of(finished, stain="IHC") == ["stain unknown -> IHC"]
    assert len(changes_of(finished, mpp=0.25, roi=str(roi))) == 2


def test_what_was_given_then_and_is_not_now_is_named(finished, changes_of, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    roi, slide = tmp_path / "roi.json", str(tmp_path / "S.tif")
    assert main(["run", slide, "-o", str(tmp_path / "results"), "--mpp", "0.4", "--roi", str(roi)]) == 0
    checksum = sha256_of(roi)[:8]
    assert changes_of(tmp_path, mpp=0.4, roi=str(roi)) == []
    assert changes_of(tmp_path) == ["mpp 0.4 -> of the file", f"roi roi.json ({checksum}) -> none"]
    roi.write_text(roi.read_text() + "\n")  # the same name, but different content
    assert changes_of(tmp_path, mpp=0.4, roi=str(roi)) == [
        f"roi roi.json ({checksum}) -> roi.json ({sha256_of(roi)[:8]})"
    ]


def test_another_version_of_the_package_is_named(finished, changes_of, monkeypatch):
    before = run_slides.__version__
    monkeypatch.setattr(run_slides, "__version__", "99.0")
    assert changes_of(finished) == [f"muse-pipeline {before} -> 99.0"]


def test_a_moved_and_a_changed_slide_are_named(finished, changes_of, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    assert changes_of(tmp_path) == ["slide files at another location"]
    (tmp_path / "link.tif").symlink_to(finished / "S.tif")
    assert changes_of(tmp_path, path=str(tmp_path / "link.tif")) == []
    assert main(["run", str(tmp_path / "S.tif"), "-o", str(tmp_path / "results")]) == 0
    with (tmp_path / "S.tif").open("ab") as file:
        file.write(b" ")
    assert changes_of(tmp_path) == ["changed slide files"]


def test_a_file_with_another_date_is_the_same_slide(finished, changes_of, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    assert main(["run", str(tmp_path / "S.tif"), "-o", str(tmp_path / "results")]) == 0
    os.utime(tmp_path / "S.tif", (1, 1))
    assert changes_of(tmp_path) == []
    assert changes_of(tmp_path, mpp=0.4) == ["changed slide files", "mpp of the file -> 0.4"]


def test_a_run_that_ends_midway_records_the_outputs_that_it_wrote(finished, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    records = tmp_path / "results/S/logs/settings"
    shutil.rmtree(tmp_path / "results/S/image-500nm.zarr")  # as if stores were not kept, so that embedding fails
    run = ["run", str(finished / "S.tif"), "-o", str(tmp_path / "results"), "--frame", "openslide"]
    assert main([*run, "--embedding"]) == 2
    assert read_json(tmp_path / "results/S/nuclei.provenance.json")["frame"] == "openslide"
    assert read_json(records / "nuclei.json")["frame"] == "openslide" and not (records / "embed.json").exists()


def test_outputs_that_are_added_leave_the_records_of_shards(finished, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    records = tmp_path / "results/S/logs/settings"
    names = {path.name for path in records.iterdir()}
    run = ["run", str(finished / "S.tif"), "-o", str(tmp_path / "results"), "--csv", "--shards", "2"]
    assert main(run) == 0
    assert {path.name for path in records.iterdir()} == names
    assert (read_json(records / "nuclei.json")["shards"], read_json(records / "nuclei.json")["csv"]) == (1, True)


def test_a_slide_at_a_url_is_known_by_it(finished, changes_of, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    record, url = tmp_path / "results/S/logs/settings/nuclei.json", "https://host/S.tif"
    state = read_json(record) | {"slide": url, "slide files": "e3b0c442"}
    for path in (SlideUrl(f"{url}?sig=1"), SlideUrl("https://host/T.tif")):
        record.write_text(json.dumps(state))
        changes = changes_of(tmp_path, path=path)
        assert ("slide files at another location" in changes) == ("T.tif" in path)


@pytest.mark.parametrize("content", [None, "", '{"provenance": ', "[]"])
def test_results_without_a_record_are_made_again(finished, changes_of, tmp_path, content):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    record = tmp_path / "results/S/logs/settings/nuclei.json"
    record.unlink()
    if content is not None:
        record.write_text(content)
    assert changes_of(tmp_path) == ["settings that are not recorded"]
    (tmp_path / "results/S/nuclei.parquet").unlink()
    assert changes_of(tmp_path) is None


def test_a_changed_setting_of_an_output_writes_that_output_alone(finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    run = ["run", str(finished / "S.tif"), "-o", str(tmp_path / "results")]
    folder = tmp_path / "results/S"
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.is_file()}
    for path in folder.iterdir():
        os.utime(path, ns=(before.get(path.name, 1), before.get(path.name, 1)))
    assert main([*run, "--frame", "openslide", "--csv"]) == 0
    shown = capsys.readouterr().out
    assert (
        "This run replaces outputs, but not the nuclei, of 1 slide:\n  frame qupath -> openslide: 1 slide (S)" in shown
    )
    assert "unchanged, wrote csv, geojson\n" in shown and "finished results" not in shown
    now = {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.is_file()}
    changed = {name for name, time in now.items() if before.get(name) != time}
    assert changed == {"nuclei.geojson.gz", "nuclei.provenance.json", "nuclei.csv.gz"}
    assert read_json(folder / "nuclei.provenance.json")["frame"] == "openslide"
    assert main([*run, "--frame", "openslide", "--csv"]) == 0
    assert "replaces" not in capsys.readouterr().out
    written = (folder / "nuclei.geojson.gz").read_bytes()
    assert main([*run, "--frame", "openslide", "--measurements", "nosuch"]) == 2
    assert (folder / "nuclei.geojson.gz").read_bytes() == written


@pytest.mark.parametrize("words", [("--frame", "openslide"), ("--measurements", "h_mean")])
def test_cells_are_written_again_with_the_nuclei(finished, tmp_path, capsys, words):
    run = ["run", str(finished / "S.tif"), "-o", str(tmp_path / "results"), "--cells"]
    assert main(run) == 0
    assert main([*run, *words]) == 0
    assert "unchanged, wrote geojson, cells\n" in capsys.readouterr().out


def test_lines_name_each_change_once_with_its_slides():
    model, roi = "model a (1) -> b (2)", "roi none -> r.json (3)"
    found = {f"S{n}": [model] for n in range(7)} | {"S7": [model, roi]}
    assert describe_changes(found) == [
        "This run replaces the finished results of 8 slides:",
        f"  {model}: 8 slides (S0, S1, S2, S3, S4 and 3 more)",
        f"  {roi}: 1 slide (S7)",
        "To keep them, stop the run and give another output folder.",
    ]
    assert describe_changes({}) == []


def test_the_settings_of_a_job_are_compared_with_its_record(tmp_path):
    record, now = tmp_path / "nuclei.json", {"slide files": "0f", "mpp": 0.5, "csv": False, "quality": None}
    assert read_changes(record, now) is None
    record.write_text('{"mpp": ')  # cut off by a full disk
    assert read_changes(record, now) is None
    record.write_text(json.dumps({"slide files": "0f", "mpp": 0.5, "csv": False}))
    assert read_changes(record, now) == {}
    assert read_changes(record, {**now, "mpp": "of the file", "csv": True}) == {
        "mpp": "mpp 0.5 -> of the file",
        "csv": "csv false -> true",
    }
    assert read_changes(record, {**now, "slide files": "1a"}) == {"slide files": "changed slide files"}


def test_a_file_is_named_with_its_checksum(tmp_path):
    roi = tmp_path / "roi.json"
    assert version_of_file(None) == "none"
    assert version_of_file(str(roi)) == "roi.json"
    roi.write_text("{}")
    assert version_of_file(str(roi)) == f"roi.json ({sha256_of(roi)[:8]})"

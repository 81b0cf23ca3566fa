"""What a run changes of finished results: each setting is compared with what the results record."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from slide_files import write_pyramid

from muse_pipeline.cli.main import main
from muse_pipeline.cohort import changes
from muse_pipeline.cohort.changes import RunSettings, describe_changes, find_changes, read_changes, version_of_file
from muse_pipeline.cohort.sheet import SheetRow
from muse_pipeline.core.files import read_json, sha256_of
from muse_pipeline.inference.model import find_model
from muse_pipeline.slides.remote import SlideUrl

MODEL = sha256_of(find_model("compact"))
RUN = RunSettings("compact", MODEL, "cpu")
RING = [[100, 100], [500, 100], [500, 300], [100, 300], [100, 100]]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A folder with a slide of glass, a region of interest, and the results of a run with neither mpp nor ROI given."""
    folder = tmp_path_factory.mktemp("finished")
    write_pyramid(folder / "S.tif", np.full((600, 600, 3), 243, np.uint8))
    (folder / "roi.json").write_text(json.dumps({"type": "Polygon", "coordinates": [RING]}))
    assert main(["run", str(folder / "S.tif"), "-o", str(folder / "results")]) == 0
    return folder


def changes_of(finished: Path, run: RunSettings = RUN, **cells) -> list[str] | None:
    row = SheetRow("S", str(finished / "S.tif"))
    return find_changes(finished / "results/S", replace(row, **cells), run)


def test_the_same_settings_change_nothing(finished):
    assert changes_of(finished) == []
    assert changes_of(finished, patient="P1", split="test", shards=3) == []  # no nucleus depends on these


@pytest.mark.parametrize(
    ("name", "value", "change"),
    [
        ("model_sha256", "0" * 64, f"model compact ({MODEL[:8]}) -> compact (00000000)"),
        ("provider", "openvino", "provider cpu -> openvino"),
        ("frame", "openslide", "frame qupath -> openslide"),
        ("features", "all", "features basic -> all"),
        ("quality", ("blurred",), "quality false -> {subtract: [blurred]}"),
        ("quality", (), "quality false -> {subtract: []}"),
    ],
)
def test_a_setting_of_the_run_is_named(finished, name, value, change):
    assert changes_of(finished, replace(RUN, **{name: value})) == [change]


def test_a_model_that_is_still_to_be_trained_is_another_if_its_name_is(finished):
    mine = f"model compact ({MODEL[:8]}) -> mine (still to be trained)"
    assert changes_of(finished, RunSettings("mine", None, "cpu")) == [mine]
    assert changes_of(finished, RunSettings("compact", None, "cpu")) == []


def test_a_cell_of_the_row_is_named(finished):
    roi = finished / "roi.json"
    assert changes_of(finished, mpp=0.5) == ["mpp of the file -> 0.5"]
    assert changes_of(finished, roi=str(roi)) == [f"roi none -> roi.json ({sha256_of(roi)[:8]})"]
    assert changes_of(finished, mpp=0.25, roi=str(roi))[0] == "mpp of the file -> 0.25"
    assert len(changes_of(finished, mpp=0.25, roi=str(roi))) == 2


def test_what_was_given_then_and_is_not_now_is_named(finished, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    roi, slide = tmp_path / "roi.json", str(tmp_path / "S.tif")
    assert main(["run", slide, "-o", str(tmp_path / "results"), "--mpp", "0.4", "--roi", str(roi)]) == 0
    checksum = sha256_of(roi)[:8]
    assert changes_of(tmp_path, mpp=0.4, roi=str(roi)) == []
    assert changes_of(tmp_path) == ["mpp 0.4 -> of the file", f"roi roi.json ({checksum}) -> none"]
    roi.write_text(roi.read_text() + "\n")  # the same name, another file
    assert changes_of(tmp_path, mpp=0.4, roi=str(roi)) == [
        f"roi roi.json ({checksum}) -> roi.json ({sha256_of(roi)[:8]})"
    ]


def test_another_version_of_the_package_is_named(finished, monkeypatch):
    before = changes.__version__
    monkeypatch.setattr(changes, "__version__", "99.0")
    assert changes_of(finished) == [f"muse-pipeline {before} -> 99.0"]


def test_a_moved_and_a_changed_slide_are_named(finished, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    assert changes_of(tmp_path) == ["slide files at another location"]
    sidecar = tmp_path / "results/S/nuclei.provenance.json"
    sidecar.write_text(json.dumps({**read_json(sidecar), "slide_path": str(tmp_path / "S.tif")}))
    assert changes_of(tmp_path) == []
    (tmp_path / "link.tif").symlink_to(tmp_path / "S.tif")
    assert changes_of(tmp_path, path=str(tmp_path / "link.tif")) == []
    with (tmp_path / "S.tif").open("ab") as file:
        file.write(b" ")
    assert changes_of(tmp_path) == ["changed slide files"]


def test_a_slide_at_a_url_is_known_by_it(finished, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    sidecar, url = tmp_path / "results/S/nuclei.provenance.json", "https://host/S.tif"
    sidecar.write_text(json.dumps({**read_json(sidecar), "slide_path": url}))
    assert changes_of(tmp_path, path=SlideUrl(f"{url}?sig=1")) == []
    assert changes_of(tmp_path, path=SlideUrl("https://host/T.tif")) == ["slide files at another location"]


@pytest.mark.parametrize("content", [None, "", "{}", '{"provenance": {}}', "[]"])
def test_unfinished_results_are_distinguished_from_the_same_ones(finished, tmp_path, content):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    sidecar = tmp_path / "results/S/nuclei.provenance.json"
    sidecar.unlink()
    if content is not None:
        sidecar.write_text(content)
    assert changes_of(tmp_path) is None


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
    record.write_text('{"mpp": ')  # a full disk
    assert read_changes(record, now) is None
    record.write_text(json.dumps({"slide files": "0f", "mpp": 0.5, "csv": False}))
    assert read_changes(record, now) == []
    assert read_changes(record, {**now, "mpp": "of the file", "csv": True}) == [
        "mpp 0.5 -> of the file",
        "csv false -> true",
    ]
    assert read_changes(record, {**now, "slide files": "1a"}) == ["changed slide files"]


def test_a_file_is_named_with_its_checksum(tmp_path):
    roi = tmp_path / "roi.json"
    assert version_of_file(None) == "none"
    assert version_of_file(str(roi)) == "roi.json"
    roi.write_text("{}")
    assert version_of_file(str(roi)) == f"roi.json ({sha256_of(roi)[:8]})"

"""The checks of a cohort before its run report all problems."""

import shutil

import cv2
import numpy as np
import pytest
from slide_files import spoil_tile, write_pyramid
from workflow_runs import draw_stained_slide, write_sheet

from muse_pipeline.cohort.sheet import SheetRow
from muse_pipeline.core.files import read_json
from muse_pipeline.inference.model import find_model, read_card
from muse_pipeline.preflight import (
    SlideCheck,
    check_slides,
    find_duplicates,
    sum_up,
)


@pytest.fixture(scope="module")
def card():
    return read_card(find_model("compact"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of slides: two identical ones; the others are truncated, without mpp, coarse, only
    glass or damaged.
    """
    folder = tmp_path_factory.mktemp("cohort")
    draw_stained_slide(folder / "good.tif")
    shutil.copy(folder / "good.tif", folder / "twin.tif")
    (folder / "cut.tif").write_bytes((folder / "good.tif").read_bytes()[:3000])
    write_pyramid(folder / "no_mpp.tif", np.full((600, 600, 3), 200, np.uint8), mpp=None)
    write_pyramid(folder / "coarse.tif", np.full((600, 600, 3), 200, np.uint8), mpp=1.2)
    write_pyramid(folder / "glass.tif", np.full((900, 900, 3), 243, np.uint8))
    shutil.copy(folder / "good.tif", folder / "spoilt.tif")
    for tile in range(36):
        spoil_tile(folder / "spoilt.tif", 0, tile)
    return folder


@pytest.fixture(scope="module")
def found(folder, card):
    """The checks that `muse preflight` makes of the folder."""
    rows = [SheetRow(path.stem, str(path)) for path in sorted(folder.glob("*.tif"))]
    return sum_up(list(check_slides(rows, card, threads=2)))


def test_what_cannot_run_is_named(found):
    problems = {
        slide["slide_id"]: slide["problem"] for slide in found["slides"] if slide["problem"]
    }
    assert problems.keys() == {"cut", "no_mpp", "coarse", "spoilt"}
    assert "is truncated" in problems["cut"]
    assert "does not state the size of a pixel" in problems["no_mpp"]
    assert "too coarse for an image at 0.5 um/px" in problems["coarse"]
    assert "sampled tiles cannot be decoded" in problems["spoilt"]
    assert not [problem for problem in problems.values() if "\n" in problem]


def test_twins_and_scanners_are_found(found):
    assert found["duplicates"] == [["good", "twin"]]
    assert found["scanners"][0] == {"vendor": "generic-tiff", "mpp": [0.5, 0.5], "slides": 4}


def test_a_slide_at_a_url_is_known_by_name_and_size():
    checks = [
        SlideCheck("here", "/slides/a.svs", fingerprint="f", file_bytes=9),
        SlideCheck("there", "https://host/a.svs?versionId=1", fetch_bytes=9),
        SlideCheck("larger", "https://host/a.svs", fetch_bytes=10),
        SlideCheck("elsewhere", "s3://bucket/b.svs", fetch_bytes=9),
        SlideCheck("again", "https://host/b.svs", fetch_bytes=9),
        SlideCheck("unread", "/slides/b.svs", "cannot be read"),
    ]
    assert find_duplicates(checks) == [["here", "there"], ["elsewhere", "again"]]


def test_cores_of_a_file_are_no_duplicates():
    checks = [
        SlideCheck(name, "/a.svs", fingerprint="f", roi=f"{name[0]}.geojson")
        for name in ("1", "2", "2 again")
    ]
    assert find_duplicates(checks) == [["2", "2 again"]]


def test_what_of_a_roi_is_left_out_is_noted(folder, card, tmp_path):
    (tmp_path / "roi.geojson").write_text(
        '[{"type":"Polygon","coordinates":[[[0,0],[900,0],[900,900],[0,0]]]},'
        '{"type":"Point","coordinates":[1,1]}]'
    )
    row = SheetRow("good", str(folder / "good.tif"), roi=str(tmp_path / "roi.geojson"))
    [found] = check_slides([row], card)
    assert found.problem == "" and f"{row.roi}: left out 1 point" in found.warnings


def test_a_slide_of_glass_has_no_tissue(found):
    glass = next(slide for slide in found["slides"] if slide["slide_id"] == "glass")
    assert (glass["problem"], glass["tissue_mm2"]) == ("", 0.0)


def test_the_verb_judges_and_records(folder, muse, tmp_path):
    status, shown, output = muse(f"preflight {folder} --json {tmp_path / 'all.json'} --threads 2")
    assert (status, output.count("\n")) == (2, 1)
    assert "4 of 7 slides cannot run (coarse, cut, no_mpp, spoilt)" in output
    assert read_json(tmp_path / "all.json")["n_problems"] == 4
    tissue_mm2 = read_json(tmp_path / "all.json")["tissue_mm2"]
    assert f"3 can run: {tissue_mm2:.1f} mm2 of tissue" in shown and tissue_mm2 > 0
    assert "cannot run  cut: " in shown and "the same slide  good, twin" in shown
    muse.ok(f"preflight {folder / 'good.tif'}")


def test_a_sheet_is_known_by_its_header(folder, muse, tmp_path):
    write_sheet(tmp_path / "slides.txt", [{"slide_id": "a", "path": folder / "glass.tif"}])
    status, shown, _ = muse(f"preflight {tmp_path / 'slides.txt'}")
    assert (status, "1 can run" in shown) == (0, True)


def test_a_picture_without_mpp_is_checked_with_one(muse, tmp_path):
    image = np.full((700, 700, 3), 240, np.uint8)
    cv2.circle(image, (350, 350), 250, (226, 170, 205), -1)
    cv2.imwrite(str(tmp_path / "picture.png"), image[..., ::-1])
    muse.fails(f"preflight {tmp_path / 'picture.png'}")
    muse.ok(f"preflight {tmp_path / 'picture.png'} --mpp 0.5")


def test_a_stain_unlike_training_is_reported_as_the_run_states_it(muse, tmp_path):
    brown, pale = (150, 100, 60), (205, 200, 215)
    image = np.full((900, 900, 3), 244, np.uint8)
    cv2.circle(image, (450, 450), 380, pale, -1)
    for x, y in np.random.default_rng(0).integers(200, 700, (300, 2)).tolist():
        cv2.circle(image, (x, y), 8, brown, -1)
    write_pyramid(tmp_path / "ihc.tif", image)
    write_pyramid(tmp_path / "black.tif", np.full((900, 900, 3), 3, np.uint8))
    shown = muse(f"preflight {tmp_path / 'ihc.tif'} {tmp_path / 'black.tif'}")[1]
    (ihc,) = [line for line in shown.splitlines() if line.startswith("note  ihc: brown nuclei")]
    assert "note  black: unlike the training pictures of" in shown and "dark background" in shown
    muse(f"run {tmp_path / 'ihc.tif'} -o {tmp_path / 'results'}")
    reason, *_ = read_json(tmp_path / "results/ihc/ledger/detect-1-of-1.json")["warnings"]
    assert ihc == f"note  ihc: {reason}: nuclei will be scored as positive or negative"

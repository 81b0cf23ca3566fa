"""The cores of synthetic tissue microarrays: missing, torn and touching ones, rotated grids, masks
without a grid.
"""

from pathlib import Path

import cv2
import numpy as np
import pytest
from slide_files import write_pyramid

from muse_pipeline import steps
from muse_pipeline.cohort.sheet import read_sheet
from muse_pipeline.core.errors import SlideError
from muse_pipeline.qupath.regions import read_roi
from muse_pipeline.slides.base import open_slide
from muse_pipeline.slides.inspect import read_info
from muse_pipeline.steps import image
from muse_pipeline.tissue.find import find_tissue
from muse_pipeline.tissue.mask import TissueMask
from muse_pipeline.tissue.tma import find_cores

MASK_MPP = np.array([8.0, 8.0])


def draw_tma(rows=5, columns=8, radius_um=300, pitch_um=900, turn=0.0, missing=()):
    """A mask of 8 um per pixel, and the (rows, columns, 2) centres of all cores in um."""
    size_um = np.array([columns + 1.5, rows + 1.5]) * pitch_um
    mask = np.zeros(np.ceil(size_um[::-1] / 8).astype(int), np.uint8)
    grid = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), -1) * pitch_um
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    middle = grid.reshape(-1, 2).mean(0)
    centres = (grid - middle) @ rotation + size_um / 2
    for row, column in np.ndindex(rows, columns):
        if (row, column) not in missing:
            xy = np.round(centres[row, column] / 8).astype(int).tolist()
            cv2.circle(mask, xy, round(radius_um / 8), 1, -1)
    return mask.astype(bool), centres


def find_grid(mask):
    """The cores, their (rows, columns, 2) centres in um, and their radius in um."""
    cores, radius_um = find_cores(mask, MASK_MPP)
    row, column = cores[-1].name.split("-")
    assert cores[0].name == "A-1"
    centres = np.array([core.centre_um for core in cores])
    return cores, centres.reshape(ord(row) - 64, int(column), 2), radius_um


def test_centres_of_cores_are_not_biased():
    """A disc is drawn around the middle of a pixel of the mask."""
    mask, centres = draw_tma()
    _, found, _ = find_grid(mask)
    middles = (np.round(centres / 8) + 0.5) * 8
    assert np.abs((found - middles).mean((0, 1))).max() < 3


def test_cores_in_one_column_are_rows():
    mask, centres = draw_tma(rows=6, columns=1, turn=-0.05)
    cores, found, radius_um = find_grid(mask)
    assert [core.name for core in cores] == [f"{letter}-1" for letter in "ABCDEF"]
    assert np.linalg.norm(found - centres, axis=-1).max() < 70 and radius_um == pytest.approx(
        300, rel=0.15
    )


def test_debris_beside_a_row_of_cores_is_no_second_row():
    mask, centres = draw_tma(rows=1, columns=5)
    mask[:3, 40:46] = mask[-4:, 200:205] = mask[150:153, 90:93] = True
    _, found, _ = find_grid(mask)
    assert found.shape == centres.shape and np.linalg.norm(found - centres, axis=-1).max() < 70


@pytest.mark.parametrize("pitch_um", [900, 700])
def test_torn_cores_have_the_radius_of_whole_ones(pitch_um):
    mask, centres = draw_tma(pitch_um=pitch_um)
    random, pixels = np.random.default_rng(0), mask.astype(np.uint8)
    for x, y in np.round(centres.reshape(-1, 2) / 8):
        angle = random.uniform(0, 2 * np.pi)
        across, along = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        if random.random() < 0.5:  # a crack
            ends = (x, y) + random.uniform(-12, 12) * across + np.outer((-45, 45), along)
            cv2.line(pixels, *np.round(ends).astype(int).tolist(), 0, 5)
        else:  # a part of the rim is missing
            cv2.circle(pixels, np.round((x, y) + 33 * across).astype(int).tolist(), 18, 0, -1)
    _, found, radius_um = find_grid(pixels.astype(bool))
    assert found.shape == centres.shape and 300 < radius_um < 330
    assert np.abs(found - centres).max() < 100


def test_discs_of_close_cores_do_not_overlap():
    mask, centres = draw_tma(pitch_um=610)
    _, found, radius_um = find_grid(mask)
    apart = np.median(np.linalg.norm(np.diff(found, axis=0), axis=-1))
    assert found.shape == centres.shape and 290 < radius_um < apart / 2


def test_debris_beside_the_grid_is_no_core():
    mask, centres = draw_tma(missing={(0, 3)})
    cv2.circle(pixels := mask.astype(np.uint8), (30, 25), 12, 1, -1)
    pixels[:20, 300:420] = 1
    cores, found, _ = find_grid(pixels.astype(bool))
    assert found.shape == centres.shape and sum(not core.is_missing for core in cores) == 39
    assert np.abs(found - centres).max() < 60


@pytest.mark.parametrize("kind", ["empty", "one section", "noise"])
def test_other_tissue_is_named(kind):
    mask = np.zeros((600, 900), np.uint8)
    if kind == "one section":
        cv2.ellipse(mask, (450, 300), (400, 290), 20, 0, 360, 1, -1)
    if kind == "noise":
        random = np.random.default_rng(0)
        for x, y, r in random.integers((0, 0, 10), (900, 600, 90), (25, 3)).tolist():
            cv2.circle(mask, (x, y), r, 1, -1)
    with pytest.raises(SlideError, match="round cores"):
        find_cores(mask.astype(bool), MASK_MPP)


@pytest.fixture(scope="module")
def microarray(tmp_path_factory):
    """A folder with a slide that has two rows of three cores, of which B-2 is missing."""
    mask, _ = draw_tma(2, 3, radius_um=150, pitch_um=450, missing={(1, 1)})
    pixels = np.where(mask[..., None], (200, 120, 170), 244).astype(np.uint8)
    pixels = pixels.repeat(8, 0).repeat(8, 1)
    folder = tmp_path_factory.mktemp("microarray")
    write_pyramid(folder / "one.tif", pixels, (8,), mpp=1)
    return folder


@pytest.fixture
def write_map(tmp_path):
    def write(text):
        (tmp_path / "map.tsv").write_text(text)
        return tmp_path / "cores.tsv", ("--tma", "--core-map", tmp_path / "map.tsv")

    return write


def test_a_sheet_of_cores_has_the_columns_of_the_map(microarray, write_map, muse):
    names = ["A-1", "A-2", "A-3", "B-1", "B-3"]
    sheet, words = write_map(
        "core\tpatient\tgrade\n" + "".join(f"{name}\tP{name}\t2\n" for name in names)
    )
    assert muse(f"sheet {microarray} -o {sheet}", *words) == (0, f"{sheet}: 5 cores\n", "")
    rows = read_sheet(sheet)
    assert [row.patient for row in rows] == [f"P{name}" for name in names]
    assert [row.own for row in rows] == [{"core": name, "grade": "2"} for name in names]
    assert "--tma always writes a new sheet" in muse.fails(f"sheet {microarray} -o {sheet}", *words)


def test_names_that_the_slide_or_the_map_lacks_are_warned_of(microarray, write_map, muse):
    sheet, words = write_map("core\tpatient\nA-1\tP1\nB-2\tP2\n")
    status, shown, printed = muse(f"sheet {microarray} -o {sheet}", *words)
    assert (status, shown, printed.count("\n")) == (0, f"{sheet}: 5 cores\n", 1)
    assert (
        "lacks 1 of the 2 cores in the map: 'B-2'; has 4 of its 5 cores not in the map: 'A-2',"
        in printed
    )
    assert [row.patient for row in read_sheet(sheet)] == ["P1", None, None, None, None]


@pytest.mark.parametrize(
    "text, message",
    [
        ("core\tpatient\nA1\tP1\nA2\tP2\n", "only 'A1', 'A2'; the slide has 'A-1', 'A-2', "),
        ("core\tpatient\nA-1\tP1\nC-1\tP2\n", "has 'C-1', but the grid of"),
        ("core\tpatient\nA-1\tP1\na-1\tP2\n", "row 3: core 'a-1' names the same core as"),
        ("core\tpath\nA-1\tP1\n", "the sheet has its own column 'path'"),
    ],
)
def test_a_map_that_cannot_be_used_is_one_sentence(text, message, microarray, write_map, muse):
    sheet, words = write_map(text)
    assert message in muse.fails(f"sheet {microarray} -o {sheet}", *words)
    assert {path.name for path in sheet.parent.iterdir()} == {"map.tsv"}
    assert "give --tma too" in muse.fails(f"sheet {microarray} -o {sheet}", *words[1:])


def test_tissue_of_a_file_is_found_once_for_its_cores(microarray, write_map, muse, tmp_path):
    sheet, _ = write_map("")
    muse.ok(f"sheet {microarray} -o {sheet} --tma")
    slide, info = microarray / "one.tif", tmp_path / "slide.json"
    steps.inspect(slide, "one", None, None, info)
    for row in read_sheet(sheet)[:2]:
        outputs = [
            tmp_path / row.slide_id / name
            for name in ("mask.npz", "tissue.png", "t.geojson", "colour.json")
        ]
        steps.tissue(slide, info, *outputs, Path(row.roi))
        with open_slide(slide) as opened:
            alone = find_tissue(opened, read_info(info), read_roi(row.roi, read_info(info))).tissue
        found = TissueMask.load(outputs[0])
        assert (found.sha256, found.area_mm2) == (alone.sha256, alone.area_mm2)
        assert found.area_mm2 > 0.05
    assert len(image._last_with_roi) == 1

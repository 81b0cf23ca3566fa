"""Areas out of focus and in ink, on a drawn slide where both are known."""

import csv
import json
import shutil

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely
import zarr
from slide_files import write_pyramid

from muse_pipeline.cohort.settings import require_quality_mpp
from muse_pipeline.core.errors import ConfigError
from muse_pipeline.inference import artefacts

MPP, SIZE_PX = 0.5, (2000, 1400)
BLURRED = shapely.Point(650, 700).buffer(400)  # in level-0 px
INK = shapely.box(1300, 500, 1560, 900)
BESIDE_PX = {"Blurred": 64, "Ink": 128}  # what may be flagged around: two cells, and the faint edge of a stroke


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    """Grainy tissue with nuclei, out of focus in a disc, by 1.5 um, and under a black pen in a rectangle."""
    rng = np.random.default_rng(0)
    pixels = np.full((SIZE_PX[1], SIZE_PX[0], 3), 244, np.uint8)
    pixels[100:-100, 100:-100] = (228, 176, 208)
    for xy in np.stack(np.meshgrid(np.arange(120, 1880, 28), np.arange(120, 1280, 28)), -1).reshape(-1, 2):
        centre, radius = (xy + rng.integers(-5, 6, 2)).tolist(), int(rng.integers(5, 9))
        cv2.circle(pixels, centre, radius, (88, 52, 128), -1, cv2.LINE_AA)
    grain = cv2.GaussianBlur(rng.normal(0, 60, pixels.shape[:2]), (0, 0), 0.8)[..., None]
    pixels = np.clip(pixels + grain * (pixels < 230), 0, 255).astype(np.uint8)
    y, x = np.mgrid[: SIZE_PX[1], : SIZE_PX[0]] + 0.5
    soft = cv2.GaussianBlur(pixels, (0, 0), 1.5 / MPP)
    pixels = np.where(shapely.contains_xy(BLURRED, x, y)[..., None], soft, pixels)
    pixels = np.where(shapely.contains_xy(INK, x, y)[..., None], pixels // 6, pixels)
    noise = rng.normal(0, 1.5, pixels.shape)
    path = tmp_path_factory.mktemp("artefacts") / "drawn.tif"
    write_pyramid(path, np.clip(pixels + noise, 0, 255).astype(np.uint8), factors=(4,), mpp=MPP)
    return path


@pytest.fixture(scope="module")
def results(slide):
    """The slide run with and without `--quality`, in one and in three shards."""
    from muse_pipeline.cli.main import main

    options = {"flagged": ["--quality"], "cut": ["--quality", "--shards", "3", "--threads", "2"], "plain": []}
    for name, more in options.items():
        folder = slide.parent / name
        words = ["run", slide, "--output", folder, "--no-viewer", "--features", "none", "--threads", "1"]
        assert main([*map(str, words), *more]) == 0
    return slide.parent


def test_areas_are_found_and_nothing_else(results):
    areas = {kind: shapely.union_all(found) for kind, found in read_areas(results / "flagged/drawn").items()}
    for kind, true in (("Blurred", BLURRED), ("Ink", INK)):
        assert areas[kind].intersection(true).area > 0.9 * true.area, kind
        assert areas[kind].difference(true.buffer(BESIDE_PX[kind])).area == 0, kind


def test_nuclei_there_are_flagged(results):
    table = pq.read_table(results / "flagged/drawn/nuclei.parquet")
    xy, quality = np.stack([table["x"], table["y"]], 1), np.array(table["quality"].to_pylist())
    deep = shapely.contains_xy(BLURRED.buffer(-64), xy)
    near = shapely.union(BLURRED.buffer(BESIDE_PX["Blurred"]), INK.buffer(BESIDE_PX["Ink"]))
    outside = ~shapely.contains_xy(near, xy)
    assert deep.sum() > 50 and (quality[deep] == "blurred").mean() > 0.95
    assert outside.sum() > 500 and not quality[outside].any()


def test_they_are_in_no_total(results):
    table = pq.read_table(results / "flagged/drawn/nuclei.parquet")
    flagged, plain = (read_row(results / name) for name in ("flagged", "plain"))
    assert int(flagged["nuclei"]) + int(flagged["nuclei_in_artefacts"]) == int(plain["nuclei"]) == len(table)
    assert int(flagged["nuclei_in_artefacts"]) == len(table) - table["quality"].null_count > 50
    left_out = float(flagged["blurred_mm2"]) + float(flagged["ink_mm2"])
    assert float(flagged["tissue_mm2"]) + left_out == pytest.approx(float(plain["tissue_mm2"]), abs=2e-4)
    assert "blurred_mm2" not in plain


def test_without_the_setting_there_is_no_column_and_no_file(results):
    assert not (results / "plain/drawn/artefacts.geojson").exists()
    flagged, plain = (pq.read_table(results / name / "drawn/nuclei.parquet") for name in ("flagged", "plain"))
    assert flagged.drop_columns("quality").equals(plain)


def test_areas_of_an_earlier_table_are_removed(results, muse, tmp_path):
    folder = shutil.copytree(results / "flagged/drawn", tmp_path / "drawn")
    status, _, errors = muse("nuclei", folder / "shards/1-of-1.parquet", "--no-pictures", "-o", folder)
    assert status == 0, errors
    assert "quality" not in pq.read_schema(folder / "nuclei.parquet").names
    assert not (folder / "artefacts.geojson").exists()


def test_the_same_bytes_for_any_shards_and_threads(results):
    for name in ("nuclei.parquet", "artefacts.geojson"):
        assert (results / "cut/drawn" / name).read_bytes() == (results / "flagged/drawn" / name).read_bytes()


def test_qupath_imports_the_areas(results, muse):
    status, out, _ = muse("check-geojson", results / "flagged/drawn/artefacts.geojson")
    assert status == 0 and "annotations" in out


@pytest.mark.parametrize("mpp", [1.0, 0.3])
def test_images_in_which_focus_cannot_be_judged_are_rejected(mpp):
    with pytest.raises(ConfigError, match=f"focus is judged at 0.5 um/px, and {mpp:g} um/px does not divide it"):
        require_quality_mpp(mpp)


def read_areas(folder):
    found = {}
    for feature in json.loads((folder / "artefacts.geojson").read_text())["features"]:
        shape = shapely.from_geojson(json.dumps(feature["geometry"]))
        found.setdefault(feature["properties"]["classification"]["name"], []).append(shape)
    return found


def read_row(folder):
    with (folder / "cohort.tsv").open() as file:
        (row,) = csv.DictReader(file, dialect="excel-tab")
    return row


def test_ink_is_widened_alike_on_all_sides():
    ink = np.zeros((12, 12), np.float32)
    ink[4:8, 4:8] = 1
    found = artefacts._find_inked(ink)
    expected = np.zeros((12, 12), bool)
    expected[3:9, 3:9] = True
    assert (found == expected).all()


def test_an_image_of_another_slide_is_rejected(results, muse, tmp_path):
    folder = results / "flagged/drawn"
    image = shutil.copytree(folder / "image-500nm.zarr", tmp_path / "image-500nm.zarr")
    group = zarr.open_group(image, mode="r+")
    group.attrs["muse"] = {**group.attrs["muse"], "fingerprint": "0" * 64}
    words = [folder / "shards/1-of-1.parquet", "--info", folder / "slide.json", "--tissue", folder / "tissue.npz"]
    words += ["--store", image, "--artefacts", tmp_path / "a.geojson"]
    status, _, error = muse("stitch", *words, "--output", tmp_path / "n.parquet")
    assert status == 2 and error.count("\n") == 1 and not (tmp_path / "a.geojson").exists()
    assert "is the image of another slide than 'drawn'" in error

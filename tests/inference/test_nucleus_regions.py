"""Tissue regions from the classes of nuclei: their map, their files and border, and what real
tissue gets.
"""

import cv2
import numpy as np
import pandas
import pytest
import shapely
from region_slides import checksums, read_polygons, read_region

from muse_pipeline.cli.main import main
from muse_pipeline.core.files import read_json
from muse_pipeline.core.pictures import read_rgb, write_png
from muse_pipeline.core.types import NucleusClass
from muse_pipeline.inference import nucleus_regions
from muse_pipeline.inference.nucleus_regions import (
    CELL_UM,
    REACH_UM,
    SIGMA_UM,
    map_shares,
    name_tissues,
)

COLON, UM_PER_PX = (
    "normal_gt2012915-1-400-001",
    np.array((1.5, 1.2)),
)  # x, y: the published picture is not isotropic
NODE = "normal/tumor_004_38675_112420.png"


@pytest.fixture(scope="session")
def shards(tiled_slide, tmp_path_factory):
    return tiled_slide.detect(tmp_path_factory.mktemp("shards"), 3)


def regions(tiled_slide, shards, output, *more):
    info = "--info", str(tiled_slide.folder / "slide.json")
    words = ["--nuclei", *map(str, shards), "-o", str(output), *info, *more]
    assert main(["regions", str(tiled_slide.store.path), *words]) == 0
    return output


@pytest.fixture(scope="session")
def mapped(tiled_slide, shards, tmp_path_factory):
    return regions(tiled_slide, shards, tmp_path_factory.mktemp("mapped"))


def test_a_map_is_the_share_of_gaussians_around_nuclei():
    random = np.random.default_rng(0)
    cell, weight = (
        random.integers(0, 20, (30, 2)),
        random.integers(0, 256, (30, 2)).astype(np.uint8),
    )
    cell[0] = 39, 29
    found = map_shares(cell, weight, (30, 40), CELL_UM)
    y, x = np.mgrid[:30, :40]
    square = ((x[..., None] - cell[:, 0]) ** 2 + (y[..., None] - cell[:, 1]) ** 2) * CELL_UM**2
    near = (abs(x[..., None] - cell[:, 0]) <= 10) & (
        abs(y[..., None] - cell[:, 1]) <= 10
    )  # cells, as REACH_UM
    sums = (np.exp(-square / SIGMA_UM**2 / 2) * near) @ weight
    none = 255 * np.exp(-((REACH_UM / SIGMA_UM) ** 2) / 2)
    expected = (
        255
        * np.concatenate([np.full((30, 40, 1), none), sums], -1)
        / (none + sums.sum(-1, keepdims=True))
    )
    error = np.abs(found - np.moveaxis(expected, -1, 0))
    assert error.mean() < 0.2 and error.max() < 3  # weights far from nuclei are small integers
    assert found[0, 0, 39] == 255 and found[0, 29, 39] == 0  # far from all nuclei, and on one


def test_shards_threads_and_bands_do_not_change_the_files(
    tiled_slide, shards, mapped, tmp_path, monkeypatch
):
    whole = tiled_slide.detect(tmp_path, 1)
    monkeypatch.setattr(nucleus_regions, "_BAND_ROWS", 37)
    assert checksums(
        regions(tiled_slide, whole, tmp_path / "again", "--threads", "2")
    ) == checksums(mapped)


def test_classes_follow_those_of_the_nuclei(tiled_slide, shards, mapped):
    record = read_json(mapped / "regions.json")
    names = [(one["name"], one["is_inside"]) for one in record["classes"]]
    assert names == [
        ("No nuclei", False),
        ("Lymphoid", False),
        ("Epithelium", True),
        ("Stroma", False),
    ]
    assert record["source"] == "nuclei" and record["model"]["name"] == "compact"
    assert {one["name"] for one in record["classes"] if one["area_mm2"]} >= {"Epithelium", "Stroma"}
    card = tiled_slide.predictor.card
    colours = [list(one.color) for one in card.classes]
    assert [one["color"] for one in record["classes"][1:]] == colours
    polygons = np.array([shape for _, shape in read_polygons(mapped)])
    assert shapely.is_valid(polygons).all() and shapely.coverage_is_valid(polygons)


@pytest.fixture(scope="session")
def nuclei(tiled_slide, shards, mapped, tmp_path_factory):
    """The table of nuclei with these regions."""
    output = tmp_path_factory.mktemp("nuclei") / "nuclei.parquet"
    files = (
        f"--info {tiled_slide.folder / 'slide.json'} --tissue {tiled_slide.folder / 'tissue.npz'}"
    ).split()
    assert (
        main(
            [
                "step",
                "stitch",
                *map(str, shards),
                *files,
                *f"--regions {mapped} -o {output}".split(),
            ]
        )
        == 0
    )
    return output


def test_the_border_is_that_of_epithelium(tiled_slide, mapped, nuclei):
    table, mpp = pandas.read_parquet(nuclei), tiled_slide.info.mpp[0]
    polygons = read_polygons(mapped)
    epithelium = read_region(mapped, "Epithelium")
    others = shapely.union_all([shape for name, shape in polygons if name != "Epithelium"])
    border = shapely.intersection(shapely.boundary(epithelium), shapely.boundary(others))
    distance = shapely.distance(shapely.points(table["x"], table["y"]), border) * mpp
    sign = np.where(table["region"] == "Epithelium", -1, 1)
    np.testing.assert_allclose(table["border_distance_um"], sign * distance, atol=0.01)
    assert table["region"].notna().mean() > 0.99 and "unlike_region" not in table
    agree = table["region"].astype(str) == table["class"].map(
        {"Epithelial": "Epithelium", "Lymphocyte": "Lymphoid"}
    )
    assert agree[table["class"] == "Epithelial"].mean() > 0.8


def test_other_classes_of_nuclei_are_regions_with_their_own_names():
    names = ("Inflammatory", "Neoplastic", "Dead", "epithelial")
    tissues, is_inside = name_tissues([NucleusClass(name, (1, 2, 3)) for name in names])
    assert [one.name for one in tissues] == [
        "No nuclei",
        "Inflammatory",
        "Neoplastic",
        "Dead",
        "Epithelium",
    ]
    assert is_inside == (False, False, True, False, True) and tissues[1].color == (1, 2, 3)


def test_a_lymph_node_is_lymphoid(muse, shared_data, tmp_path):
    picture = shared_data / "camelyon16-patches" / NODE
    muse.ok(f"run {picture} --mpp 0.25 -o {tmp_path} --regions nuclei")
    (folder,) = (path.parent for path in tmp_path.glob("*/regions.json"))
    areas = {one["name"]: one["area_mm2"] for one in read_json(folder / "regions.json")["classes"]}
    assert areas["Lymphoid"] > 0.9 * sum(areas.values()) > 0.0035
    report, table = (
        (tmp_path / "report.html").read_text(),
        pandas.read_table(tmp_path / "cohort.tsv"),
    )
    assert (
        "Tissue regions" in report
        and table["mm2_in_Lymphoid"][0] > 0
        and table["regions"][0] == "ok"
    )


def test_glands_of_a_biopsy_that_no_model_has_read(shared_data, muse, tmp_path):
    """Painting everything has a Dice of 0.69."""
    folder = shared_data / "ebhi-seg-colon"
    picture = cv2.resize(
        read_rgb(folder / f"images/{COLON}.jpg"), None, fx=UM_PER_PX[0], fy=UM_PER_PX[1]
    )
    write_png(tmp_path / "biopsy.png", picture)
    muse.ok(f"run {tmp_path / 'biopsy.png'} --mpp 1 --regions nuclei -o {tmp_path / 'out'}")
    found = read_region(tmp_path / "out/biopsy", "Epithelium")
    true = cv2.imread(str(folder / f"regions/{COLON}.png"), cv2.IMREAD_GRAYSCALE) > 0
    y, x = np.mgrid[: true.shape[0], : true.shape[1]] + 0.5
    inside = shapely.contains_xy(found, *(np.stack((x, y), -1) * UM_PER_PX).T).T
    assert 2 * (inside & true).sum() / (inside.sum() + true.sum()) > 0.85

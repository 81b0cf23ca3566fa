"""Regions of a synthetic slide, from an exported region model that was fitted to synthetic
textures.
"""

import shutil

import cv2
import numpy as np
import pytest
import shapely
import zarr
from drawn_regions import CLASSES, MPP, SLIDE_MPP, dice
from PIL import Image
from qupath_check import check_geojson
from region_slides import checksums, read_polygons, regions
from slide_files import write_pyramid

from muse_pipeline.cli.main import main
from muse_pipeline.core.files import read_json


def fill(polygons: list[shapely.Geometry], shape: tuple[int, int]) -> np.ndarray:
    """(h, w) bool mask at 2 um/px of polygons in level-0 px."""
    mask = np.zeros(shape, np.uint8)
    for polygon in polygons:
        rings = [
            np.round(shapely.get_coordinates(ring) * SLIDE_MPP / MPP).astype(np.int32)
            for ring in shapely.get_rings(polygon)
        ]
        cv2.fillPoly(mask, rings, 1)
    return mask > 0


def test_the_polygons_are_the_drawn_islands(found, drawn_slide):
    polygons = read_polygons(found)
    shape = drawn_slide.tumour.shape
    tumour = fill([polygon for name, polygon in polygons if name == "Tumour"], shape)
    stroma = fill([polygon for name, polygon in polygons if name == "Stroma"], shape)
    assert dice(tumour, drawn_slide.tumour) > 0.93
    assert dice(stroma, drawn_slide.tissue & ~drawn_slide.tumour) > 0.93
    assert any(
        shapely.get_num_interior_rings(polygon) for name, polygon in polygons if name == "Tumour"
    )


def test_glass_beside_tumour_is_no_seam_of_stroma(found, drawn_slide):
    """On this slide, tumour reaches the edge of the tissue; the margin kept around the tissue is
    tumour there too.
    """
    stroma = fill(
        [polygon for name, polygon in read_polygons(found) if name == "Stroma"],
        drawn_slide.tumour.shape,
    )
    rim = (
        cv2.dilate(drawn_slide.tissue.astype(np.uint8), np.ones((9, 9), np.uint8))
        > drawn_slide.tissue
    )
    beside_tumour = rim & (
        cv2.dilate(drawn_slide.tumour.astype(np.uint8), np.ones((15, 15), np.uint8)) > 0
    )
    assert (stroma & beside_tumour).sum() < 0.15 * beside_tumour.sum()


def test_polygons_tile_the_tissue_and_areas_are_those_of_the_file(found, drawn_slide):
    polygons = read_polygons(found)
    shapes = np.array([polygon for _, polygon in polygons])
    assert shapely.is_valid(shapes).all()
    assert shapely.coverage_is_valid(shapes)
    record = read_json(found / "regions.json")
    assert record["status"] == "ok"
    for one in record["classes"]:
        in_file = (
            sum(polygon.area for name, polygon in polygons if name == one["name"])
            * SLIDE_MPP**2
            / 1e6
        )
        assert one["area_mm2"] == pytest.approx(in_file, rel=0.01)
        assert one["n_areas"] == sum(name == one["name"] for name, _ in polygons)
    whole = sum(one["area_mm2"] for one in record["classes"])
    assert whole == pytest.approx(
        drawn_slide.tissue.sum() * MPP**2 / 1e6, rel=0.05
    )  # with a margin of 16 um


def test_qupath_imports_the_annotations(found):
    assert check_geojson(found / "regions.geojson").is_good
    for feature in read_json(found / "regions.geojson")["features"]:
        assert feature["properties"]["objectType"] == "annotation"
        assert feature["properties"]["classification"]["color"] in [
            list(one.color) for one in CLASSES
        ]


def test_the_map_lies_where_the_slide_does(found, drawn_slide):
    group = zarr.open_group(found / "regions.zarr", mode="r")
    cell = round(group.attrs["muse"]["cell_um"] / MPP)
    prob = group["0"][:][1].repeat(cell, 0).repeat(cell, 1)
    height, width = drawn_slide.tumour.shape
    assert dice(prob[:height, :width] > 127, drawn_slide.tumour) > 0.9
    scale = group.attrs["ome"]["multiscales"][0]["datasets"][0]["coordinateTransformations"][0][
        "scale"
    ]
    assert scale == [1.0, 8.0, 8.0]


def test_the_picture_is_small_and_tinted(found):
    picture = np.asarray(Image.open(found / "regions.png"))
    assert max(picture.shape) <= 1540
    red = (picture[..., 0].astype(int) - picture[..., 1]) > 60
    assert 0.05 < red.mean() < 0.6


def test_two_threads_give_the_same_bytes(found, drawn_slide, region_model, tmp_path):
    assert regions(drawn_slide, region_model, tmp_path, "--threads", "2") == 0
    assert checksums(tmp_path) == checksums(found)
    assert checksums(found)


def test_a_slide_without_tissue_has_no_regions_and_is_no_failure(region_model, muse, tmp_path):
    write_pyramid(tmp_path / "glass.tif", np.full((1200, 1200, 3), 243, np.uint8))
    results = tmp_path / "results"
    muse.ok(f"run {tmp_path / 'glass.tif'} -o {results} --regions {region_model} --threads 1")
    record = read_json(results / "glass/regions.json")
    assert record["status"] == "ok" and all(one["area_mm2"] == 0 for one in record["classes"])
    assert not read_json(results / "glass/regions.geojson")["features"]


def test_a_model_of_nuclei_is_rejected_and_the_reason_is_kept(drawn_slide, found, tmp_path, capsys):
    """Results of an earlier run are removed, so that they are not mistaken for those of this
    run.
    """
    shutil.copytree(found, tmp_path / "S1")
    assert (
        main(f"regions {drawn_slide.store} --model compact --output {tmp_path / 'S1'}".split()) == 2
    )
    assert "give a model that maps regions" in capsys.readouterr().err
    record = read_json(tmp_path / "S1/regions.json")
    assert record["status"] == "failed"
    assert "give a model that maps regions" in record["reason"]
    assert [path.name for path in (tmp_path / "S1").iterdir()] == ["regions.json"]


def test_a_model_whose_training_failed_is_no_wrong_path(drawn_slide, tmp_path, capsys):
    (tmp_path / "training.json").write_text('{"status": "failed"}')
    assert (
        regions(
            drawn_slide,
            tmp_path / "model.onnx",
            tmp_path,
            "--training",
            str(tmp_path / "training.json"),
        )
        == 2
    )
    record = read_json(tmp_path / "regions.json")
    assert (
        record["reason"]
        == f"the training of the region model failed; see {tmp_path / 'logs/train.log'}"
    )


def test_a_region_model_finds_no_nuclei(drawn_slide, region_model, tmp_path, capsys):
    colour, output = str(drawn_slide.folder / "colour.json"), str(tmp_path / "1-of-1.parquet")
    detect = (
        f"step detect {drawn_slide.store} --model {region_model} --colour {colour} --shard 1-of-1"
    ).split()
    assert main([*detect, "--output", output]) == 2
    assert "for `muse regions`; give a model that finds nuclei" in capsys.readouterr().err

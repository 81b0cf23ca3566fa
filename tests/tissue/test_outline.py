"""The outline of the tissue as QuPath reads it, and the picture of the tissue."""

import gzip
import json
import warnings
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import shapely
from drawn import ArraySlide
from drawn_shapes import feature
from PIL import Image
from qupath_check import check_geojson
from shapely.geometry import box
from slide_files import spoil_tile, write_pyramid

from muse_pipeline.core.errors import GeoJSONError, LeftOutWarning
from muse_pipeline.core.files import read_json
from muse_pipeline.core.types import Bounds
from muse_pipeline.qupath.regions import read_roi, write_outline
from muse_pipeline.slides.base import open_slide
from muse_pipeline.slides.inspect import inspect_slide
from muse_pipeline.tissue.mask import TissueMask
from muse_pipeline.tissue.outline import read_thumbnail, trace_outline, write_picture
from muse_pipeline.tissue.overview import read_overview


def holed_mask(roi=None):
    """A mask with a ring, a part that touches the ring at a corner, and a part at the border."""
    mask = np.zeros((50, 60), bool)
    mask[5:25, 5:25] = True
    mask[10:15, 10:15] = False
    mask[25:30, 25:30] = True
    mask[40:, 50:] = True
    return TissueMask(mask, np.array([8.0, 8.0]), roi, 0.0)


def slide_and_info(bounds=None):
    slide = ArraySlide([np.full((795, 955, 3), 200, np.uint8)])
    return slide, slide.info((0.5, 0.5), bounds=bounds)


def test_outline_is_valid_and_covers_the_mask_exactly():
    _, info = slide_and_info()
    outline = trace_outline(holed_mask(), info)
    assert outline.is_valid and len(outline.geoms) == 3
    expected_px2 = (20 * 20 - 25 + 25) * 256 + (955 - 800) * (795 - 640)
    assert outline.area == pytest.approx(expected_px2)
    assert sum(len(part.interiors) for part in outline.geoms) == 1
    assert outline.contains(shapely.Point(100, 100)) and not outline.contains(
        shapely.Point(200, 200)
    )


def test_geojson_is_one_locked_annotation_counted_from_the_bounds(tmp_path):
    _, info = slide_and_info(Bounds(64, 32, 800, 700))
    write_outline(tmp_path / "t.geojson", trace_outline(holed_mask(), info), info)
    [found] = read_json(tmp_path / "t.geojson")["features"]
    assert found["properties"] == {
        "objectType": "annotation",
        "name": "Tissue",
        "color": [0, 150, 60],
        "isLocked": True,
    }
    shape = shapely.from_geojson(json.dumps(found["geometry"]))
    # clipped to the bounds of QuPath's image
    assert shape.is_valid and shape.bounds == (80 - 64, 80 - 32, 800, 700)
    assert read_roi(tmp_path / "t.geojson", info).equals(trace_outline(holed_mask(), info))
    first = (tmp_path / "t.geojson").read_bytes()
    write_outline(tmp_path / "t.geojson", trace_outline(holed_mask(), info), info)
    assert (tmp_path / "t.geojson").read_bytes() == first


def test_an_outline_of_one_part_is_a_polygon(tmp_path):
    """QuPath 0.4 and 0.5 reject a whole file if it has a multipolygon with a single part."""
    _, info = slide_and_info()
    for rows, kind in ((slice(5, 25), "Polygon"), (slice(None), "MultiPolygon")):
        tissue = holed_mask()
        kept = np.zeros_like(tissue.mask)
        kept[rows, :25] = tissue.mask[rows, :25]
        kept[40:, :3] = rows == slice(None)
        write_outline(tmp_path / "t.geojson", trace_outline(replace(tissue, mask=kept), info), info)
        [found] = read_json(tmp_path / "t.geojson")["features"]
        assert found["geometry"]["type"] == kind
        assert len(found["geometry"]["coordinates"]) == 2  # an outline and a hole, or two parts
        verdict = check_geojson(tmp_path / "t.geojson")
        assert verdict.is_good and verdict.n_by_type == {"annotation": 1}


def test_outline_stays_within_the_roi():
    _, info = slide_and_info()
    roi = box(90.55, 90.55, 300, 300)
    outline = trace_outline(holed_mask(roi), info)
    assert roi.buffer(0.1).contains(outline) and outline.is_valid


def test_no_tissue_is_an_empty_collection(tmp_path):
    _, info = slide_and_info()
    glass = TissueMask(np.zeros((50, 60), bool), np.array([8.0, 8.0]), None, 0.0)
    write_outline(tmp_path / "t.geojson", trace_outline(glass, info), info)
    assert read_json(tmp_path / "t.geojson") == {
        "type": "FeatureCollection",
        "features": [],
    }


def test_picture_is_small_and_in_proportion_and_shows_the_outline(tmp_path):
    image = np.full((1600, 4000, 3), 240, np.uint8)
    slide = ArraySlide([image])
    info = slide.info((0.5, 0.25))
    tissue = TissueMask(
        np.zeros((50, 250), bool), np.array([8.0, 8.0]), box(1000, 200, 3000, 1400), 0.0
    )
    tissue.mask[20:30, 100:150] = True
    thumbnail = read_thumbnail(slide, info, read_overview(slide, info))
    write_picture(tmp_path / "t.png", thumbnail, trace_outline(tissue, info), tissue.roi, info)
    picture = np.asarray(Image.open(tmp_path / "t.png")).astype(int)
    assert picture.shape == (300, 1500, 3)
    rows, columns = np.nonzero(
        (picture[..., 1] > picture[..., 0] + 60) & (picture[..., 1] > picture[..., 2] + 30)
    )
    scale = 1500 / 2000  # in px per um
    found = [columns.min(), columns.max(), rows.min(), rows.max()]
    np.testing.assert_allclose(found, np.array([800, 1200, 160, 240]) * scale, atol=3)


SQUARE = json.loads(shapely.to_geojson(box(10, 10, 50, 60)))


@pytest.fixture
def read(tmp_path):
    """A function that writes objects, or other content, and reads the region of interest."""

    def run(content, bounds=None):
        if isinstance(content, list):
            content = {"type": "FeatureCollection", "features": content}
        (tmp_path / "roi.geojson").write_text(json.dumps(content), encoding="utf-8-sig")
        return read_roi(tmp_path / "roi.geojson", slide_and_info(bounds)[1])

    return run


@pytest.mark.parametrize(
    "content, area",
    [
        (SQUARE, 2000),
        ({"type": "Feature", "geometry": SQUARE, "properties": {"objectType": "annotation"}}, 2000),
        ([feature(box(10, 10, 50, 60)), feature(box(40, 10, 90, 60))], 4000),
        (
            [
                feature(shapely.MultiPolygon([box(0, 0, 9, 9), box(20, 0, 29, 9)])),
                feature(shapely.Point(3, 4)),
            ],
            162,
        ),
    ],
)
def test_every_form_that_qupath_writes_is_read(read, content, area):
    roi = read(content, Bounds(100, 200, 700, 500))
    assert roi.area == pytest.approx(area) and roi.bounds[0] >= 100 and roi.bounds[1] >= 200


def test_nuclei_and_ignored_areas_are_no_region_of_interest(read):
    """An export of all objects contains nuclei and ignored areas in addition to the region of
    interest.
    """
    area, hole = feature(box(0, 0, 50, 40)), feature(box(40, 0, 90, 40), "Ignore*")
    nucleus = feature(box(60, 60, 70, 70), None, "detection")
    named = {**hole, "properties": {"classification": {"names": ["Ignore*"]}}}
    older = {**nucleus, "properties": {"object_type": "cell"}}
    assert read([area, hole, nucleus]).area == read([area, named, older]).area == 1600
    assert read([area, nucleus]).area == 2000
    for alone in (hole, nucleus):
        with pytest.raises(GeoJSONError, match="holds no polygon"):
            read(alone)


HIGHER = feature(box(0, 0, 300, 300))
HIGHER["geometry"]["plane"] = {"c": -1, "z": 1, "t": 0}


@pytest.mark.parametrize(
    "others, warning",
    [
        ([feature(shapely.LineString([(0, 0), (9, 9)]))], "left out 1 line"),
        ([HIGHER], "left out 1 object on a plane above 0"),
        # as QuPath 0.4 and 0.5 write it
        ([feature(shapely.Polygon())], "left out 1 empty object"),
        (
            [{"type": "Feature", "geometry": None, "properties": {}}],
            "left out 1 object without a shape",
        ),
        (
            [feature(box(0, 0, 300, 300), None, kind) for kind in ("tile", "cell", "detection")],
            None,
        ),
    ],
)
def test_what_is_no_area_is_left_out(tmp_path, read, others, warning):
    with warnings.catch_warnings(record=True, action="always", category=LeftOutWarning) as caught:
        assert read([*others, feature(box(10, 10, 50, 60))]).area == 2000
    assert [str(one.message) for one in caught] == (
        [f"{tmp_path / 'roi.geojson'}: {warning}"] if warning else []
    )


@pytest.mark.parametrize(
    "class_name, area",
    [
        ("Ignore*", 1600),
        ("Ignore", 1600),
        ("Ignore*: Positive", 1600),
        ("Tumor: Positive", 2000),
        ("Tumor", 2000),
    ],
)
def test_areas_of_a_class_derived_from_ignore_are_taken_out(read, class_name, area):
    derived = feature(box(10, 50, 50, 60))
    derived["properties"]["classification"] = {"names": class_name.split(": ")}
    assert read([feature(box(10, 10, 50, 60)), derived]).area == area


def test_gzip_and_zip_are_read_by_their_content(tmp_path):
    _, info = slide_and_info()
    text = json.dumps(SQUARE).encode("utf-8-sig")
    for name in ("roi.geojson.gz", "roi.geojson"):
        (tmp_path / name).write_bytes(gzip.compress(text))
        assert read_roi(tmp_path / name, info).area == 2000
    path = tmp_path / "roi.zip"

    def write_zip(*names):
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, b"\0" if "MACOSX" in name else text)

    # as macOS packs it
    write_zip("ROI.GeoJSON", "__MACOSX/._ROI.GeoJSON", "readme.txt")
    assert read_roi(path, info).area == 2000
    for names, problem in (
        (["a.geojson", "b.json"], r"2 GeoJSON files \(a.geojson, b.json\), expected one"),
        (["readme.txt"], r"the zip contains no \.geojson or \.json file"),
    ):
        write_zip(*names)
        with pytest.raises(GeoJSONError, match=problem):
            read_roi(path, info)
    for content in (path.read_bytes()[:-30], gzip.compress(text)[:-20]):
        path.write_bytes(content)
        with pytest.raises(GeoJSONError, match="cannot be read"):
            read_roi(path, info)


SPIKED = [[0, 0], [50, 0], [90, 0], [50, 0], [50, 50], [0, 50], [0, 0]]


def test_a_spike_is_removed(read):
    for kind, rings in (("Polygon", [SPIKED]), ("MultiPolygon", [[SPIKED]])):
        assert read({"type": kind, "coordinates": rings}).equals(box(0, 0, 50, 50))


def test_a_tile_that_spoils_all_of_a_small_slide_costs_the_picture_its_detail_alone(tmp_path):
    write_pyramid(tmp_path / "small.tif", np.full((640, 640, 3), 200, np.uint8))
    spoil_tile(tmp_path / "small.tif", page=0, tile=4)  # the middle one of 3 x 3
    info = inspect_slide(tmp_path / "small.tif", "small", None)
    with open_slide(tmp_path / "small.tif", info.reader) as slide:
        overview = read_overview(slide, info)
        assert read_thumbnail(slide, info, overview) is overview

import json
import zipfile

import numpy as np
import pytest
import shapely
from nuclei_example import CLASSES, MPP, draw_nuclei, slide_info, write_example

from muse_pipeline.core.coords import qupath_offset_px
from muse_pipeline.core.errors import GeoJSONError, LabelError, LeftOutWarning
from muse_pipeline.labels.nuclei_files import read_drawn
from muse_pipeline.nuclei.class_names import ClassWords
from muse_pipeline.nuclei.parquet import iterate_rows
from muse_pipeline.qupath.read import read_geojson, split_parts
from muse_pipeline.qupath.write import write_geojson


@pytest.mark.parametrize("frame", ["qupath", "openslide"])
def test_our_own_files_come_back(tmp_path, frame):
    nuclei, info = draw_nuclei(500), slide_info(bounds=(137, 291, 40_000, 40_000))
    table = write_example(tmp_path / "nuclei.parquet", nuclei)
    write_geojson(table, info, tmp_path / "nuclei.geojson.gz", frame=frame)
    objects = read_geojson(tmp_path / "nuclei.geojson.gz", qupath_offset_px(info.bounds, frame))
    polygons = shapely.from_wkb(next(iterate_rows(table, 500))["geometry"].to_numpy())
    assert shapely.equals_exact(objects.geometry, polygons, 1e-9).all()
    assert set(objects.object_type) == {"detection"}
    back = read_nuclei(
        tmp_path / "nuclei.geojson.gz", CLASSES, MPP, offset_px=qupath_offset_px(info.bounds, frame)
    )
    assert np.array_equal(back.label, nuclei.label)
    assert (
        np.abs(back.xy - nuclei.xy).max() < 1.5
    )  # centroids of outlines differ from the rays' origins
    assert np.allclose(back.rays.mean(axis=1), nuclei.rays.mean(axis=1), atol=0.1)


def read_nuclei(path, classes, mpp, n_rays=32, **how):
    """The nuclei of a file, with their classes."""
    file = read_drawn(path, mpp, n_rays, **how)
    return file.with_labels(file.resolve(ClassWords(classes, {}, "").index, -1)).nuclei


def write(path, *features):
    path.write_text(json.dumps([{"type": "Feature", **feature} for feature in features]))
    return path


SQUARE = {"type": "Polygon", "coordinates": [[[0, 0], [8, 0], [8, 8], [0, 8], [0, 0]]]}
LINE = {"type": "LineString", "coordinates": [[1, 2], [3, 4]]}


def test_points_polygons_and_names_in_every_form(tmp_path):
    points = {"type": "MultiPoint", "coordinates": [[1, 2], [3, 4]]}
    path = write(
        tmp_path / "a.geojson",
        {"geometry": SQUARE, "properties": {"classification": "Tumour"}},
        {"geometry": points, "properties": {"classification": {"names": ["Stroma", "Positive"]}}},
        {"geometry": SQUARE, "properties": None},
    )
    objects = read_geojson(path, offset_px=(100, 200))
    assert list(objects.class_name) == ["Tumour", "Stroma: Positive", None]
    nuclei = read_nuclei(
        path, ["Stroma: Positive", "Tumour"], (0.5, 0.5), n_rays=4, offset_px=(100, 200)
    )
    assert nuclei.xy.tolist() == [[104, 204], [101, 202], [103, 204], [104, 204]]
    assert nuclei.label.tolist() == [1, 0, 0, -1]
    assert nuclei.rays[0].tolist() == [2] * 4 and np.isnan(nuclei.rays[1:3]).all()
    with pytest.raises(LabelError, match="class 'Stroma"):
        read_nuclei(path, ["Tumour"], (0.5, 0.5))


@pytest.mark.parametrize(
    "feature, noun",
    [
        ({"geometry": LINE}, "line"),
        ({"geometry": SQUARE | {"plane": {"c": -1, "z": 3, "t": 0}}}, "object on a plane above 0"),
        ({"geometry": {"type": "Polygon", "coordinates": [[]]}}, "empty object"),
        ({"geometry": {"type": "Polygon", "coordinates": [[[3, 3]] * 5]}}, "empty object"),
        ({"geometry": {"type": "MultiPolygon", "coordinates": []}}, "empty object"),
        ({"geometry": None}, "object without a shape"),
        ({"geometry": {}, "properties": {"objectType": "root"}}, "root object"),
        ({"geometry": SQUARE, "properties": {"objectType": "tmaCore"}}, "TMA core"),
    ],
)
def test_what_cannot_be_a_nucleus_or_a_region_is_left_out(tmp_path, feature, noun):
    path = write(
        tmp_path / "a.geojson", feature, {"geometry": SQUARE, "properties": {"classification": "A"}}
    )
    with pytest.warns(LeftOutWarning, match=rf"a\.geojson: left out 1 {noun}$"):
        objects = read_geojson(path)
    assert (list(objects.class_name), list(objects.number)) == (["A"], [2])
    path = write(tmp_path / "a.geojson", feature, {"geometry": LINE})
    with pytest.raises(GeoJSONError, match=rf"left out: .*{noun}"):
        read_geojson(path)


def test_tiles_are_nuclei_of_other_programs_and_superpixels_of_qupath(tmp_path):
    path = write(
        tmp_path / "a.geojson",
        {"geometry": SQUARE, "properties": {"objectType": "tile"}},
        {"geometry": SQUARE},
    )
    assert list(read_geojson(path).object_type) == ["tile", "annotation"]
    with pytest.warns(LeftOutWarning, match="left out 1 tile"):
        assert list(read_geojson(path, tiles=False).object_type) == ["annotation"]


def test_a_zip_as_qupath_exports_it(tmp_path):
    lines = ",\n".join(json.dumps({"type": "Feature", "geometry": SQUARE}) for _ in range(3))
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.geojson", f'{{"type":"FeatureCollection","features":[\n{lines}\n]}}')
    assert len(read_geojson(tmp_path / "a.zip")) == 3


def test_of_a_cell_the_nucleus_is_read(tmp_path):
    """A cell in QuPath has two outlines: that of the cell and that of the nucleus."""
    cell = ring((0, 0), (20, 0), (20, 20), (0, 20))
    path = write(
        tmp_path / "a.geojson",
        {"geometry": cell, "nucleusGeometry": SQUARE, "properties": {"objectType": "cell"}},
        {
            "geometry": cell,
            "properties": {"objectType": "cell", "classification": {"names": "Tumour"}},
        },
    )
    objects = read_geojson(path)
    assert shapely.area(objects.geometry).tolist() == [64, 400]
    assert list(objects.class_name) == [None, "Tumour"]


def test_an_outline_that_cannot_be_built(tmp_path):
    unclosed = {"type": "Polygon", "coordinates": [[[0, 0], [8, 0], [8, 8]]]}
    path = write(tmp_path / "a.geojson", {"geometry": SQUARE}, {"geometry": unclosed})
    with pytest.raises(GeoJSONError, match="feature 2"):
        read_geojson(path)
    large = {
        "geometry": {"type": "Point", "coordinates": [10**30, 0]},
        "properties": {"measurements": {"a": float("nan")}},
    }
    with pytest.raises(GeoJSONError, match="number beyond 64"):
        read_geojson(write(tmp_path / "a.geojson", large))


def ring(*xy):
    return {"type": "Polygon", "coordinates": [[*xy, xy[0]]]}


@pytest.mark.parametrize(
    "top", [30, 60]
)  # a symmetric bow-tie, whose signed area is 0, and an asymmetric one
def test_of_crossing_lines_the_largest_area_is_measured(tmp_path, top):
    path = write(tmp_path / "a.geojson", {"geometry": ring((0, 0), (30, 30), (30, 0), (0, top))})
    file = read_drawn(path, (0.5, 0.5), 8)
    (outline,), (centre,) = file.shapes, file.nuclei.xy
    assert outline.is_valid
    assert outline.contains(shapely.Point(centre))
    assert centre == pytest.approx(outline.centroid.coords[0])


def test_collections_within_collections_are_looked_into(tmp_path):
    squares = shapely.MultiPolygon([shapely.box(x, 0, x + 10, 10) for x in (0, 20)])
    nested = shapely.GeometryCollection(
        [shapely.GeometryCollection([squares]), shapely.Point(50, 5)]
    )
    parts = split_parts(
        np.array([shapely.Point(1, 1), nested], object), np.array([1, 2]), "a.geojson"
    )
    assert parts.number.tolist() == [1, 2, 2, 2]
    assert parts.is_polygon.sum() == 2


def test_empty_file(tmp_path):
    path = write(tmp_path / "a.geojson")
    assert len(read_geojson(path)) == 0
    assert len(read_drawn(path, MPP, 8).nuclei) == 0


@pytest.mark.parametrize(
    "name, n_objects, n_nuclei",
    [
        ("dlup_qupath05", 3, 3),
        ("cellvit_JP2K-33003-2_cell_detection", 3, 37_927),
        ("insitupy_demo_points", 1, 24),
        ("insitupy_annotations-mixed_types", 5, 10),
        ("insitupy_annotations-Tumor2", 33, 33),
        ("histoqc_holed", 1, 1),
        ("segmentation_results_first400", 400, 400),
    ],
)
def test_files_from_qupath_and_peers(shared_data, name, n_objects, n_nuclei):
    objects = read_geojson(shared_data / f"geojson-reference/{name}.geojson")
    assert (len(objects), len(objects.to_parts().geometry)) == (n_objects, n_nuclei)

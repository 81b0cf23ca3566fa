"""Repair of areas wherever they are read: holes stay empty, overlaps count once."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import shapely
from drawn import ArraySlide
from shapely.geometry import MultiPolygon, Polygon, box

from muse_pipeline.core.errors import GeoJSONError
from muse_pipeline.evaluation.truth import read_region
from muse_pipeline.inference.region_files import _to_level0
from muse_pipeline.labels.nuclei_files import read_drawn
from muse_pipeline.nuclei.rays import repair_areas
from muse_pipeline.qupath.read import read_geojson
from muse_pipeline.qupath.regions import read_areas, read_class_areas, read_roi

INFO = ArraySlide([np.full((64, 64, 3), 200, np.uint8)]).info((0.5, 0.5))
SQUARE = [(0, 0), (10, 0), (10, 10), (0, 10)]
SHAPES = {
    "a hole at an edge": (Polygon(SQUARE, [[(4, 0), (6, 0), (6, 4), (4, 4)]]), 92),
    "a hole at a corner": (Polygon(SQUARE, [[(0, 0), (2, 0), (2, 2), (0, 2)]]), 96),
    "a hole from edge to edge": (Polygon(SQUARE, [[(4, 0), (6, 0), (6, 10), (4, 10)]]), 80),
    "a hole across an edge": (Polygon(SQUARE, [[(4, -2), (6, -2), (6, 4), (4, 4)]]), 92),
    "holes that overlap": (
        Polygon(SQUARE, [[(2, 2), (5, 2), (5, 4), (2, 4)], [(4, 2), (6, 2), (6, 4), (4, 4)]]),
        92,
    ),
    "areas that overlap": (MultiPolygon([box(0, 0, 10, 10), box(8, 2, 15, 8)]), 130),
    "a spike": (Polygon([(0, 0), (10, 0), (10, 5), (20, 5), (10, 5), (10, 10), (0, 10)]), 100),
}


def write_area(path, shape, class_name="Tumor"):
    properties = {"objectType": "annotation", "classification": {"name": class_name}}
    feature = {
        "type": "Feature",
        "geometry": json.loads(shapely.to_geojson(shape)),
        "properties": properties,
    }
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    return path


@pytest.mark.parametrize("shape, area", SHAPES.values(), ids=SHAPES)
def test_every_reader_keeps_the_area(tmp_path, shape, area):
    assert not shape.is_valid
    path = write_area(tmp_path / "area.geojson", shape)
    assert repair_areas(shape).area == area
    assert read_roi(path, INFO).area == area
    assert [one.shape.area for one in read_class_areas(path, INFO)] == [area]
    assert read_region(path, INFO.size_px).area == area
    region = write_area(tmp_path / "region.geojson", shape, "Region")
    assert read_drawn(region, INFO.mpp, n_rays=1).area.area == area


@pytest.mark.parametrize("edge", [1, 10.5])
def test_a_nucleus_keeps_the_area_within_its_hole_and_ring(tmp_path, edge):
    nucleus = Polygon(SQUARE, [[(4, 0), (6, 0), (6, edge), (4, edge)]])
    parts = read_geojson(write_area(tmp_path / "nuclei.geojson", nucleus)).to_parts()
    assert shapely.area(parts.geometry).tolist() == [98 if edge == 1 else 40]


def test_a_region_keeps_its_hole_when_its_positions_are_rounded():
    polygon = Polygon(SQUARE, [[(4, 0.01), (6, 0.01), (6, 4), (4, 4)]])
    found = SimpleNamespace(cell_um=0.5)
    assert _to_level0(polygon, found, INFO).area == 92


def test_lines_that_cross_are_rejected_also_beside_a_hole(tmp_path):
    bow_tie = Polygon([(0, 0), (10, 10), (10, 0), (0, 10)], [[(8, 4), (10, 4), (10, 6), (8, 6)]])
    with pytest.raises(GeoJSONError, match="again without crossing"):
        read_areas(write_area(tmp_path / "area.geojson", bow_tie))


def test_the_hole_of_a_region_of_interest_is_not_searched(trials):
    info = ArraySlide([np.zeros((512, 512, 3), np.uint8)]).info((0.499, 0.499))
    roi = read_roi(trials / "2-hole-of-a-roi-filled/roi_hole_at_border.geojson", info)
    assert round(roi.area * 0.499**2 / 1e6, 6) == 0.055314

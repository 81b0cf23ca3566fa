"""Annotations of a region of interest: their names, their areas, and the tissue in each of them."""

import numpy as np
import pytest
from drawn import ArraySlide
from drawn_shapes import feature, write_features
from shapely.geometry import box

from muse_pipeline.core.errors import GeoJSONError
from muse_pipeline.core.types import Bounds
from muse_pipeline.qupath.regions import read_annotations, read_class_areas, read_roi
from muse_pipeline.tissue.find import measure_annotation
from muse_pipeline.tissue.mask import RoiArea, TissueMask

INFO = ArraySlide([np.full((800, 1000, 3), 200, np.uint8)]).info(
    (0.5, 0.5), bounds=Bounds(100, 50, 900, 750)
)


def test_areas_may_be_missing_but_not_damaged(tmp_path):
    path = tmp_path / "artefacts.geojson"
    assert read_class_areas(path, INFO, may_lack=True) == []
    assert read_class_areas(write_features(path), INFO, may_lack=True) == []
    with pytest.raises(GeoJSONError, match="class"):
        read_class_areas(path, INFO)
    path.write_bytes(write_features(path, feature(box(0, 0, 200, 100), "Fold")).read_bytes()[:-9])
    with pytest.raises(GeoJSONError, match=r"artefacts\.geojson: "):
        read_class_areas(path, INFO, may_lack=True)


def test_each_tma_core_that_is_not_missing_is_an_area(tmp_path):
    cores = [
        feature(box(x, 0, x + 200, 200), None, "tmaCore", name=name, isMissing=name == "A-2")
        for x, name in ((0, "A-1"), (300, "A-2"), (600, "A-3"))
    ]
    others = feature(box(50, 50, 100, 100), "Tumor"), feature(box(0, 0, 20, 20), "Ignore*")
    path = write_features(tmp_path / "roi.geojson", *cores, *others)
    roi = read_roi(path, INFO)
    assert roi.area == 2 * 200 * 200 - 400
    found = [(area.name, area.shape.area) for area in read_annotations(path, roi, INFO)]
    assert found == [("A-1", 39_600), ("A-3", 40_000), ("Tumor", 2_500)]
    write_features(path, cores[1])
    with pytest.raises(GeoJSONError, match="1 missing TMA"):
        read_roi(path, INFO)


def test_annotations_come_back_from_the_file(tmp_path):
    mask = np.ones((10, 10), bool)
    plain = TissueMask(mask, np.array([8.0, 8.0]), None, 0.1)
    annotation = measure_annotation(
        RoiArea("nombre é", "Tumor", box(0, 0, 100, 100), False), plain, INFO
    )
    TissueMask(mask, np.array([8.0, 8.0]), None, 0.1, annotations=(annotation,)).save(
        tmp_path / "tissue.npz"
    )
    [found] = TissueMask.load(tmp_path / "tissue.npz").annotations
    assert found.to_dict() == annotation.to_dict()
    plain.save(tmp_path / "plain.npz")
    assert TissueMask.load(tmp_path / "plain.npz").annotations == ()

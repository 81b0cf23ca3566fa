"""The built-in region model is found by its name, keeps small areas, and is right on colon that it has not seen."""

import cv2
import numpy as np
import pytest
import shapely

from muse_pipeline.core.errors import ModelError
from muse_pipeline.core.files import read_json
from muse_pipeline.core.pictures import read_rgb, write_png
from muse_pipeline.inference.model import find_region_model
from muse_pipeline.inference.predictor import RegionPredictor
from muse_pipeline.settings import RunSettings

UNREAD = "normal_gt2012915-1-400-001"
UM_PER_PX = np.array((1.5, 1.2))  # x, y: the published picture is not isotropic


def test_its_name_stands_for_its_file_in_every_way_to_run():
    path = find_region_model("epithelium")
    assert RunSettings({"regions": "epithelium"})["regions"] == str(path)
    card = RegionPredictor(path).card
    assert ([one.name for one in card.classes], card.min_area_mm2) == (["Other", "Epithelium"], 0.001)
    with pytest.raises(ModelError, match=r"'epithelum': neither a file nor a built-in one \(epithelium\)"):
        find_region_model("epithelum")


def test_glands_of_a_biopsy_that_it_has_not_read(shared_data, muse, tmp_path):
    folder = shared_data / "ebhi-seg-colon"
    picture = cv2.resize(read_rgb(folder / f"images/{UNREAD}.jpg"), None, fx=UM_PER_PX[0], fy=UM_PER_PX[1])
    write_png(tmp_path / "biopsy.png", picture)
    assert muse("run", tmp_path / "biopsy.png", "--mpp", 1, "--regions", "epithelium", "-o", tmp_path / "out")[0] == 0
    areas = read_json(tmp_path / "out/biopsy/regions.geojson")["features"]
    epithelium = shapely.union_all(
        [
            shapely.geometry.shape(one["geometry"])
            for one in areas
            if one["properties"]["classification"]["name"] == "Epithelium"
        ]
    )
    true = cv2.imread(str(folder / f"regions/{UNREAD}.png"), cv2.IMREAD_GRAYSCALE) > 0
    y, x = np.mgrid[: true.shape[0], : true.shape[1]] + 0.5
    found = shapely.contains_xy(epithelium, *(np.stack((x, y), -1) * UM_PER_PX).T).T
    assert 2 * (found & true).sum() / (found.sum() + true.sum()) > 0.85

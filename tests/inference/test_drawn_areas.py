"""Many overlapping drawn areas: the smallest at a position counts, and positions in no area are outside."""

import numpy as np
import shapely
from drawn import ArraySlide

from muse_pipeline.inference.region_lookup import load_regions
from muse_pipeline.qupath.regions import ClassArea, write_class_areas
from muse_pipeline.tissue.mask import KeptArea

SIDE_PX, MASK_MPP = 1000, 8.0
NAMES = "Tumour", "Necrosis", "Stroma"


def test_the_smallest_of_many_overlapping_areas_counts(tmp_path):
    random = np.random.default_rng(0)
    centres, radii = random.uniform(150, 850, (80, 2)), random.uniform(20, 150, 80)
    shapes = [shapely.Point(xy).buffer(radius) for xy, radius in zip(centres, radii, strict=True)]
    areas = [ClassArea(NAMES[number % 3], (number % 3, 0, 0), shape) for number, shape in enumerate(shapes)]
    info = ArraySlide([np.zeros((SIDE_PX, SIDE_PX, 3), np.uint8)]).info(mpp=(0.5, 0.5))
    write_class_areas(tmp_path / "areas.geojson", areas, info, "test")
    cells = np.ones((SIDE_PX // 16 + 1,) * 2, np.uint8)
    kept = KeptArea(np.packbits(cells, axis=1), cells.shape[1], np.full(2, MASK_MPP), None)

    regions = load_regions(tmp_path / "areas.geojson", info, kept)

    xy = random.uniform(0, SIDE_PX, (5000, 2))
    inside = np.stack([shapely.contains_xy(shape, xy) for shape in shapes])
    smallest = np.where(inside.any(0), np.where(inside, radii[:, None], np.inf).argmin(0) % 3, -1)
    number_of = {one.name: NAMES.index(one.name) for one in regions.classes}
    found = np.full(len(xy), -1)
    for one in regions.classes:
        found[shapely.contains_xy(one.tissue, xy)] = number_of[one.name]
    column = np.array([number_of[one.name] for one in regions.classes] + [-1])[regions.columns(xy).region]
    # Coordinates in the file are rounded to tenths of a px.
    assert (found == smallest).mean() > 0.998 and (column == smallest).mean() > 0.998
    assert np.unique(smallest).tolist() == [-1, 0, 1, 2]
    whole = sum(one.tissue.area for one in regions.classes)
    union = shapely.union_all(shapes) & shapely.box(0, 0, *(16 * side for side in cells.shape))
    assert abs(whole / union.area - 1) < 0.002

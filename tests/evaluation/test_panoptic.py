"""Overlaps, PQ and AJI are the same for label images and polygons."""

import tracemalloc

import numpy as np
import shapely

from muse_pipeline.evaluation.detection import (
    count_panoptic,
    jaccard_areas,
    jaccard_ratio,
    overlap_polygons,
)
from muse_pipeline.nuclei import masks as label_image
from muse_pipeline.nuclei.masks import label_image_to_polygons


def draw(n, seed, side=80):
    """A label image of ``n`` rectangles, of which later ones cover earlier ones."""
    random = np.random.default_rng(seed)
    picture = np.zeros((side, side), int)
    for number in range(1, n + 1):
        (y, x), (h, w) = random.integers(0, side - 15, 2), random.integers(4, 15, 2)
        picture[y : y + h, x : x + w] = number * 3
    return picture


def test_polygons_of_a_label_picture_are_its_pixels():
    picture = draw(12, 7)
    polygons = label_image_to_polygons(picture)
    numbers = np.unique(picture)[1:]
    assert shapely.area(polygons).tolist() == [(picture == n).sum() for n in numbers]
    y, x = np.mgrid[: len(picture), : len(picture)] + 0.5
    for number, polygon in zip(numbers, polygons, strict=True):
        assert np.array_equal(shapely.contains_xy(polygon, x, y), picture == number)
    assert len(label_image_to_polygons(np.zeros((3, 3), int))) == 0
    assert shapely.area(label_image_to_polygons(np.ones((3, 4), int))).tolist() == [12]


def test_polygons_of_a_label_picture_do_not_depend_on_the_strips_it_is_read_in(monkeypatch):
    picture = draw(12, 7).astype(np.uint16)
    whole = label_image_to_polygons(picture)
    monkeypatch.setattr(label_image, "_STRIP_PX", 3 * picture.shape[1])
    assert shapely.equals_exact(label_image_to_polygons(picture), whole).all()


def test_a_label_picture_is_not_held_several_times():
    picture = np.zeros((4_000, 8_000), np.uint8)
    picture[10:20, 10:20] = 1
    tracemalloc.start()
    label_image_to_polygons(picture)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * picture.nbytes  # 16 times as much if not processed in strips


TRUE = shapely.box([0], 0, [10], 10)


def count(overlaps, found, true, n_classes=1, judged=True):
    judged = np.full(len(found), judged)
    return count_panoptic(overlaps, np.array(found, int), np.array(true, int), n_classes, judged)


def test_half_an_overlap_is_none_and_other_classes_are_not_matched():
    half = count(overlap_polygons(shapely.box([0], 0, [5], 10), TRUE, (1, 1)), [0], [0])
    assert half.values.tolist() == [[0, 0, 1, 1], [0, 0, 1, 1]]
    other = count(overlap_polygons(TRUE, TRUE, (1, 1)), [1], [0], 2)
    assert other.values.tolist() == [[1, 1, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]


def test_unknown_classes_and_positions_that_are_not_judged():
    unknown = count(overlap_polygons(TRUE, TRUE, (1, 1)), [0], [-1])
    assert unknown.values.tolist() == [[1, 1, 0, 0], [0, 0, 0, 0]]
    beside = overlap_polygons(shapely.box([50], 0, [60], 10), TRUE, (1, 1))
    unjudged = count(beside, [0], [0], judged=False)
    assert unjudged.values.tolist() == [[0, 0, 0, 1], [0, 0, 0, 1]]
    assert jaccard_areas(beside, np.zeros(1, bool)).tolist() == [0, 100]
    assert jaccard_areas(beside).tolist() == [0, 200]


def test_nothing_there():
    nothing = np.zeros(0, object)
    overlaps = overlap_polygons(nothing, nothing, (1, 1))
    assert np.isnan(count(overlaps, [], []).quality).all()
    assert jaccard_ratio(jaccard_areas(overlaps)) == 1

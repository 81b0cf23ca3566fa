"""Overlapping outlines are separated by a straight line, whichever nuclei are processed
together.
"""

import numpy as np
import pytest
import shapely

from muse_pipeline.nuclei.pairs import cut_apart
from muse_pipeline.nuclei.rays import rays_to_rings

N_RAYS = 32
NO_XY, NO_RAYS = np.zeros((0, 2)), np.zeros((0, N_RAYS), np.float32)


def rays_of(along_um, across_um, turn=0.0):
    angle = 2 * np.pi * np.arange(N_RAYS) / N_RAYS - turn
    return ((np.cos(angle) / along_um) ** 2 + (np.sin(angle) / across_um) ** 2).astype(
        np.float32
    ) ** -0.5


def polygons(xy, rays):
    return shapely.polygons(rays_to_rings(np.asarray(xy, float), rays, (1, 1)))


def cut(xy, rays):
    return cut_apart(np.asarray(xy, float), rays, NO_XY, NO_RAYS)


@pytest.mark.parametrize(
    "xy, rays",
    [
        ([(0, 0), (7, 0)], [rays_of(4, 4), rays_of(4, 4)]),
        ([(0, 0), (3, 4)], [rays_of(8, 3), rays_of(8, 3)]),  # side by side and shifted
        ([(0, 0), (9, 2)], [rays_of(8, 3), rays_of(5, 3, 1.2)]),
        ([(0, 0), (0, 5)], [rays_of(9, 2), rays_of(9, 4, 1.5)]),  # one ends inside the other
    ],
)
def test_nothing_is_shared_and_little_lost(xy, rays):
    rays = np.stack(rays)
    before, after = polygons(xy, rays), polygons(xy, cut(xy, rays))
    assert shapely.area(shapely.intersection(*before)) > 0.5
    assert shapely.area(shapely.intersection(*after)) < 1e-4
    shared = shapely.area(shapely.intersection(*before))
    assert shapely.is_valid(after).all()
    assert shapely.area(shapely.union_all(before)) - shapely.area(after).sum() < 0.5 * shared + 0.5


def test_outlines_that_do_not_meet_stay():
    rays = np.stack([rays_of(8, 3), rays_of(8, 3)])
    assert cut([(0, 0), (0, 6.1)], rays) is rays


def test_a_centre_in_the_other_nucleus_keeps_its_side():
    xy, rays = [(0, 0), (3, 0)], np.stack([rays_of(8, 3), rays_of(2, 2.9)])
    after = polygons(xy, cut(xy, rays))
    assert shapely.area(shapely.intersection(*after)) < 1e-4
    assert shapely.contains(after, shapely.points(np.array(xy, float))).all()


def test_the_result_does_not_depend_on_which_nuclei_are_given_together():
    rng = np.random.default_rng(0)
    xy = rng.uniform(0, 200, (400, 2))
    rays = np.stack([rays_of(*rng.uniform(3, 8, 2), rng.uniform(0, 3)) for _ in xy])
    together = cut_apart(xy, rays, NO_XY, NO_RAYS)
    assert (together < rays).any(1).mean() > 0.5
    before, after = polygons(xy, rays), polygons(xy, together)
    first, second = shapely.STRtree(after).query(after, predicate="intersects")
    shared = (shapely.area(shapely.intersection(after[first], after[second])) > 1e-3) & (
        first < second
    )
    first, second = first[shared], second[shared]
    nested = shapely.contains(before[first], before[second]) | shapely.contains(
        before[second], before[first]
    )
    assert nested.all()  # only nested outlines still overlap
    order = rng.permutation(len(xy))
    for part in np.array_split(order, 7):
        others = np.setdiff1d(order, part)
        assert np.array_equal(
            cut_apart(xy[part], rays[part], xy[others], rays[others]), together[part]
        )

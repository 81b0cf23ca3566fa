import numpy as np
import pytest
import shapely

from muse_pipeline.core.types import Frame
from muse_pipeline.nuclei.masks import label_image_to_nuclei
from muse_pipeline.nuclei.rays import (
    clip_rays,
    polygons_to_rays,
    rays_to_rings,
    rings_to_polygons,
    survive_qupath,
)

N_RAYS = 32


def test_rays_begin_at_x_and_turn_towards_y():
    ring = rays_to_rings(
        np.array([[100.0, 200.0]]), np.array([[1.0, 2.0, 3.0, 4.0]]), mpp=(0.5, 0.25)
    )
    assert np.allclose(ring, [[[102, 200], [100, 208], [94, 200], [100, 184]]])


def draw_stars_at_the_edges(size_px, n=4_000):
    """(n, 2) centres, most within 8 px of an edge of the slide, and (n, R) rays up to 8.4 um
    long.
    """
    random = np.random.default_rng(9)
    xy, gap = (
        random.uniform(0, 1, (n, 2)) * size_px,
        random.choice([0, 1e-9, 0.01, 0.04, 0.05, 0.3, 2, 8], (n, 2)),
    )
    location = random.integers(
        0, 4, (n, 2)
    )  # 1: near 0, 2: near the other edge, otherwise: anywhere
    xy = np.where(location == 1, gap, np.where(location == 2, np.nextafter(size_px - gap, 0), xy))
    rays = random.uniform(0.02, 6, (n, 1)) * random.uniform(0.6, 1.4, (n, N_RAYS))
    return xy, rays.astype(np.float32)


@pytest.mark.parametrize("mpp", [(0.25, 0.25), (0.5, 0.23), (3.0, 3.0)])
def test_outlines_are_cut_at_the_edges_of_the_slide(mpp):
    size_px = (400, 300)
    xy, rays = draw_stars_at_the_edges(size_px)
    clipped = clip_rays(xy, rays, mpp, (0, 0, *size_px))
    rings = rays_to_rings(xy, clipped, mpp)
    assert rings.min() >= 0 and (rings.max((0, 1)) <= size_px).all()
    polygons, _ = rings_to_polygons(rings, size_px=size_px)
    left, top, right, bottom = shapely.total_bounds(polygons)
    assert left == top == 0 and (right, bottom) == size_px
    assert survive_qupath(polygons).all()
    ends = rays_to_rings(xy, rays, mpp)
    inside = ((ends >= 0) & (ends <= size_px)).all((1, 2))
    assert 100 < inside.sum() < len(xy) - 100
    assert np.array_equal(clipped[inside], rays[inside])  # bit for bit
    assert (clipped <= rays).all()


def test_an_outline_at_an_edge_is_what_of_it_lies_on_the_slide():
    rays = np.full((1, N_RAYS), 5.0, np.float32)
    for xy in ([2.0, 50.0], [97.0, 50.0], [50.0, 6.0], [50.0, 99.5]):
        whole = shapely.Polygon(rays_to_rings(np.array([xy]), rays, (0.5, 0.5))[0])
        clipped = clip_rays(np.array([xy]), rays, (0.5, 0.5), (0, 0, 100, 100))
        on_slide = shapely.Polygon(rays_to_rings(np.array([xy]), clipped, (0.5, 0.5))[0])
        expected = whole.intersection(shapely.box(0, 0, 100, 100))
        assert (
            on_slide.symmetric_difference(expected).area < 0.03 * expected.area < 0.03 * whole.area
        )


def test_a_circle_in_the_position_of_a_collapsed_ring_stays_on_the_slide():
    rings = rays_to_rings(np.array([[0.0, 0.0], [100.0, 80.0]]), np.zeros((2, N_RAYS)), (0.5, 0.5))
    polygons, n_repaired = rings_to_polygons(rings, size_px=(100, 80))
    assert n_repaired == 2 and survive_qupath(polygons).all()
    assert shapely.total_bounds(polygons).tolist() == [0, 0, 100, 80]


def test_random_stars_all_survive_qupath():
    random = np.random.default_rng(5)
    rays = random.uniform(0.02, 1, (20_000, 20)) * random.uniform(0.1, 8, (20_000, 1))
    polygons, n_repaired = rings_to_polygons(
        rays_to_rings(random.uniform(0, 1e5, (20_000, 2)), rays, (0.5, 0.5))
    )
    snapped = shapely.set_precision(polygons, 0.01)
    assert 0 < n_repaired < len(polygons) / 2
    assert (shapely.get_type_id(snapped) == shapely.GeometryType.POLYGON).all()
    assert shapely.is_valid(snapped).all() and (shapely.area(snapped) > 0).all()
    assert (shapely.get_num_interior_rings(polygons) == 0).all()
    assert shapely.is_ccw(shapely.get_exterior_ring(polygons)).all()
    xy = shapely.get_coordinates(polygons)
    assert np.array_equal(np.round(xy, 1), xy)


def test_the_cheap_test_never_lets_a_bad_ring_pass():
    random = np.random.default_rng(6)
    rings = np.round(random.normal(0, 1, (4_000, 5, 2)), 1)
    polygons, _ = rings_to_polygons(rings)
    assert survive_qupath(polygons).all()


def test_sound_rings_are_only_rounded():
    rays = np.random.default_rng(7).uniform(2.5, 3.5, (500, N_RAYS))
    rings = rays_to_rings(np.full((500, 2), 1000.0), rays, (0.25, 0.25))
    polygons, n_repaired = rings_to_polygons(rings)
    assert n_repaired == 0
    assert np.array_equal(
        shapely.get_coordinates(polygons).reshape(500, N_RAYS + 1, 2)[:, :-1], np.round(rings, 1)
    )


@pytest.mark.parametrize(
    "rays_um", [np.zeros(N_RAYS), np.eye(N_RAYS)[3] * 5, np.full(N_RAYS, 0.01)]
)
def test_what_collapses_becomes_a_small_circle(rays_um):
    polygons, n_repaired = rings_to_polygons(
        rays_to_rings(np.array([[10.0, 20.0]]), rays_um[None], (0.5, 0.5))
    )
    assert n_repaired == 1
    assert survive_qupath(polygons).all()
    assert 0.5 < shapely.area(polygons[0]) < 4


def test_a_bow_tie_keeps_its_larger_part():
    polygons, n_repaired = rings_to_polygons(np.array([[[0.0, 0], [12, 12], [12, 0], [0, 6]]]))
    assert n_repaired == 1
    assert shapely.area(polygons[0]) == pytest.approx(48, abs=1)


def test_nothing_infinite_is_written():
    with pytest.raises(ValueError, match="not finite"):
        rings_to_polygons(np.array([[[0.0, 0], [1, np.nan], [1, 1]]]))


def test_polygons_give_their_rays_back():
    random = np.random.default_rng(8)
    xy, rays = random.uniform(0, 1e5, (300, 2)), random.uniform(1, 5, (300, N_RAYS))
    polygons = shapely.polygons(rays_to_rings(xy, rays, (0.2, 0.3)))
    centres, found = polygons_to_rays(polygons, N_RAYS, (0.2, 0.3), centres=xy)
    assert np.allclose(found, rays, atol=1e-4)
    assert np.array_equal(centres, xy)


def test_rays_of_odd_polygons():
    crescent = shapely.Point(0, 0).buffer(20).difference(shapely.Point(10, 0).buffer(18))
    two_parts = shapely.MultiPolygon([shapely.box(0, 0, 2, 2), shapely.box(10, 10, 30, 30)])
    holed = shapely.Point(50, 50).buffer(10).difference(shapely.Point(50, 50).buffer(2))
    centres, rays = polygons_to_rays(np.array([crescent, two_parts, holed]), 8, (0.5, 0.5))
    assert crescent.contains(shapely.Point(centres[0]))
    assert np.allclose(centres[1:], [[20, 20], [50, 50]])
    assert (rays[0] > 0).all()
    assert np.allclose(rays[1, ::2], 5) and np.allclose(rays[2], 5, atol=0.05)


def draw_ellipses(xy, axes_um, turn, mpp, size):
    """A label image of the pixels whose centres lie in ellipses, and the ellipses' true rays in
    um.
    """
    column, row = np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5)
    image = np.zeros((size, size), int)
    for number, ((x, y), (a, b), angle) in enumerate(zip(xy, axes_um, turn, strict=True), start=1):
        u, v = (column - x) * mpp[0], (row - y) * mpp[1]
        along, across = u * np.cos(angle) + v * np.sin(angle), v * np.cos(angle) - u * np.sin(angle)
        image[(along / a) ** 2 + (across / b) ** 2 <= 1] = number * 7
    angles = 2 * np.pi * np.arange(N_RAYS) / N_RAYS - turn[:, None]
    return image, 1 / np.hypot(np.cos(angles) / axes_um[:, :1], np.sin(angles) / axes_um[:, 1:])


@pytest.mark.parametrize("mpp", [(0.5, 0.5), (0.5, 0.4)])
def test_label_image_to_nuclei(mpp):
    random = np.random.default_rng(9)
    grid = np.stack(np.meshgrid(np.arange(10), np.arange(10)), -1).reshape(-1, 2) * 40 + 30
    xy = grid + random.uniform(-4, 4, (100, 2))
    axes_um, turn = random.uniform(2.5, 6, (100, 2)), random.uniform(0, np.pi, 100)
    image, true_rays = draw_ellipses(xy, axes_um, turn, mpp, 430)
    nuclei = label_image_to_nuclei(image, mpp, N_RAYS)
    assert nuclei.frame is Frame.WINDOW and len(nuclei) == 100
    assert np.abs(nuclei.xy - xy).max() < 0.3
    error = nuclei.rays - true_rays
    assert abs(error.mean()) < 0.02
    assert np.abs(error).mean() < 0.11
    assert np.sqrt((error**2).mean(axis=1)).max() < 0.15


def test_label_image_edge_cases():
    assert len(label_image_to_nuclei(np.zeros((8, 8), int), (0.5, 0.5), N_RAYS)) == 0
    full = label_image_to_nuclei(np.full((8, 8), 3), (0.5, 0.5), 4)
    assert np.allclose(full.xy, 4) and np.allclose(full.rays, 2)
    ring = np.zeros((21, 21), int)
    ring[2:19, 2:19] = 1
    ring[5:19, 5:16] = 0
    horseshoe = label_image_to_nuclei(ring, (0.5, 0.5), N_RAYS)
    column, row = np.floor(horseshoe.xy[0]).astype(int)
    assert ring[row, column] == 1 and (horseshoe.rays > 0).all()

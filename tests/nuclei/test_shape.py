import numpy as np
import pytest
import shapely
from skimage.measure import regionprops

from muse_pipeline.nuclei.rays import rays_to_rings
from muse_pipeline.nuclei.shape import SHAPE_COLUMNS, measure_shapes


def test_against_shapely():
    random = np.random.default_rng(1)
    mpp = (0.25, 0.3)
    rings = rays_to_rings(random.uniform(0, 1e5, (400, 2)), random.uniform(1, 5, (400, 32)), mpp)
    shapes = measure_shapes(rings, mpp)
    polygons = shapely.polygons(rings * mpp)
    assert tuple(shapes) == SHAPE_COLUMNS
    assert np.allclose(shapes["area_um2"], shapely.area(polygons), rtol=1e-4)
    assert np.allclose(shapes["perimeter_um"], shapely.length(polygons), rtol=1e-4)
    assert np.allclose(
        shapes["solidity"], shapely.area(polygons) / shapely.area(shapely.convex_hull(polygons)), rtol=1e-4
    )


@pytest.mark.parametrize("clockwise", [False, True])
def test_ellipse_against_skimage_and_theory(clockwise):
    mpp, major, minor = 0.05, 8.0, 5.0
    t = np.linspace(0, 2 * np.pi, 400, endpoint=False) * (-1 if clockwise else 1)
    u, v = major / 2 * np.cos(t), minor / 2 * np.sin(t)
    ring = np.stack([u * 0.8 - v * 0.6, u * 0.6 + v * 0.8], -1) / mpp + 150
    shapes = {name: float(value[0]) for name, value in measure_shapes(ring[None], (mpp, mpp)).items()}
    column, row = np.meshgrid(np.arange(300) + 0.5, np.arange(300) + 0.5)
    (pixels,) = regionprops(shapely.contains_xy(shapely.Polygon(ring), column, row).astype(int))
    assert shapes["area_um2"] == pytest.approx(pixels.area * mpp**2, rel=0.01)
    assert shapes["eccentricity"] == pytest.approx(pixels.eccentricity, abs=0.005)
    assert shapes["major_axis_um"] == pytest.approx(pixels.axis_major_length * mpp, rel=0.01)
    assert shapes["major_axis_um"] == pytest.approx(major, rel=1e-3)
    assert shapes["minor_axis_um"] == pytest.approx(minor, rel=1e-3)
    assert shapes["solidity"] == pytest.approx(1)


def test_degenerate_and_no_rings_stay_finite():
    for rings in (np.zeros((1, 8, 2)), np.zeros((0, 8, 2)), np.array([[[0.0, 0], [1, 1], [2, 2]]])):
        shapes = measure_shapes(rings, (0.5, 0.5))
        assert all(len(value) == len(rings) and np.isfinite(value).all() for value in shapes.values())

"""Features from pixels and outlines, compared with scikit-image, NumPy and shapely."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import shapely
from skimage.feature import graycomatrix, graycoprops
from skimage.measure import regionprops_table

from muse_pipeline.features.densities import (
    STEP,
    mean_densities,
    measure_densities,
    measure_texture,
    split_stain,
    stain_tables,
)
from muse_pipeline.features.measure import measure_form
from muse_pipeline.features.zones import cross_rows, fill, find_zones, thin_rows
from muse_pipeline.nuclei.rays import ray_directions, rays_to_rings
from muse_pipeline.nuclei.shape import measure_shapes
from muse_pipeline.tissue.stain import TEXTBOOK, optical_density

MPP, SIDE, N = 0.5, 400, 60
IMAGE = MPP, np.array([0, 0]), (SIDE, SIDE)
CORNER = np.array([80, 100])  # where a smaller image lies in the large one


@pytest.fixture(scope="module")
def nuclei():
    """Overlapping outlines of all sizes, a few of which reach beyond the image."""
    random = np.random.default_rng(5)
    xy = random.uniform(-2, SIDE + 2, (N, 2))
    angles = 2 * np.pi * np.arange(32) / 32
    waves = [random.normal(0, 0.5 / k, (N, 1)) * np.cos(k * angles + random.uniform(0, 7, (N, 1))) for k in (1, 2, 3)]
    rays = random.uniform(1.5, 7, (N, 1)) * np.exp(0.5 * sum(waves))
    return xy, rays.astype(np.float32)


@pytest.fixture(scope="module")
def pixels():
    random = np.random.default_rng(6)
    blurred = random.normal(0, 1, (SIDE // 4, SIDE // 4, 3)).repeat(4, 0).repeat(4, 1)
    return np.clip(150 + 40 * blurred + random.normal(0, 15, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)


def contains(xy, rays, index):
    """(h, w) bool: pixels whose centres lie in an outline, according to GEOS."""
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    ring = rays_to_rings(xy[index : index + 1], rays[index : index + 1], (MPP, MPP))[0]
    return shapely.contains_xy(shapely.Polygon(ring), x, y)


def pixels_of(zone, index):
    """(h, w) bool: the pixels that a zone lists for one nucleus."""
    found = np.zeros((SIDE, SIDE), int)
    np.add.at(found.ravel(), zone.pixel[zone.start[index] : zone.start[index + 1]], 1)
    assert found.max(initial=0) <= 1
    return found > 0


def cytoplasm(xy, rays, cells):
    """The pixels between nuclei and their cells' borders, in every second row."""
    return fill(cross_rows(xy, cells, *IMAGE), thin_rows(find_zones(xy, rays, *IMAGE).outline, SIDE))


def test_zones_hold_the_pixels_that_geos_finds_in_three_outlines(nuclei):
    xy, rays = nuclei
    zones = find_zones(xy, rays, *IMAGE)
    for index in range(N):
        outer, own, core = (contains(xy, each, index) for each in (rays + 2, rays, np.maximum(rays - 1, 0)))
        assert (pixels_of(zones.nucleus, index) == own).all()
        assert (pixels_of(zones.rim, index) == own & ~core).all()
        assert (pixels_of(zones.ring, index) == outer & ~own).all()


def test_cytoplasm_is_every_second_row_between_nucleus_and_cell(nuclei, pixels):
    xy, rays = nuclei
    between = cytoplasm(xy, rays, rays + 5)
    planes = np.moveaxis(pixels, -1, 0)
    found = mean_densities(between, np.ascontiguousarray(planes[:, ::2]))
    density = optical_density(pixels) / np.log(10)
    for index in range(N):
        expected = contains(xy, rays + 5, index) & ~contains(xy, rays, index)
        expected[1::2] = False
        assert between.n[index] == expected.sum() > 50
        np.testing.assert_allclose(found[index], density[expected].mean(0), atol=1e-6)


def test_a_cell_without_cytoplasm_has_no_density(nuclei, pixels):
    """OpenCV's look-up returns None for an empty array."""
    xy, rays = (each[:1] for each in nuclei)
    planes = np.moveaxis(pixels, -1, 0)
    between = cytoplasm(xy, rays, rays)
    assert np.isnan(mean_densities(between, np.ascontiguousarray(planes[:, ::2]))).all()
    zones = find_zones(xy, rays, *IMAGE)
    alone = replace(zones, ring=zones.ring.where(np.zeros(len(zones.ring.pixel), bool)))  # as if all in other nuclei
    found = measure_densities(alone, planes, stain_tables(TEXTBOOK))
    assert np.isnan(found["h_ring_mean"]).all()
    assert np.isfinite(found["h_mean"]).all()


def test_zones_are_the_same_in_every_image(nuclei):
    xy, rays = nuclei
    inner = ((xy - rays.max(1)[:, None] / MPP > 105) & (xy + rays.max(1)[:, None] / MPP < 345)).all(1)
    whole, part = (
        find_zones(xy[inner], rays[inner], *IMAGE),
        find_zones(xy[inner], rays[inner], MPP, CORNER, (250, 280)),
    )
    for zone in ("nucleus", "rim", "ring"):
        y, x = np.divmod(getattr(part, zone).pixel, 280)
        assert ((y + CORNER[1]) * SIDE + x + CORNER[0] == getattr(whole, zone).pixel).all()


def test_densities_are_those_of_numpy(nuclei, pixels):
    xy, rays = nuclei
    zones = find_zones(xy, rays, *IMAGE)
    found = measure_densities(zones, pixels.transpose(2, 0, 1), stain_tables(TEXTBOOK))
    expected = optical_density(pixels) / np.log(10) @ np.linalg.pinv(TEXTBOOK)
    for number, stain in enumerate("he"):
        density = split_stain(cv2.split(pixels), stain_tables(TEXTBOOK)[number]) * STEP
        np.testing.assert_allclose(density, expected[..., number], atol=2e-6)
        for index in range(N):
            own, rim, ring = (
                expected[..., number][pixels_of(zone, index)] for zone in (zones.nucleus, zones.rim, zones.ring)
            )
            if not len(own):
                assert np.isnan(found[f"{stain}_mean"][index])
                continue
            measures = {"mean": own.mean(), "sd": own.std(), "ring_mean": ring.mean()}
            measures |= {f"p{percent}": np.percentile(own, percent) for percent in (10, 50, 90)}
            if len(rim):
                measures["rim_mean"] = rim.mean()
            for name, value in measures.items():
                np.testing.assert_allclose(found[f"{stain}_{name}"][index], value, rtol=1e-3, atol=1e-5)


def test_texture_is_that_of_scikit_image(nuclei, pixels):
    xy, rays = nuclei
    density = split_stain(cv2.split(pixels), stain_tables(TEXTBOOK)[0])
    zones = find_zones(xy, rays, *IMAGE)
    found = measure_texture(zones.nucleus, pixels.transpose(2, 0, 1), stain_tables(TEXTBOOK)[0], MPP)
    density = density * STEP
    level = np.clip(density / 0.05, 0, 31).astype(np.uint8)
    padded = np.pad(density, 1, "edge")
    gradient = np.hypot(*np.gradient(padded, MPP))[1:-1, 1:-1]
    for index in np.flatnonzero(zones.nucleus.n > 5):
        inside = contains(xy, rays, index)
        share = np.bincount(level[inside], minlength=32) / inside.sum()
        values = density[inside]
        expected = {"gradient_mean": gradient[inside].mean(), "gradient_sd": gradient[inside].std()}
        expected["entropy"] = -(share[share > 0] * np.log2(share[share > 0])).sum()
        expected |= haralick(np.where(inside, level, 32))
        expected["clumped_fraction"] = values[values > values.mean() + values.std()].sum() / values.sum()
        for name, value in expected.items():
            np.testing.assert_allclose(found[f"texture_{name}"][index], value, rtol=1e-3, atol=1e-6, err_msg=name)


def haralick(level):
    """Properties of the co-occurrence matrix of grey levels (0 to 31), summed over four directions."""
    angles = [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4]
    matrix = graycomatrix(level, [1], angles, levels=33, symmetric=True)[:32, :32].sum(3, keepdims=True)
    matrix = matrix / matrix.sum()
    names = {"contrast": "contrast", "correlation": "correlation", "homogeneity": "homogeneity", "asm": "ASM"}
    return {name: graycoprops(matrix, prop)[0, 0] for name, prop in names.items()}


def test_form_is_that_of_a_finely_drawn_outline():
    random = np.random.default_rng(1)
    angles = np.arctan2(*ray_directions(32).T[::-1])
    for _ in range(6):
        rays = (4 + random.uniform(0, 2) * np.cos(2 * angles + random.uniform(0, 6)) + 0.4 * np.cos(3 * angles))[None]
        ring = rays_to_rings(np.zeros((1, 2)), rays, (MPP, MPP))
        found = measure_form(ring, (MPP, MPP), measure_shapes(ring, (MPP, MPP)))
        fine = 400  # pixels per 10 um
        label = np.zeros((16 * fine // 10, 16 * fine // 10), np.uint8)
        y, x = (np.mgrid[: len(label), : len(label)] + 0.5 - len(label) / 2) / fine * 10
        shapely.prepare(polygon := shapely.Polygon(ring[0] * MPP))
        label[shapely.contains_xy(polygon, x, y)] = 1
        names = ("equivalent_diameter_area", "feret_diameter_max", "orientation", "extent")
        props = {name: values[0] for name, values in regionprops_table(label, properties=names).items()}
        scale = 10 / fine
        np.testing.assert_allclose(
            found["shape_equivalent_diameter_um"], props["equivalent_diameter_area"] * scale, rtol=1e-3
        )
        np.testing.assert_allclose(found["shape_feret_um"], props["feret_diameter_max"] * scale, rtol=5e-3)
        np.testing.assert_allclose(found["shape_extent"], props["extent"], rtol=6e-3)
        apart = (found["shape_orientation"] - props["orientation"] + np.pi / 2) % np.pi - np.pi / 2
        np.testing.assert_allclose(apart, 0, atol=2e-3)
        np.testing.assert_allclose(found["shape_circularity"], 4 * np.pi * polygon.area / polygon.length**2, rtol=1e-5)
        assert found["shape_feret_um"][0] == pytest.approx(
            max(map(shapely.Point(0, 0).distance, map(shapely.Point, _differences(ring[0] * MPP)))), rel=1e-5
        )


def _differences(vertices):
    return (vertices[:, None] - vertices).reshape(-1, 2)

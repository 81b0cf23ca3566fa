"""Outlines are grown from points on a synthetic picture."""

import numpy as np
import pytest
from scipy import ndimage

from muse_pipeline.core.types import Frame
from muse_pipeline.labels.outlines import outline_points
from muse_pipeline.nuclei.table import Nuclei

MPP, N_RAYS = 0.5, 32
PINK, PURPLE = np.array([236, 196, 216.0]), np.array([96, 60, 140.0])


def picture(*shapes: np.ndarray) -> np.ndarray:
    """(120, 120, 3) uint8: pink, with every mask (120, 120) of ``shapes`` filled in purple."""
    covered = ndimage.gaussian_filter(np.any(shapes, axis=0).astype(float), 0.7)[..., None]
    return (PINK + covered * (PURPLE - PINK)).astype(np.uint8)


def disc(x: float, y: float, radius_px: float) -> np.ndarray:
    rows, columns = np.mgrid[:120, :120] + 0.5
    return np.hypot(columns - x, rows - y) < radius_px


def outline(pixels: np.ndarray, *points: tuple[float, float]) -> np.ndarray:
    return outline_points(pixels, unknown(points, N_RAYS), None, MPP).rays


def unknown(points, n_rays: int) -> Nuclei:
    """Nuclei at points, without outlines."""
    return Nuclei(np.array(points), Frame.WINDOW, rays=np.full((len(points), n_rays), np.nan))


def test_discs_are_outlined_and_points_on_nothing_are_not():
    rays = outline(picture(disc(30, 30, 7), disc(80, 60, 10)), (30, 30), (80.6, 59.5), (30, 100))
    assert rays[0] == pytest.approx(3.5, abs=0.4)
    assert rays[1] == pytest.approx(5, abs=0.7)
    assert np.isnan(rays[2]).all()


@pytest.mark.parametrize("radius_px", [2.0, 22.0])
def test_what_no_nucleus_measures_is_none(radius_px):
    assert np.isnan(outline(picture(disc(60, 60, radius_px), disc(15, 15, 6)), (60, 60))).all()


@pytest.mark.parametrize("n_rays", [1, 3, 8, 33])
def test_any_number_of_rays_will_do(n_rays):
    one = unknown([[60.0, 60.0]], n_rays)
    rays = outline_points(picture(disc(60, 60, 9)), one, None, MPP).rays
    assert rays.shape == (1, n_rays)
    assert rays == pytest.approx(4.5, abs=0.6)

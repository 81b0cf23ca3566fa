"""Optical densities of pixels, and the detection of brown pixels."""

import numpy as np
import pytest

from muse_pipeline.tissue.stain import (
    ROUNDED_TEXTBOOK,
    TEXTBOOK,
    is_brown,
    optical_density,
)

VALUES = np.arange(256, dtype=np.uint8)


def test_optical_density_is_finite_for_every_pixel():
    density = optical_density(VALUES)
    assert (
        density[255] == 0
        and density[0] == pytest.approx(np.log(256))
        and np.isfinite(density).all()
    )


def test_brown_is_neither_stain():
    np.testing.assert_allclose(TEXTBOOK, ROUNDED_TEXTBOOK, atol=0.006)
    assert is_brown(optical_density(np.array([[150, 100, 50]], np.uint8))).all()
    assert not is_brown(TEXTBOOK).any() and not is_brown(np.zeros((4, 4, 3))).any()

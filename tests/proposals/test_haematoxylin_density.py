"""Deconvolution recovers the densities from which a picture was made."""

from __future__ import annotations

import numpy as np
import pytest
from drawn import paint

from muse_pipeline.proposals.otsu_mask import blend_stains, haematoxylin
from muse_pipeline.tissue.stain import TEXTBOOK


def test_a_mixed_density_comes_back():
    stains = blend_stains(None)
    amounts = np.stack(np.meshgrid(np.linspace(0, 1.5, 16), np.linspace(0, 1.0, 12)), -1)
    found = haematoxylin(paint(amounts @ stains), stains)
    assert found.dtype == np.float32 and found.shape == (12, 16)
    assert found == pytest.approx(amounts[..., 0], abs=0.02)


def test_glass_and_eosin_hold_none():
    stains = blend_stains(None)
    assert haematoxylin(np.full((4, 4, 3), 255, np.uint8), stains).max() == 0
    assert haematoxylin(paint(np.full((4, 4, 1), 0.8) * stains[1]), stains).max() < 0.02


def test_the_blend_is_of_unit_length_and_between_the_two():
    own = np.array([[0.6, 0.7, 0.4], [0.2, 0.9, 0.3]])
    blend = blend_stains(own)
    assert np.linalg.norm(blend, axis=1) == pytest.approx(1)
    textbook = TEXTBOOK / np.linalg.norm(TEXTBOOK, axis=1, keepdims=True)
    own = own / np.linalg.norm(own, axis=1, keepdims=True)
    for mixed, one, other in zip(blend, own, textbook, strict=True):
        assert mixed @ other > mixed @ one > other @ one

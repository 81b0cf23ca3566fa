"""The losses of PSM's five tasks, each against a slow literal re-derivation."""

import math

import pytest
import torch

from muse_pipeline.losses.psm import (
    rotation_similarity,
)


@pytest.fixture
def outputs():
    """Three times (4, 3): of windows, of the same turned, of others."""
    return torch.randn(3, 4, 3, generator=torch.Generator().manual_seed(0)) * 4


def squared(one, other):
    return sum((a - b) ** 2 for a, b in zip(one.tolist(), other.tolist(), strict=True)) / len(one)


def test_rotation_similarity_is_the_mean_difference(outputs):
    first, turned, _ = outputs
    literal = sum(abs(a - b) for a, b in zip(first.flatten().tolist(), turned.flatten().tolist(), strict=True)) / 12
    assert math.isclose(float(rotation_similarity(first, turned)), literal, rel_tol=1e-5)
    assert float(rotation_similarity(first, first)) == 0

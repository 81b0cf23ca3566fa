"""Fixtures for the tests of training methods."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def without_curves(no_curves):
    """Plot no loss curves in these tests."""

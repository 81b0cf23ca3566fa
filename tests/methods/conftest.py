"""Fixtures of the tests of methods."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def without_curves(no_curves):
    """No run of these tests draws its curves."""

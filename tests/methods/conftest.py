"""Fixtures of the tests of methods."""

import pytest


@pytest.fixture(scope="module")
def no_curves():
    """Drawing takes longer than these runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("muse_pipeline.training.loop.draw_curves", lambda rows, output: None)
        yield

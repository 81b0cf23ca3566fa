import pytest
from uneven_slide import write_uneven_slide
from viewer_tab import Tab

from muse_pipeline.viewer.page import write_viewer


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """Results of one slide, written once per session; tests that change them must use a copy."""
    return write_uneven_slide(tmp_path_factory.mktemp("results"), "one")


@pytest.fixture(scope="session")
def viewer(finished):
    """The folder of the slide's viewer."""
    return write_viewer(finished, threads=2).parent


@pytest.fixture
def open_tab(chromium):
    """A function that opens the viewer in a tab; at the end of the test, no tab may have had
    errors.
    """
    tabs = []

    def open_one(viewer, *args, **kwargs):
        tabs.append(Tab(chromium, viewer, *args, **kwargs))
        return tabs[-1]

    yield open_one
    for tab in tabs:
        tab.context.close()
        assert tab.errors == []

"""Readers from other packages are found by their entry points, and their levels are checked."""

import sys
from importlib.metadata import EntryPoint

import openslide
import pytest

from muse_pipeline.slides import packages
from muse_pipeline.slides.base import READERS, NearlyReadError, open_slide
from muse_pipeline.slides.packages import PackageReader


class Liar(openslide.OpenSlide):
    """A slide whose downsamples do not fit its levels."""

    @property
    def level_downsamples(self):
        return tuple(1.5 * one for one in super().level_downsamples)


class Short(openslide.OpenSlide):
    """A slide that returns fewer pixels than requested."""

    def read_region(self, location, level, size):
        return super().read_region(location, level, (size[0] - 1, size[1]))


def reader_of(kind):
    return type("Reader", (PackageReader,), {"name": "other", "load": staticmethod(lambda: kind)})


@pytest.mark.parametrize(
    "kind, message",
    [(Liar, "level 0 is 1 times smaller, not 1.5"), (Short, r"returns \(63, 64\) px")],
)
def test_levels_that_contradict_each_other_are_rejected(pyramid_path, kind, message):
    with pytest.raises(NearlyReadError, match=message):
        reader_of(kind)(pyramid_path)


def test_an_entry_point_becomes_a_reader(pyramid_path, monkeypatch):
    point = EntryPoint("kfbslide", "openslide:OpenSlide", READERS.group)
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [point])
    monkeypatch.setattr(READERS, "_entries", dict(READERS._entries))
    monkeypatch.delitem(sys.modules, packages.__name__)
    __import__(packages.__name__)
    with open_slide(pyramid_path, "kfbslide") as slide:
        assert slide.properties.vendor == "generic-tiff"

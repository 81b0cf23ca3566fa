"""Stitching on several threads: outlines are computed in parallel, but rows are written in order."""

import pytest

from muse_pipeline.inference.stitch import stitch_shards
from muse_pipeline.nuclei.parquet import read_provenance


@pytest.fixture(scope="module")
def shards(tiled_slide, tmp_path_factory):
    return tiled_slide.detect(tmp_path_factory.mktemp("shards"), n_shards=2)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_any_number_of_threads_gives_the_same_bytes(tiled_slide, whole, shards, tmp_path, monkeypatch, threads):
    """The nuclei are divided into many small parts, only a few of which are processed at a time."""
    assert read_provenance(whole).n_nuclei > 500
    monkeypatch.setattr("muse_pipeline.inference.stitch.AT_ONCE", 16)
    stitch_shards(shards, tiled_slide.info, tiled_slide.tissue.kept, tmp_path / "nuclei.parquet", threads)
    assert (tmp_path / "nuclei.parquet").read_bytes() == whole.read_bytes()

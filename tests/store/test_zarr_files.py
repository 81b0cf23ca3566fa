"""Zarr 3 files that are written and read without the zarr package."""

import numpy as np
import pytest
import zarr
from zarr.codecs import ZstdCodec

from muse_pipeline.store.zarr_files import (
    Plane,
    in_shards,
    write_array,
    write_group,
    write_planes,
    zstd,
)


@pytest.fixture(scope="module")
def pixels():
    """A plane of 2 x 3 chunks; the last ones are partial, and one contains only zeros and has no
    file.
    """
    drawn = np.random.default_rng(0).integers(0, 3, (1500, 2100), np.uint8)
    drawn[:1024, 1024:2048] = 0
    return drawn


def content(folder):
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_files_are_those_of_zarr(tmp_path, pixels):
    attributes = {"name": "Färbung", "mpp": 0.5, "channels": [{"window": [0, 255]}]}
    group = zarr.create_group(store=str(tmp_path / "zarr"), zarr_format=3, attributes=attributes)
    names = {"dtype": "uint8", "dimension_names": ("y", "x")}
    group.create_array("plane", shape=pixels.shape, chunks=(1024, 1024), **names)[:] = pixels
    stacked = np.stack([pixels, np.zeros_like(pixels)])
    axes = {"dtype": "uint8", "dimension_names": ("c", "y", "x")}
    group.create_array("stack", shape=stacked.shape, chunks=(1, 512, 512), **axes)[:] = stacked
    compressed = {"compressors": [ZstdCodec(level=-1, checksum=True)], "fill_value": 255}
    group.create_array(
        "sharded", shape=(700, 900), chunks=(256, 256), shards=(512, 512), **compressed, **names
    )

    write_group(tmp_path / "ours", attributes)
    write_planes(tmp_path / "ours/plane", pixels)
    write_planes(tmp_path / "ours/stack", stacked, 512)
    codecs = in_shards((256, 256), [{"name": "bytes"}, zstd(-1, True)])
    write_array(tmp_path / "ours/sharded", (700, 900), (512, 512), codecs, ("y", "x"), 255)
    assert content(tmp_path / "ours") == content(tmp_path / "zarr")
    assert (
        not (tmp_path / "ours/plane/c/0/1").exists() and not (tmp_path / "ours/stack/c/1").exists()
    )
    for number, plane in enumerate(stacked):
        found = Plane(tmp_path / "zarr/stack", number).read(500, 600, 1300, 1700)
        assert np.array_equal(found, plane[500:1300, 600:1700])


@pytest.mark.parametrize("box", [(), (3, 1000, 1200, 1030), (1024, 2048, 1500, 2100), (7, 7, 7, 9)])
def test_a_box_is_read_across_chunks(tmp_path, pixels, box):
    write_planes(tmp_path, pixels)
    top, left, bottom, right = box or (0, 0, *pixels.shape)
    assert np.array_equal(Plane(tmp_path).read(*box), pixels[top:bottom, left:right])


def test_another_layout_is_rejected(tmp_path):
    write_array(tmp_path, (10, 10), (10, 10), [{"name": "bytes"}], ("y", "x"))
    with pytest.raises(ValueError, match="chunks"):
        Plane(tmp_path)
    write_planes(tmp_path, np.ones((2, 10, 10), np.uint8))
    for index in ((), (0, 0)):
        with pytest.raises(ValueError, match="chunks"):
            Plane(tmp_path, *index)

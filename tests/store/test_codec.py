"""Stores with JPEG chunks are smaller, have nearly the same pixels, and are only for
pretraining.
"""

import numpy as np
import pytest
import simplejpeg
from drawn import ArraySlide

from muse_pipeline.core.errors import StoreError
from muse_pipeline.core.files import read_json
from muse_pipeline.store.store import open_store
from muse_pipeline.store.write import StoreOptions, write_store
from muse_pipeline.tissue.mask import TissueMask


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Codec -> path of a store, all with the same 1,000 x 700 px of smooth tissue."""
    y, x = np.mgrid[:700, :1000]
    waves = [
        150 + 60 * np.sin(x / 40) + 30 * np.cos(y / 25),
        120 + 50 * np.sin((x + y) / 50),
        160 + y * 0.05,
    ]
    noise = np.random.default_rng(0).normal(0, 4, (700, 1000, 1))
    slide = ArraySlide([(np.stack(waves, -1) + noise).clip(0, 255).astype(np.uint8)])
    mask = TissueMask(np.ones((44, 63), bool), np.array([8.0, 8.0]), None, 0.175)
    folder = tmp_path_factory.mktemp("codec")
    paths = {codec: folder / f"{codec}.zarr" for codec in ("zstd", "jpeg")}
    for codec, path in paths.items():
        write_store(slide, slide.info((0.5, 0.5)), mask, path, StoreOptions(codec=codec))
    return paths


def n_bytes(path):
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


@pytest.mark.parametrize("mpp", [0.5, 2.0])
def test_pixels_are_nearly_those_of_a_lossless_store(paths, mpp):
    lossless, lossy = (open_store(paths[codec]).at(mpp) for codec in ("zstd", "jpeg"))
    one, other = (store.read((-20, -10), (600, 400)).astype(int) for store in (lossless, lossy))
    assert 0 < np.abs(one - other).mean() < 3
    assert (one.shape, one.mean((0, 1))) == (
        other.shape,
        pytest.approx(other.mean((0, 1)), abs=0.5),
    )
    assert (other[:10] == 255).all()
    assert n_bytes(paths["jpeg"]) < 0.4 * n_bytes(paths["zstd"])


def test_its_metadata_name_the_codecs(paths):
    codecs = [
        codec["name"]
        for codec in read_json(paths["jpeg"] / "0/zarr.json")["codecs"][0]["configuration"][
            "codecs"
        ]
    ]
    assert codecs == ["transpose", "imagecodecs_jpeg"]


def test_detection_rejects_it_in_one_sentence(paths, tmp_path, muse):
    given = (
        f"--model label_free --colour {tmp_path / 'colour.json'} -o {tmp_path / 'shard.parquet'}"
    ).split()
    errors = muse.fails(f"step detect {paths['jpeg']}", *given)
    assert "jpeg.zarr: has lossy compression (jpeg), for pretraining only" in errors
    assert not (tmp_path / "shard.parquet").exists()
    open_store(paths["zstd"]).require_lossless()


def test_a_chunk_of_another_size_is_damaged(paths, monkeypatch):
    store, decode_jpeg = open_store(paths["jpeg"]), simplejpeg.decode_jpeg
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *how: decode_jpeg(*how)[:256])
    with pytest.raises(StoreError, match="damaged"):
        store.read((0, 0), (400, 300))

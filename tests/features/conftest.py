"""A small drawn slide, its nuclei before they are joined, and its table with all features."""

from pathlib import Path

import pandas
import pytest
from inference_slides import TiledSlide, open_tiled, take_to_store

from muse_pipeline.cli.main import main


@pytest.fixture(scope="session")
def tiled_slide(tmp_path_factory) -> TiledSlide:
    return open_tiled(take_to_store(tmp_path_factory.mktemp("tiled"), mpp=0.25))


@pytest.fixture(scope="session")
def shard(tiled_slide, tmp_path_factory) -> Path:
    return tiled_slide.detect(tmp_path_factory.mktemp("shards"))[0]


@pytest.fixture(scope="session")
def stitch(tiled_slide):
    """Join shards into a table by `muse stitch`."""

    def run(output: Path, shards: list[Path], *more: str) -> Path:
        folder = tiled_slide.folder
        words = ["--info", folder / "slide.json", "--tissue", folder / "tissue.npz", "--output", output]
        words += ["--store", folder / "image-500nm.zarr", "--colour", folder / "colour.json", *more]
        assert main(list(map(str, ["stitch", *shards, *words]))) == 0
        return output

    return run


@pytest.fixture(scope="session")
def table_file(stitch, shard, tmp_path_factory) -> Path:
    return stitch(tmp_path_factory.mktemp("table") / "nuclei.parquet", [shard], "--features", "all")


@pytest.fixture(scope="session")
def table(table_file) -> pandas.DataFrame:
    return pandas.read_parquet(table_file)

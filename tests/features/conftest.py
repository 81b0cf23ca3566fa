"""Fixtures: shards of a small synthetic slide's nuclei, and the table stitched from them with all
features.
"""

from pathlib import Path

import pandas
import pytest

from muse_pipeline.cli.main import main


@pytest.fixture(scope="session")
def shard(tiled_slide, once) -> Path:
    return once("shard", tiled_slide.detect) / "1-of-1.parquet"


@pytest.fixture(scope="session")
def stitch(tiled_slide):
    """A function that stitches shards into a table with `muse step stitch`."""

    def run(output: Path, shards: list[Path], *more: str) -> Path:
        folder = tiled_slide.folder
        words = (
            f"--info {folder}/slide.json --tissue {folder}/tissue.npz --output {output}"
            f" --store {folder}/image-500nm.zarr --colour {folder}/colour.json"
        ).split()
        assert main(["step", "stitch", *map(str, shards), *words, *more]) == 0
        return output

    return run


@pytest.fixture(scope="session")
def table_file(stitch, shard, once) -> Path:
    def write(folder: Path) -> Path:
        return stitch(folder / "nuclei.parquet", [shard], "--features", "all")

    return once("table", write) / "nuclei.parquet"


@pytest.fixture(scope="session")
def table(table_file) -> pandas.DataFrame:
    return pandas.read_parquet(table_file)

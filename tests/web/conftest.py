import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from muse_pipeline.cli.main import main
from muse_pipeline.core.pictures import write_png
from muse_pipeline.slides.base import open_slide


@pytest.fixture(scope="session")
def slide(tiled_slide, tmp_path_factory):
    """A drawn slide and the results of ``muse run``."""
    folder = tmp_path_factory.mktemp("run")
    path = folder / "drawn.svs"
    shutil.copy(tiled_slide.folder / "demo.svs", path)
    assert main(["run", str(path), "--output", str(folder / "results"), "--no-quality"]) == 0
    return path, folder / "results/drawn"


@pytest.fixture(scope="session")
def corner(slide):
    """The corner (x, y) of the square of 1,000 px of the slide with most nuclei."""
    table = pq.read_table(slide[1] / "nuclei.parquet", columns=["x", "y"])
    squares = np.column_stack(table.columns) // 1000
    places, counts = np.unique(squares, axis=0, return_counts=True)
    return (places[counts.argmax()] * 1000).astype(int).tolist()


@pytest.fixture(scope="session")
def crop(slide, corner, tmp_path_factory):
    """That square as a picture."""
    with open_slide(slide[0]) as image:
        pixels = image.read_region(corner, 0, (1000, 1000))
    path = tmp_path_factory.mktemp("crop") / "crop.png"
    write_png(path, pixels)
    return path

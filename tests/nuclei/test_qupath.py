"""The import script: shipped, fitting our files, and run by QuPath itself where there is one."""

import gzip
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from nuclei_example import draw_nuclei, slide_info, write_example
from PIL import Image

from muse_pipeline.nuclei.geojson import write_geojson
from muse_pipeline.nuclei.qupath import copy_import_script


def find_qupath():
    home = Path(os.environ.get("QUPATH_HOME", "/nonexistent"))
    return next((path for pattern in ("QuPath", "bin/QuPath", "QuPath*console*") for path in home.glob(pattern)), None)


def write_results(folder, n):
    table = write_example(folder / "nuclei.parquet", draw_nuclei(n, side_px=900))
    return write_geojson(table, slide_info(), folder / "nuclei.geojson.gz")


def test_script_fits_our_files(tmp_path):
    sidecar = write_results(tmp_path / "slide-1", 50)
    script = copy_import_script(tmp_path / "qupath").read_text()
    prefix = '{"type":"Feature",'
    assert f"startsWith('{prefix}')" in script
    lines = gzip.decompress((tmp_path / "slide-1" / "nuclei.geojson.gz").read_bytes()).decode().splitlines()
    assert sum(line.startswith(prefix) for line in lines) == sidecar["provenance"]["n_nuclei"] == 50
    assert all(f"sidecar.{key}" in script for key in ("slide_file", "slide_id", "frame", "provenance.n_nuclei"))
    assert {"slide_file", "slide_id", "frame"} <= set(sidecar)


@pytest.mark.slow
@pytest.mark.skipif(find_qupath() is None, reason="set QUPATH_HOME to the folder of a QuPath to run its own importer")
def test_qupath_runs_the_script(tmp_path):
    write_results(tmp_path / "results" / "slide-1", 500)
    Image.fromarray(np.full((1000, 1000, 3), 240, np.uint8)).save(tmp_path / "slide-1.png")
    script = copy_import_script(tmp_path)
    command = [find_qupath(), "script", "--image", tmp_path / "slide-1.png", "--args", tmp_path / "results", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert "500 nuclei added" in done.stdout, done.stdout + done.stderr

"""The import script is part of the package, fits our files, and is run by QuPath if that is
installed.
"""

import gzip
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from groovy import WITH_GROOVY, run_groovy
from nuclei_example import draw_nuclei, slide_info, write_example
from PIL import Image

import muse_pipeline.qupath
from muse_pipeline.qupath.write import copy_import_script, write_geojson


def find_qupath():
    home = Path(os.environ.get("QUPATH_HOME", "/nonexistent"))
    return next(
        (
            path
            for pattern in ("QuPath", "bin/QuPath", "QuPath*console*")
            for path in home.glob(pattern)
        ),
        None,
    )


def write_results(folder, n, path="slide-1.svs"):
    table = write_example(folder / "nuclei.parquet", draw_nuclei(n, side_px=900))
    info = replace(slide_info(), path=str(path), size_px=(1000, 1000))
    return write_geojson(table, info, folder / "nuclei.geojson.gz")


def test_script_fits_our_files(tmp_path):
    sidecar = write_results(tmp_path / "slide-1", 50)
    script = copy_import_script(tmp_path / "qupath").read_text()
    prefix = '{"type":"Feature",'
    assert f"startsWith('{prefix}')" in script
    lines = (
        gzip.decompress((tmp_path / "slide-1/nuclei.geojson.gz").read_bytes()).decode().splitlines()
    )
    assert (
        "only the first" in script and "one at a time" in script
    )  # explains outlines of several parts
    assert sum(line.startswith(prefix) for line in lines) == sidecar["provenance"]["n_nuclei"] == 50
    read = {"slide_file", "slide_path", "slide_id", "frame", "size_px"}
    of_provenance = (
        "provenance.n_nuclei",
        "provenance.quality?.n_nuclei",
        "provenance.card.classes",
    )
    assert all(f"sidecar.{key}" in script for key in (*read, *of_provenance))
    assert read <= set(sidecar)


PARSE = """
import org.codehaus.groovy.control.*
def unit = new CompilationUnit()
unit.addSource(new File(args[0]))
unit.compile(Phases.CONVERSION)
println "parsed"
"""


@WITH_GROOVY
def test_the_script_is_groovy(tmp_path):
    """Only the syntax is checked, because compiling the script needs QuPath's classes."""
    script = copy_import_script(tmp_path)
    assert run_groovy("-e", PARSE, script).stdout == "parsed\n"
    script.write_text(script.read_text().replace("if (folder == null)", "if folder == null)"))
    assert run_groovy("-e", PARSE, script).returncode != 0


def test_the_script_reads_lines_through_a_buffer():
    """In QuPath 0.5.1, reading 322,719 nuclei takes 45 s without a buffer, and 27 s with one."""
    script = (Path(muse_pipeline.qupath.__file__).parent / "import_nuclei.groovy").read_text()
    assert "new BufferedReader(" in script and "withReader" not in script


@pytest.mark.slow
@pytest.mark.skipif(
    find_qupath() is None,
    reason="set QUPATH_HOME to the folder of a QuPath to run its own importer",
)
def test_without_an_image_the_script_is_recorded(tmp_path):
    command = [find_qupath(), "script", "--args", tmp_path, copy_import_script(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert "No image is open; open one" in done.stdout + done.stderr
    assert "NullPointerException" not in done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.skipif(
    find_qupath() is None,
    reason="set QUPATH_HOME to the folder of a QuPath to run its own importer",
)
def test_qupath_runs_the_script(tmp_path):
    write_results(tmp_path / "results/slide-1", 500)
    Image.fromarray(np.full((1000, 1000, 3), 240, np.uint8)).save(tmp_path / "slide-1.png")
    script = copy_import_script(tmp_path)
    command = [
        find_qupath(),
        "script",
        "--image",
        tmp_path / "slide-1.png",
        "--args",
        tmp_path / "results",
        script,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert "500 nuclei added" in done.stdout, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.skipif(
    find_qupath() is None,
    reason="set QUPATH_HOME to the folder of a QuPath to run its own importer",
)
def test_qupath_distinguishes_slides_of_one_name_and_rejects_another_size(tmp_path):
    script = copy_import_script(tmp_path)
    for case, size_px in (("a", 1000), ("b", 1000), ("c", 1000), ("d", 900)):
        (tmp_path / case).mkdir()
        Image.fromarray(np.full((size_px, size_px, 3), 240, np.uint8)).save(
            tmp_path / case / "slide-1.png"
        )
    write_results(tmp_path / "results/a", 100, tmp_path / "a/slide-1.png")
    write_results(tmp_path / "results/b", 200, tmp_path / "b/slide-1.png")
    write_results(tmp_path / "alone/d", 300, tmp_path / "d/slide-1.png")
    cases = {
        ("a", "results"): "100 nuclei added",
        ("b", "results"): "200 nuclei added",
        ("c", "results"): "the results a, b have its name, so nothing was imported",
        ("d", "alone"): "has 900 x 900 pixels, but ",
    }
    for (case, results), output in cases.items():
        image = tmp_path / case / "slide-1.png"
        command = [find_qupath(), "script", "--image", image, "--args", tmp_path / results, script]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
        assert output in done.stdout, done.stdout + done.stderr

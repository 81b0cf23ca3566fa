"""Conversion of columns between NumPy and Arrow without pandas."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import shapely

from muse_pipeline.core.errors import NucleiError
from muse_pipeline.nuclei.arrow import (
    bytes_to_arrow,
    polygons_to_wkb,
    to_arrow,
    to_numpy,
    wkb_to_rings,
)

SQUARE, TRIANGLE = shapely.box(0, 0, 2, 2), shapely.Polygon([(5, 5), (9, 5), (5, 8)])


def column(*parts):
    return pa.chunked_array(parts)


def test_numbers_come_back_and_nulls_are_null():
    for kind in (np.float64, np.float32, np.int32):
        values = np.arange(20, dtype=kind)
        array = to_arrow(values)
        assert array.equals(pa.array(values))
        assert np.array_equal(to_numpy(column(array)[3:7]), values[3:7])
        assert np.array_equal(to_numpy(column(array[:5], array[5:])), values)
    valid = np.arange(20) % 3 > 0
    assert to_arrow(values, valid).to_pylist() == [
        int(value) if value % 3 else None for value in values
    ]


@pytest.mark.parametrize("outlines", [[TRIANGLE, SQUARE, SQUARE, TRIANGLE], [SQUARE] * 3, []])
def test_polygons_become_what_geos_writes(outlines):
    outlines = np.array(outlines, object)
    assert polygons_to_wkb(outlines).equals(bytes_to_arrow(shapely.to_wkb(outlines), pa.binary()))


def test_outlines_come_back_by_their_number_of_vertices():
    outlines = np.array([TRIANGLE, SQUARE, SQUARE, TRIANGLE])
    table = pa.table({"geometry": bytes_to_arrow(shapely.to_wkb(outlines), pa.binary())})
    found = {}
    for positions, rings in wkb_to_rings(table[1:]["geometry"]):
        found |= zip(positions.tolist(), rings, strict=True)
    assert sorted(found) == [0, 1, 2]
    for where, ring in found.items():
        assert np.array_equal(ring, shapely.get_coordinates(outlines[1:][where]))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        shapely.to_wkb(SQUARE)[:-3],
        shapely.to_wkb(SQUARE)[:-16],
        shapely.to_wkb(SQUARE, byte_order=0),
        shapely.to_wkb(SQUARE.exterior),
        shapely.to_wkb(SQUARE.difference(shapely.box(0.5, 0.5, 1, 1))),
        shapely.to_wkb(SQUARE)[:-8] + np.float64(7).tobytes(),
        shapely.to_wkb(SQUARE)[:-8] + np.float64(np.nan).tobytes(),
    ],
)
def test_what_is_no_outline_is_one_sentence(text):
    with pytest.raises(NucleiError, match="outline"):
        list(wkb_to_rings(column(bytes_to_arrow([shapely.to_wkb(TRIANGLE), text], pa.binary()))))


def test_writing_and_drawing_nuclei_loads_neither_pandas_nor_scipy(tmp_path):
    program = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[2]); folder ="
        " Path(sys.argv[1])\nimport muse_pipeline.inference.stitch; from muse_pipeline.qupath.write"
        " import write_geojson\nfrom nuclei_example import draw_nuclei, slide_info,"
        " write_example\ntable = write_example(folder / 'nuclei.parquet',"
        " draw_nuclei(50))\nwrite_geojson(table, slide_info(), folder / 'n.geojson.gz')\nfrom"
        " muse_pipeline.report.density import read_outlines\n"
        "from muse_pipeline.inference.counts import stream_positions\nn = sum(len(xy) for"
        " xy, _ in stream_positions(table, 'label'))\nassert len(read_outlines(table, (0, 0), (1e6,"
        " 1e6), 'label')[0]) == n\nprint(sorted({'pandas', 'scipy'} & sys.modules.keys()))"
    )
    command = [
        sys.executable,
        "-c",
        program,
        str(tmp_path),
        str(Path(__file__).parents[1] / "support"),
    ]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"

"""Time and peak memory of a million nuclei with all features: AnnData, SpatialData, neighbours,
imported nuclei.

    muse demo-slide demo --area-mm2 8 --mpp 0.25 && muse run demo/demo.svs -o results --features all
    python benchmarks/million.py results/demo --json benchmarks/million.json
    python benchmarks/million.py --table  # prints the table of the committed figures

The nuclei of the slide are repeated side by side until there are a million. Their outlines stay
where they are, which makes no difference to a writer. Every stage is a process with one thread, for
which wall and processor seconds and the peak memory are measured. "near" finds the nuclei around
each field of imported nuclei, and "near, all nuclei" is the control, which compares all nuclei with
every field.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from muse_pipeline.core.files import read_json, write_json
from muse_pipeline.core.types import Frame
from muse_pipeline.features.measure import _fields, with_near
from muse_pipeline.features.neighbours import REACH_UM, measure_neighbours, with_surroundings
from muse_pipeline.nuclei.parquet import PROVENANCE_KEY, ROW_GROUP, read_nuclei, read_provenance
from muse_pipeline.nuclei.table import Nuclei

WINDOW_UM = 480.0  # core of a window of the built-in models
GAP_PX = 2_000.0
MEASURED = Path(__file__).with_suffix(".json")
ROWS = {  # title of each stage in the table, and the limit of its processor seconds
    "anndata": ("`muse anndata`", "15"),
    "spatialdata": ("`muse spatialdata`", "30"),
    "neighbours": ("neighbours of detected nuclei", "20"),
    "near": ("surroundings of imported nuclei: search", ""),
    "near, all nuclei": ("the same, every nucleus compared with every field (control)", ""),
}


def main() -> None:
    """Write the table of nuclei, run every stage on it, and print a line for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "slide",
        type=Path,
        nargs="?",
        help="results of a slide with all features; with --stage, a table of nuclei",
    )
    parser.add_argument("--nuclei", type=int, default=1_000_000, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    parser.add_argument(
        "--table", action="store_true", help="print the table of the committed figures"
    )
    parser.add_argument("--stage", choices=STAGES)
    args = parser.parse_args()
    if args.table:
        print(render_table(read_json(MEASURED)), end="")
        return
    if args.stage:
        STAGES[args.stage](args.slide)
        return
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder, "nuclei.parquet")
        n = repeat_table(args.slide / "nuclei.parquet", table, args.nuclei)
        (store,) = args.slide.glob("image-500nm.zarr")
        muse = [sys.executable, "-m", "muse_pipeline.cli.main"]
        commands = {
            "anndata": [*muse, "anndata", table, "-o", f"{folder}/nuclei.h5ad"],
            "spatialdata": [
                *muse,
                "spatialdata",
                table,
                "--store",
                store,
                "-o",
                f"{folder}/slide.spatialdata.zarr",
            ],
            **{stage: [sys.executable, __file__, table, "--stage", stage] for stage in STAGES},
        }
        stages = []
        for stage, command in commands.items():
            stages.append({"stage": stage, "nuclei": n, **run_measured(command)})
            print(json.dumps(stages[-1]), flush=True)
    if args.json:
        write_json(args.json, {"load": round(os.getloadavg()[0]), "stages": stages})


def render_table(found: dict) -> str:
    """The figures as a Markdown table."""
    lines = ["| | processor s | aimed at | by the clock | peak MiB |", "|---|---|---|---|---|"]
    for one in found["stages"]:
        name, aim = ROWS[one["stage"]]
        numbers = (
            f"{one['processor_seconds']:.1f}",
            aim,
            f"{one['seconds']:.0f} s",
            str(one["peak_mib"]),
        )
        lines.append(f"| {name} | {' | '.join(numbers)} |")
    return "\n".join(lines) + "\n"


def repeat_table(source: Path, output: Path, n: int) -> int:
    """Repeat the nuclei of ``source`` side by side until there are at least ``n``, and return
    their number.
    """
    table, provenance = pq.read_table(source), read_provenance(source).to_dict()
    n_copies = -(-n // len(table))
    x, y = (np.asarray(table[name]) for name in ("x", "y"))
    across = int(np.ceil(np.sqrt(n_copies)))
    provenance |= {"n_nuclei": n_copies * len(table)}
    metadata = {
        b"geo": pq.read_metadata(source).metadata[b"geo"],
        PROVENANCE_KEY: json.dumps(provenance),
    }
    with pq.ParquetWriter(
        output, table.schema.with_metadata(metadata), compression="zstd"
    ) as writer:
        for copy in range(n_copies):
            row, column = divmod(copy, across)
            moved = table
            for name, values, step in (("x", x, column), ("y", y, row)):
                place = values + step * (np.ptp(values) + GAP_PX)
                moved = moved.set_column(
                    table.column_names.index(name), table.schema.field(name), pa.array(place)
                )
            writer.write_table(moved.replace_schema_metadata(metadata), row_group_size=ROW_GROUP)
    return provenance["n_nuclei"]


def run_measured(command: list) -> dict[str, float]:
    """Seconds and peak memory of a process with one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    begin = time.monotonic()
    process = subprocess.Popen(list(map(str, command)), env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command}: failed")
    return {
        "seconds": round(time.monotonic() - begin, 1),
        "processor_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_mib": round(usage.ru_maxrss / 1024),
    }


def find_neighbours(table: Path) -> None:
    """Measure the neighbours of all nuclei, one row of windows after the other, as in `muse
    stitch`.
    """
    mpp = np.asarray(read_provenance(table).slide_mpp, float)
    nuclei = read_nuclei(table)
    column, row = (nuclei.xy * mpp // WINDOW_UM).astype(int).T
    window = row * (column.max() + 1) + column
    order = np.argsort(window, kind="stable")
    slim = Nuclei(
        nuclei.xy[order], Frame.LEVEL0, rays=nuclei.rays[order], label=nuclei.label[order]
    )
    cuts = np.flatnonzero(np.diff(window[order])) + 1
    parts = (slim[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(slim)], strict=True))
    classes = read_provenance(table).class_names
    for part, others in with_surroundings(parts, REACH_UM / mpp, WINDOW_UM / mpp[1]):
        measure_neighbours(part.xy * mpp, part.label, others.xy * mpp, others.label, classes)


def find_near(table: Path) -> None:
    """Find the nuclei around each field by a search in positions sorted by y."""
    xy, fields, reach = _fields_of(table)
    for _ in with_near(xy, fields, reach):
        pass


def find_near_among_all(table: Path) -> None:
    """Find the nuclei around each field by comparing all nuclei with every field."""
    xy, fields, reach = _fields_of(table)
    for field in fields:
        near = ((xy >= xy[field].min(0) - reach) & (xy <= xy[field].max(0) + reach)).all(1)
        near[field] = False


def _fields_of(table: Path) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    mpp = np.asarray(read_provenance(table).slide_mpp, float)
    columns = pq.read_table(table, columns=["x", "y"])
    xy = np.stack([np.asarray(columns[name]) for name in ("x", "y")], 1)
    return xy, _fields(xy * mpp / 0.5, np.zeros(len(xy))), REACH_UM / mpp


STAGES = {"neighbours": find_neighbours, "near": find_near, "near, all nuclei": find_near_among_all}


if __name__ == "__main__":
    main()

"""Speed and memory of all work between detected rays and the files of a slide, on one core.

Run ``python benchmarks/writers.py [N_NUCLEI]``. Nuclei are synthetic, with 32 rays and outlines as
smooth as real ones. Seconds are processor seconds, on which other work on the machine has little
effect.
"""

from __future__ import annotations

import sys
import tempfile
import time
import zlib
from collections import Counter
from pathlib import Path

import numpy as np

from muse_pipeline.core.environment import peak_memory_mib
from muse_pipeline.core.provenance import NamedFile, Provenance
from muse_pipeline.core.types import Frame, NucleusClass, SlideInfo
from muse_pipeline.nuclei.parquet import NucleiWriter, iterate_rows, write_csv
from muse_pipeline.nuclei.rays import rays_to_rings, rings_to_polygons
from muse_pipeline.nuclei.shape import measure_shapes
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.qupath.write import BATCH, COLUMNS, FeatureRenderer, write_geojson

N_RAYS, MPP, WINDOW = 32, (0.25, 0.25), 2_000
COLORS = {"Lymphocyte": (0, 128, 255), "Tumour": (200, 0, 0), "Stroma": (0, 200, 0)}
CLASSES = [NucleusClass(name, color) for name, color in COLORS.items()]
PROVENANCE = Provenance(
    slide_id="drawn",
    fingerprint="0",
    slide_mpp=MPP,
    mpp_source="drawn",
    reader="drawn",
    bounds=None,
    model=NamedFile("drawn", "0"),
    card={"classes": [{"name": name, "color": color} for name, color in COLORS.items()]},
    provider="cpu",
    colour=None,
    n_windows=1,
    full_windows=(),
    corrupt_fraction=0.0,
    versions={},
    tissue_sha256=None,
)
INFO = SlideInfo(
    "drawn",
    "drawn.tif",
    "drawn",
    "drawn",
    (10**5, 10**5),
    MPP,
    "drawn",
    ((10**5, 10**5),),
    ((1, 1),),
    "0",
)


def draw_nuclei(n: int, random: np.random.Generator) -> Nuclei:
    """Random nuclei of a square area of a slide; outlines are ellipses with a few waves."""
    turn = 2 * np.pi * np.arange(N_RAYS) / N_RAYS - random.uniform(0, np.pi, (n, 1))
    a, b = random.uniform(2.5, 5, (2, n, 1))
    waves = 1 + 0.05 * np.sin(3 * turn + random.uniform(0, 6, (n, 1)))
    return Nuclei(
        xy=random.uniform(100, 99_000, 2) + random.uniform(0, 900, (n, 2)),
        frame=Frame.LEVEL0,
        rays=waves / np.hypot(np.cos(turn) / a, np.sin(turn) / b),
        label=random.integers(0, 3, n),
        score=random.uniform(0.3, 1, n),
        prob=random.dirichlet([1, 1, 1], n),
    )


def main(n: int) -> None:
    """Write the files of ``n`` nuclei, and print a line for each stage."""
    random, seconds = np.random.default_rng(0), Counter()

    def timed(stage, function, *arguments, **options):
        begin = time.process_time()
        result = function(*arguments, **options)
        seconds[stage] += time.process_time() - begin
        return result

    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "nuclei.parquet"
        with NucleiWriter(table, [one.name for one in CLASSES], PROVENANCE, N_RAYS) as writer:
            for first in range(0, n, WINDOW):
                nuclei = draw_nuclei(min(WINDOW, n - first), random)
                rings = timed("polygons", rays_to_rings, nuclei.xy, nuclei.rays, MPP)
                polygons, _ = timed("polygons", rings_to_polygons, rings)
                shapes = timed("shapes", measure_shapes, rings, MPP)
                timed("parquet", writer.write, nuclei, polygons, shapes)
        for name in ("nuclei.geojson", "nuclei.geojson.gz"):
            timed(name, write_geojson, table, INFO, Path(folder) / name)
        timed("csv", write_csv, table, Path(folder) / "nuclei.csv.gz")
        for stage, spent in seconds.items():
            print(f"{stage:20} {n / spent:12,.0f} nuclei/s {1e6 * spent / n:8.2f} us")
        for path in sorted(Path(folder).iterdir()):
            print(f"{path.name:20} {path.stat().st_size / n:12.0f} bytes per nucleus")
        print(f"peak memory          {peak_memory_mib():12,} MiB")
        compare_levels(table)


def compare_levels(table: Path) -> None:
    """Print the time and the size of one batch with each level of zlib."""
    text = FeatureRenderer(CLASSES, "drawn", (0, 0)).render(
        next(iterate_rows(table, BATCH, COLUMNS))
    )
    for level in range(1, 10):
        member = zlib.compressobj(level, zlib.DEFLATED, wbits=31)
        begin = time.process_time()
        size = len(member.compress(text) + member.flush())
        print(
            f"zlib level {level}: {1e6 * (time.process_time() - begin) / BATCH:6.1f} us,"
            f" {size / BATCH:4.0f} bytes"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)

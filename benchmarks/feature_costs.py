"""Processor seconds per mm2 of tissue and peak memory of `muse stitch` with no, basic and all
features.

    muse demo-slide demo --area-mm2 25 --mpp 0.25 && muse run demo/demo.svs -o results --features \
        none
    python benchmarks/feature_costs.py results/demo --threads 2

Seconds are processor seconds of all threads, including the start; on two idle cores, wall time is
about half of them.
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

from muse_pipeline.core.types import FEATURE_SETS
from muse_pipeline.tissue.mask import TissueMask


def main() -> None:
    """Measure every set of features, and print a line for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "slide", type=Path, help="results of a slide, with its shards and its image"
    )
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    area_mm2 = TissueMask.load(args.slide / "tissue.npz").area_mm2
    without = None
    for chosen in FEATURE_SETS:
        found = measure(args.slide, chosen, args.threads)
        without = without or found
        added = (found["cpu_s"] - without["cpu_s"]) / area_mm2
        print(
            json.dumps(
                {
                    "features": chosen,
                    **found,
                    "mm2": round(area_mm2, 1),
                    "added_cpu_s_per_mm2": round(added, 3),
                }
            )
        )


def measure(slide: Path, chosen: str, threads: int) -> dict[str, float]:
    """Processor seconds and peak memory of one process."""
    (store,) = slide.glob("image-*.zarr")
    with tempfile.TemporaryDirectory() as folder:
        words = ["--info", slide / "slide.json", "--tissue", slide / "tissue.npz", "--store", store]
        words += ["--colour", slide / "colour.json", "--features", chosen, "--threads", threads]
        shards = sorted(slide.glob("shards/*.parquet"))
        command = [sys.executable, "-m", "muse_pipeline.cli.main", "stitch", *shards, *words]
        start = time.monotonic()
        process = subprocess.Popen([*map(str, command), "--output", f"{folder}/nuclei.parquet"])
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            sys.exit(f"muse stitch failed with status {status}")
    cpu_s = usage.ru_utime + usage.ru_stime
    return {
        "cpu_s": round(cpu_s, 2),
        "wall_s": round(time.monotonic() - start, 2),
        "MiB": usage.ru_maxrss // 1024,
    }


if __name__ == "__main__":
    main()

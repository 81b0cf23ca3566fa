"""Seconds from slide to GeoJSON by tissue area: fits a + b x mm2 and says where the time goes.

    python benchmarks/draw_slides.py bench --areas-mm2 20 100
    python benchmarks/end_to_end.py bench --areas-mm2 20 100 --cores 2 --output bench/end_to_end.json

Runs the workflow as a user does, on slides that no step has seen. In the same run it measures, on the same number of
threads, what nobody can do without: bare `session.run` of exactly the windows used, and bare reading of exactly the
level-0 blocks that hold tissue. What is left of b is our own cost.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from muse_pipeline.inference.predictor import Predictor, find_model
from muse_pipeline.nuclei.parquet import read_provenance
from muse_pipeline.slides.base import open_slide
from muse_pipeline.slides.inspect import read_info
from muse_pipeline.tissue.mask import TissueMask
from muse_pipeline.tissue.stain_map import IDENTITY

BLOCK_PX = 2048


def main() -> None:
    """Measure every area, fit, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--areas-mm2", type=float, nargs="+", default=[20.0, 100.0])
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    rows = [measure(args.folder / f"{area:g}mm2", args.cores) for area in args.areas_mm2]
    for row in rows:
        print(json.dumps(row), flush=True)
    area = [row["tissue_mm2"] for row in rows]
    fits = {}
    for name in ("seconds", "bare_run_seconds", "bare_reading_seconds"):
        b, a = np.polyfit(area, [row[name] for row in rows], 1) if len(rows) > 1 else (rows[0][name] / area[0], 0.0)
        fits[name] = {"a": round(float(a), 2), "b": round(float(b), 3)}
    own = fits["seconds"]["b"] - fits["bare_run_seconds"]["b"] - fits["bare_reading_seconds"]["b"]
    table = {"cores": args.cores, "fit": fits, "own_seconds_per_mm2": round(own, 3), "slides": rows}
    args.output.write_text(json.dumps(table, indent=1) + "\n")
    print(json.dumps({"fit": fits, "own s/mm2": round(own, 3)}))


def measure(folder: Path, cores: int) -> dict:
    """One slide: bare costs first, then the whole workflow into a fresh folder."""
    results = folder / "results"
    shutil.rmtree(results, ignore_errors=True)
    command = [
        "snakemake",
        "--cores",
        str(cores),
        "--configfile",
        str(folder / "config.yaml"),
        "--config",
        f"output={results}",
    ]
    started = time.monotonic()
    subprocess.run([Path(sys.executable).parent / command[0], *command[1:]], check=True, capture_output=True)
    seconds = time.monotonic() - started
    slide = next(path.parent for path in results.glob("*/nuclei.parquet"))
    provenance = read_provenance(slide / "nuclei.parquet")
    ledgers = {path.stem: json.loads(path.read_text()) for path in sorted(slide.glob("ledger/*.json"))}
    return {
        "tissue_mm2": round(TissueMask.load(slide / "tissue.npz").area_mm2, 2),
        "seconds": round(seconds, 2),
        "bare_run_seconds": round(bare_run(provenance, cores), 2),
        "bare_reading_seconds": round(bare_reading(slide, cores), 2),
        "n_nuclei": provenance["n_nuclei"],
        "n_windows": provenance["n_windows"],
        "steps": {name: {"seconds": one["seconds"], "MiB": one["peak_memory_mib"]} for name, one in ledgers.items()},
    }


def bare_run(provenance: dict, threads: int) -> float:
    """`session.run` on as many windows as the slide has, one call a thread at a time."""
    predictor = Predictor(find_model(provenance["model"]["name"]))
    side, batch = predictor.card.input_px, predictor.card.batch
    pixels = np.random.default_rng(0).integers(0, 256, (batch, 3, side, side), np.uint8)
    inputs = {"pixels": pixels, "colour": IDENTITY}
    n_calls = min(-(-provenance["n_windows"] // batch), 40)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda _: predictor.session.run(None, inputs), range(threads)))  # warm
        started = time.monotonic()
        list(pool.map(lambda _: predictor.session.run(None, inputs), range(n_calls)))
        seconds = time.monotonic() - started
    return seconds / n_calls * -(-provenance["n_windows"] // batch)


def bare_reading(slide: Path, threads: int) -> float:
    """`read_region` of every level-0 block that holds tissue."""
    info, tissue = read_info(slide / "slide.json"), TissueMask.load(slide / "tissue.npz")
    rows, columns = np.nonzero(tissue.mask)
    xy = np.stack([columns, rows], 1) * tissue.mask_mpp / info.mpp
    blocks = np.unique((xy // BLOCK_PX).astype(int), axis=0) * BLOCK_PX
    reader = open_slide(info.path, info.reader)
    started = time.monotonic()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda corner: reader.read_region(tuple(corner), 0, (BLOCK_PX, BLOCK_PX)).shape, blocks.tolist()))
    return time.monotonic() - started


if __name__ == "__main__":
    main()

"""Seconds from slide to GeoJSON by tissue area, as a fit of a + b x mm2, and where the time is
spent.

    python benchmarks/end_to_end.py bench --areas-mm2 20 100 --cores 2 --output \
        bench/end_to_end.json
    python benchmarks/end_to_end.py bench --way "muse run" --no-viewer --output \
        bench/end_to_end.json

One field of tissue is synthesised, and copies of it are laid side by side into a slide of each
area. The workflow or `muse run` then runs on the slides as for a user, with each model in turn. The
unavoidable costs are measured on the same number of threads: bare calls of the model on exactly the
windows used, and bare reading of exactly the level-0 blocks that contain tissue. The rest of b is
the cost of the pipeline itself. R is the ratio of the whole run to these two costs together, in
wall seconds and, for each step, in processor seconds, which hardly depend on other work on the
machine.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from detection_costs import plan_windows
from draw_slides import lay_out

from muse_pipeline.core.coords import work_size_px
from muse_pipeline.inference.model import find_model
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.nuclei.parquet import read_provenance
from muse_pipeline.slides.base import open_slide
from muse_pipeline.slides.inspect import read_info
from muse_pipeline.tissue.mask import TissueMask
from muse_pipeline.tissue.stain import IDENTITY

ROOT = Path(__file__).resolve().parents[1]
BLOCK_PX = 2048


def main() -> None:
    """Measure every area, and print and write the figures and the fits."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folder", type=Path, metavar="OUT_DIR", help="slides are drawn here unless it has them"
    )
    parser.add_argument("--areas-mm2", type=float, nargs="+", default=[20.0, 100.0])
    parser.add_argument("--way", choices=("workflow", "muse run"), default="workflow")
    parser.add_argument("--no-viewer", action="store_true")
    parser.add_argument("--models", nargs="+", default=["compact-fp32", "compact-int8"])
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    rows: dict[str, list[dict]] = {model: [] for model in args.models}
    for area in args.areas_mm2:
        folder = args.folder.resolve() / f"{area:g}mm2"
        if not (folder / "demo.svs").is_file():
            lay_out(folder, area, threads=args.cores)
        for model in args.models:
            rows[model].append(measure(folder, model, args.cores, args.way, not args.no_viewer))
            print(json.dumps(rows[model][-1]), flush=True)
    fits = {model: fit(rows[model]) for model in args.models}
    args.output.write_text(
        json.dumps({"cores": args.cores, "fit": fits, "slides": rows}, indent=1) + "\n"
    )
    for model in args.models:
        print(json.dumps({"model": model, "fit": fits[model]}))


def fit(rows: list[dict]) -> dict[str, dict[str, float]]:
    """The coefficients a and b of a + b x mm2 for each kind of seconds; with a single slide, a
    is 0.
    """
    area, fits = [row["tissue_mm2"] for row in rows], {}
    for name in (name for name in rows[0] if name.endswith("seconds")):
        b, a = (
            np.polyfit(area, [row[name] for row in rows], 1)
            if len(rows) > 1
            else (rows[0][name] / area[0], 0.0)
        )
        fits[name] = {"a": round(float(a), 2), "b": round(float(b), 3)}
    return fits


def measure(folder: Path, model: str, cores: int, way: str, viewer: bool) -> dict:
    """Figures of one slide: the whole run into an empty folder, then the bare costs."""
    results = folder / "results"
    shutil.rmtree(results, ignore_errors=True)
    chosen = [
        "--config",
        f"slides={folder}/slides.tsv",
        f"output={results}",
        f"model={model}",
        f"viewer={viewer}",
    ]
    planned = ["--snakefile", ROOT / "workflow/Snakefile", "--configfile", folder / "config.yaml"]
    commands = {
        "workflow": ["snakemake", *planned, "--cores", cores, *chosen],
        "muse run": [
            "muse",
            "run",
            folder / "demo.svs",
            "-o",
            results,
            "--model",
            model,
            "--threads",
            cores,
        ],
    }
    command = [*commands[way], *(["--no-viewer"] if way == "muse run" and not viewer else [])]
    compile_package(folder)
    started, used = time.monotonic(), children_seconds()
    words = [Path(sys.executable).parent / command[0], *map(str, command[1:])]
    subprocess.run(words, check=True, capture_output=True, env=with_bytecode(folder))
    seconds, processor_seconds = time.monotonic() - started, children_seconds() - used
    slide = next(path.parent for path in results.glob("*/nuclei.parquet"))
    provenance = read_provenance(slide / "nuclei.parquet")
    ledgers = {
        path.stem: json.loads(path.read_text()) for path in sorted(slide.glob("ledger/*.json"))
    }
    run, run_processor, run_mm2 = bare_run(model, slide, cores)
    reading, reading_processor = bare_reading(slide, cores)
    bare = run_processor + reading_processor
    steps = {
        name: {
            "seconds": one["seconds"],
            "MiB": one["peak_memory_mib"],
            "R": round(one["processor_seconds"] / bare, 3),
        }
        for name, one in ledgers.items()
    }
    return {
        "model": model,
        "way": way,
        "viewer": viewer,
        "tissue_mm2": round(TissueMask.load(slide / "tissue.npz").area_mm2, 2),
        "seconds": round(seconds, 2),
        "processor_seconds": round(processor_seconds, 2),
        "bare_run_seconds": round(run, 2),
        "bare_reading_seconds": round(reading, 2),
        "bare_processor_seconds": round(bare, 2),
        "R": round(seconds / (run + reading), 2),
        "R_of_the_processor": round(processor_seconds / bare, 2),
        "n_nuclei": provenance.n_nuclei,
        "n_windows": provenance.n_windows,
        "run_mm2": round(run_mm2, 1),
        "steps": steps,
    }


def with_bytecode(folder: Path) -> dict[str, str]:
    """The environment of a run whose modules are compiled, as after an installation; bytecode
    is in ``folder``.
    """
    cache = {
        "PYTHONPYCACHEPREFIX": str(folder.resolve() / "bytecode"),
        "PYTHONDONTWRITEBYTECODE": "",
    }
    return {**os.environ, **cache}


def compile_package(folder: Path, tree: Path = ROOT) -> None:
    """Compile the modules of a source tree for ``with_bytecode``, so that no measured process
    has to.
    """
    command = [sys.executable, "-m", "compileall", "-q", str(tree.resolve() / "muse_pipeline")]
    subprocess.run(command, env=with_bytecode(folder), check=True)


def children_seconds() -> float:
    """Processor seconds of all child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def bare_run(model: str, slide: Path, threads: int) -> tuple[float, float, float]:
    """Wall and processor seconds of `Predictor.run` on parts as large as those of the slide, and
    their area in mm2.

    Each thread makes one call at a time. If there are many parts, a sample of them is run and
    extrapolated.
    """
    predictor = Predictor(find_model(model))
    card, info = predictor.card, read_info(slide / "slide.json")
    size_px = work_size_px(info.size_px, info.mpp, card.mpp)
    sizes = plan_windows(predictor, TissueMask.load(slide / "tissue.npz"), size_px)[
        :: card.batch, 2:
    ]
    sizes = sizes[
        np.argsort(-sizes.prod(1), kind="stable")
    ]  # so that a sample contains parts of every size
    pixels = np.random.default_rng(0).integers(
        0, 256, (card.batch, card.input_px, card.input_px, 3), np.uint8
    )

    def run(size: np.ndarray) -> None:
        part = np.ascontiguousarray(pixels[:, : size[1], : size[0]])
        predictor.run(predictor.outputs, part, IDENTITY)

    sample = sizes[:: max(len(sizes) // 40, 1)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(run, sample[:threads]))  # the first calls are slower
        started, used = time.monotonic(), time.process_time()
        list(pool.map(run, sample))
        seconds, processor_seconds = time.monotonic() - started, time.process_time() - used
    share = sizes.prod(1).sum() / sample.prod(1).sum()
    return (
        seconds * share,
        processor_seconds * share,
        card.batch * sizes.prod(1).sum() * card.mpp**2 / 1e6,
    )


def bare_reading(slide: Path, threads: int) -> tuple[float, float]:
    """Wall and processor seconds of `read_region` for every level-0 block that contains tissue."""
    info, tissue = read_info(slide / "slide.json"), TissueMask.load(slide / "tissue.npz")
    rows, columns = np.nonzero(tissue.mask)
    xy = np.stack([columns, rows], 1) * tissue.mask_mpp / info.mpp
    blocks = np.unique((xy // BLOCK_PX).astype(int), axis=0) * BLOCK_PX
    reader = open_slide(info.path, info.reader)
    started, used = time.monotonic(), time.process_time()
    with ThreadPoolExecutor(threads) as pool:
        list(
            pool.map(
                lambda corner: reader.read_region(tuple(corner), 0, (BLOCK_PX, BLOCK_PX)).shape,
                blocks.tolist(),
            )
        )
    return time.monotonic() - started, time.process_time() - used


if __name__ == "__main__":
    main()

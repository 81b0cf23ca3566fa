"""Seconds of a cohort of small slides: the workflow and `muse run` on crops, for which start-up
dominates.

    python benchmarks/small_slides.py shared/data/wsi-cmu-small-region/CMU-1-Small-Region.svs \
        OUT_DIR
    python benchmarks/small_slides.py SLIDE OUT_DIR --trees . ../other-checkout --rounds 2

Cuts crops of equal area, evenly spread over a slide. Several source trees are measured in turn,
round by round, so that other work on the machine affects all alike. Processor seconds, of all
processes and threads, are affected least.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import tifffile
from end_to_end import children_seconds, compile_package, with_bytecode

from muse_pipeline.slides.base import open_slide
from muse_pipeline.slides.inspect import inspect_slide

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Cut the crops, measure each way, and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("slide", type=Path, metavar="SLIDE")
    parser.add_argument("folder", type=Path, metavar="OUT_DIR")
    parser.add_argument("--crops", type=int, default=30)
    parser.add_argument("--area-mm2", type=float, default=0.06, help="area of each crop")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument(
        "--trees", type=Path, nargs="+", default=[ROOT], help="source trees to compare"
    )
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", choices=("workflow", "muse run"), help="measure one of the two")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    cut_crops(args.slide, args.folder, args.crops, args.area_mm2)
    found = []
    for number in range(args.rounds):
        for tree in args.trees:
            for way in [args.only] if args.only else ("workflow", "muse run"):
                figures = measure(args.folder, tree.resolve(), way, args.cores)
                found.append({"tree": str(tree), "round": number + 1, "way": way, **figures})
                print(json.dumps(found[-1]), flush=True)
    if args.json:
        args.json.write_text(
            json.dumps({"crops": args.crops, "cores": args.cores, "runs": found}, indent=1) + "\n"
        )


def cut_crops(slide: Path, folder: Path, n_crops: int, area_mm2: float) -> None:
    """Write ``crop-01.tif`` and so on as tiled TIFFs that state their mpp, and the sheet and
    config of the cohort.
    """
    (folder / "slides").mkdir(exist_ok=True)
    info = inspect_slide(slide, slide.stem)
    (width, height), mpp = info.size_px, info.mpp[0]
    with open_slide(slide, info.reader) as source:
        side = round(area_mm2**0.5 * 1000 / mpp)
        columns = max(1, round((n_crops * width / height) ** 0.5))
        rows = -(-n_crops // columns)
        lefts, tops = (
            np.linspace(0, size - side, n).astype(int)
            for size, n in ((width, columns), (height, rows))
        )
        corners = [(left, top) for top in tops for left in lefts][:n_crops]
        for number, corner in enumerate(corners, 1):
            pixels = source.read_region(tuple(map(int, corner)), 0, (side, side))
            with tifffile.TiffWriter(folder / f"slides/crop-{number:02}.tif") as tiff:
                resolution = {"resolution": (1e4 / mpp,) * 2, "resolutionunit": "CENTIMETER"}
                tiff.write(
                    pixels, tile=(256, 256), photometric="rgb", compression="deflate", **resolution
                )
    names = [f"crop-{number:02}" for number in range(1, n_crops + 1)]
    lines = ["slide_id\tpath", *(f"{name}\tslides/{name}.tif" for name in names)]
    (folder / "slides.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "config.yaml").write_text("slides: slides.tsv\nviewer: false\n", encoding="utf-8")


def measure(folder: Path, tree: Path, way: str, cores: int) -> dict[str, float]:
    """Wall and processor seconds of a run of all crops into an empty folder."""
    for name in ("results", "run", ".snakemake"):
        shutil.rmtree(folder / name, ignore_errors=True)
    python = [sys.executable, "-m"]
    snakefile = tree / "workflow/Snakefile"
    commands = {
        "workflow": [*python, "snakemake", "--snakefile", str(snakefile), "--cores", str(cores)],
        "muse run": [
            *python,
            "muse_pipeline.cli.main",
            "run",
            "slides",
            "-o",
            "run",
            "--threads",
            str(cores),
            "--no-viewer",
        ],
    }
    options = ["--configfile", "config.yaml"] if way == "workflow" else []
    environment = {**with_bytecode(folder), "PYTHONPATH": str(tree)}
    compile_package(folder, tree)
    started, used = time.monotonic(), children_seconds()
    subprocess.run(
        [*commands[way], *options], cwd=folder, env=environment, check=True, capture_output=True
    )
    seconds, processor = time.monotonic() - started, children_seconds() - used
    return {"seconds": round(seconds, 1), "processor_seconds": round(processor, 1)}


if __name__ == "__main__":
    main()

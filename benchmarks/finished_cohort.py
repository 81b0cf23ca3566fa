"""How long Snakemake takes if a cohort is finished, and until it starts the first job of a slide
that is added.

    python benchmarks/finished_cohort.py OUT_DIR [--slides 1000 10000] [--output \
        finished_cohort.json]

One synthetic slide is run. Its results are copied under other names, which replace the original
name in the files; modification times are kept. A first run finds all slides finished and writes the
report. Files that do not contain the name are hard links.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil

from muse_pipeline.nuclei.parquet import footer_checksum

TOP = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TOP / "tests/support"))

from workflow_runs import draw_stained_slide, enlarge, snakemake_command, write_config, write_sheet  # noqa: E402

FIRST = "S00000"
MOST_LINKS = 20_000  # maximum number of links to a file


def main() -> None:
    """Measure every cohort, and print and write the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="OUT_DIR")
    parser.add_argument("--slides", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    rows = []
    for n_slides in args.slides:
        folder = args.folder.resolve() / str(n_slides)
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "slides").mkdir(parents=True)
        write_config(folder)
        draw_stained_slide(folder / f"slides/{FIRST}.tif", size_px=600, n_nuclei=90)
        enlarge(folder / f"slides/{FIRST}.tif")  # small slides are run in batches
        write_rows(folder, 1)
        run(folder)
        copy_slide(folder, n_slides)
        write_rows(folder, n_slides)
        for what in ("first run", "nothing to do"):
            rows.append({"slides": n_slides, "run": what, **run(folder)})
            print(json.dumps(rows[-1]), flush=True)
        added = f"S{n_slides:05d}"
        shutil.copy2(folder / f"slides/{FIRST}.tif", folder / f"slides/{added}.tif")
        write_rows(folder, n_slides + 1)
        first_job = folder / "results" / added / "logs/image.log"
        rows.append({"slides": n_slides, "run": "a row added", **run(folder, first_job)})
        print(json.dumps(rows[-1]), flush=True)
    if args.output:
        args.output.write_text(json.dumps(rows, indent=1) + "\n")


def write_rows(folder: Path, n_slides: int) -> None:
    """Write the sheet of ``n_slides`` slides."""
    names = [f"S{number:05d}" for number in range(n_slides)]
    write_sheet(
        folder / "slides.tsv", [{"slide_id": name, "path": f"slides/{name}.tif"} for name in names]
    )


def copy_slide(folder: Path, n_slides: int) -> None:
    """Copy the first slide with its results, so that there are ``n_slides``."""
    first, links = folder / "results" / FIRST, {}
    folders = [
        path.relative_to(first) for path in [first, *sorted(first.rglob("*"))] if path.is_dir()
    ]
    files = [path for path in first.rglob("*") if path.is_file()]
    named = {path: data for path in files if FIRST.encode() in (data := path.read_bytes())}
    named[first / "summary.json"] = (first / "summary.json").read_bytes()
    checksum = footer_checksum(first / "nuclei.parquet").encode()
    for number in range(1, n_slides):
        name = f"S{number:05d}"
        results = folder / "results" / name
        for each in folders:
            (results / each).mkdir()
        own = {path: data.replace(FIRST.encode(), name.encode()) for path, data in named.items()}
        for path in [folder / f"slides/{FIRST}.tif", *files]:
            copy = Path(str(path).replace(FIRST, name))
            if path in own:
                copy.write_bytes(own[path])
            elif path in links and number % MOST_LINKS:
                os.link(links[path], copy)
                continue
            else:
                links[path] = shutil.copy(path, copy)
            keep_time(path, copy)
        # The summary contains the checksum of the nuclei, which changes with the slide's name.
        summary, of_these = (
            results / "summary.json",
            footer_checksum(results / "nuclei.parquet").encode(),
        )
        summary.write_bytes(summary.read_bytes().replace(checksum, of_these))
        keep_time(first / "summary.json", summary)
        for each in reversed(folders):
            keep_time(first / each, results / each)


def keep_time(path: Path, copy: Path) -> None:
    """Give a copy the modification time of its original."""
    time_ns = path.stat().st_mtime_ns
    os.utime(copy, ns=(time_ns, time_ns))


def run(folder: Path, first_job: Path | None = None) -> dict[str, float]:
    """Seconds and peak memory of one run, and seconds until ``first_job``, a file that its
    first job writes, exists.
    """
    started = time.monotonic()
    with (folder / "output.txt").open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            snakemake_command(cores=None), cwd=folder, stdout=output, stderr=subprocess.STDOUT
        )
    begun = {}
    while first_job and not first_job.exists() and process.poll() is None:
        time.sleep(0.1)
        used = psutil.Process(process.pid).cpu_times()
        begun = {
            "seconds_until_the_first_job": round(time.monotonic() - started, 1),
            "processor_seconds_until_then": round(used.user + used.system, 1),
        }
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit((folder / "output.txt").read_text("utf-8")[-2000:])
    return {
        **begun,
        "seconds": round(time.monotonic() - started, 1),
        "processor_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_memory_mib": usage.ru_maxrss // 1024,
    }


if __name__ == "__main__":
    main()

"""Compare the page with ``muse run``: nuclei that both find, and seconds per mm2.

    python -m benchmarks.browser SLIDE.svs CROP.png:0.5 ... [--rounds 3]

A picture is followed by its um per pixel. The table has the share of the nuclei of each program
that the other finds within a pixel with the same class. With ``--rounds``, the page with one and
two workers and ``muse run`` with two threads search the first file in turn, and the table has the
median seconds per mm2 of tissue: by the clock, which depends on the load, and of processors, which
hardly do. The start of ``muse run`` counts, that of the browser does not.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/support"))

from browsers import launched_chromium
from muse_page import Page, build_page, count_same

from muse_pipeline.tissue.mask import TissueMask


def main() -> None:
    """Search each file with both programs, and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", metavar="FILE[:MPP]")
    parser.add_argument("--rounds", type=int, default=0)
    args = parser.parse_args()
    html, totals = build_page(), [0, 0, 0, 0]
    with launched_chromium() as browser, tempfile.TemporaryDirectory() as top:
        print(
            "| file | page | `muse run` | of the page's | of `muse run`'s |\n|---|---|---|---|---|"
        )
        for number, file in enumerate(args.files):
            folder = Path(top, str(number))
            search_with_page(browser, html, file, 2, folder)
            counts = count_same(folder / "page.csv", run_muse(file, folder) / "nuclei.parquet")
            totals = [total + n for total, n in zip(totals, counts, strict=True)]
            print_row(split(file)[0].name, counts)
        print_row("all", totals)
        if args.rounds:
            print_speed(browser, html, args.files[0], args.rounds, Path(top))


def split(file: str) -> tuple[Path, float | None]:
    """The path and the um per pixel of ``FILE[:MPP]``."""
    path, _, mpp = file.partition(":")
    return Path(path), float(mpp) if mpp else None


def search_with_page(browser, html: Path, file: str, workers: int, folder: Path) -> np.ndarray:
    """Search a file with the page, write ``page.csv``, and return its ``clocks``."""
    page = Page(browser, html, workers)
    if refusal := page.open(*split(file)):
        raise SystemExit(refusal)
    start = clocks()
    said = page.find()
    seconds = clocks() - start
    if not page.page.locator("#save-csv").count():
        raise SystemExit(f"{file}: {said}")
    page.save("csv", folder / "page.csv")
    page.context.close()
    return seconds


def run_muse(file: str, folder: Path) -> Path:
    """Search a file with ``muse run``, and return the folder of its results."""
    path, mpp = split(file)
    command = [
        "muse",
        "run",
        path,
        "--output",
        folder / "run",
        "--no-quality",
        "--no-viewer",
        "--threads",
        "2",
    ]
    subprocess.run(
        [*command, *(["--mpp", str(mpp)] if mpp else [])], check=True, stdout=subprocess.DEVNULL
    )
    return next((folder / "run").glob("*/nuclei.parquet")).parent


def print_row(name: str, counts: list[int] | tuple[int, ...]) -> None:
    """Print a row of the table of nuclei."""
    own, theirs, found, confirmed = counts
    shares = found / max(own, 1), confirmed / max(theirs, 1)
    print(f"| {name} | {own} | {theirs} | {shares[0]:.1%} | {shares[1]:.1%} |", flush=True)


def print_speed(browser, html: Path, file: str, rounds: int, top: Path) -> None:
    """Search a file with each program in turn, and print the median seconds per mm2."""
    seconds = {"page, 1 worker": [], "page, 2 workers": [], "`muse run`, 2 threads": []}
    for number in range(rounds):
        folder = top / f"round{number}"
        for workers, name in enumerate(list(seconds)[:2], 1):
            seconds[name].append(search_with_page(browser, html, file, workers, folder))
        start = ended_clocks()
        results = run_muse(file, folder)
        seconds["`muse run`, 2 threads"].append(ended_clocks() - start)
    area_mm2 = TissueMask.load(results / "tissue.npz").area_mm2
    print(f"\n| {file}, {area_mm2:.2f} mm2 | s per mm2 | processor s |\n|---|---|---|")
    for name, values in seconds.items():
        by_clock, of_processors = np.median(values, axis=0) / area_mm2
        print(f"| {name} | {by_clock:.1f} | {of_processors:.1f} |")


def clocks() -> np.ndarray:
    """(2,) seconds by the clock, and of the processors in all processes that run from here."""
    living = [process.cpu_times() for process in psutil.Process().children(recursive=True)]
    return np.array([time.perf_counter(), sum(each.user + each.system for each in living)])


def ended_clocks() -> np.ndarray:
    """(2,) seconds by the clock, and of the processors in processes that have ended."""
    times = os.times()
    return np.array([time.perf_counter(), times.children_user + times.children_system])


if __name__ == "__main__":
    main()

"""Draw the 40x slides on which speed is measured, and say what drawing them cost.

    python benchmarks/draw_slides.py OUT_DIR [--areas-mm2 20 100] [--sides-px 40000 90000] [--threads 2]

Every slide gets a folder of its own, OUT_DIR/20mm2 and so on, as `muse demo-slide` writes it; with --sides-px each on a
square glass of that many pixels (up to whole blocks of 1,024).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from muse_pipeline.cli.ledger import peak_memory_mib
from muse_pipeline.demo.write import write_demo

MPP = 0.25


def main() -> None:
    """Draw them one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="OUT_DIR")
    parser.add_argument("--areas-mm2", type=float, nargs="+", default=[20.0, 100.0])
    parser.add_argument("--sides-px", type=int, nargs="+", help="one for each area")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    sides_px = args.sides_px or [None] * len(args.areas_mm2)
    for area, side_px in zip(args.areas_mm2, sides_px, strict=True):
        folder = args.folder / f"{area:g}mm2"
        started = time.monotonic()
        n_nuclei = write_demo(folder, area, MPP, threads=args.threads, side_um=side_px and side_px * MPP)
        seconds, size = time.monotonic() - started, (folder / "demo.svs").stat().st_size / 1e6
        print(f"{area:g} mm2: {n_nuclei:,} nuclei, {seconds:.0f} s, {size:.0f} MB, peak so far {peak_memory_mib()} MiB")


if __name__ == "__main__":
    main()

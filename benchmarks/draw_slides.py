"""Draw the 40x slides on which speed is measured, and say what drawing them cost.

    python benchmarks/draw_slides.py OUT_DIR [--areas-mm2 20 100] [--threads 2]

Every slide gets a folder of its own, OUT_DIR/20mm2 and so on, as `muse demo-slide` writes it.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from muse_pipeline.cli.ledger import peak_memory_mib
from muse_pipeline.demo.write import write_demo


def main() -> None:
    """Draw them one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="OUT_DIR")
    parser.add_argument("--areas-mm2", type=float, nargs="+", default=[20.0, 100.0])
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    for area in sorted(args.areas_mm2):
        folder = args.folder / f"{area:g}mm2"
        started = time.monotonic()
        n_nuclei = write_demo(folder, area, threads=args.threads)
        seconds, size = time.monotonic() - started, (folder / "demo.svs").stat().st_size / 1e6
        print(f"{area:g} mm2: {n_nuclei:,} nuclei, {seconds:.0f} s, {size:.0f} MB, peak so far {peak_memory_mib()} MiB")


if __name__ == "__main__":
    main()

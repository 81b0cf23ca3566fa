"""Views per second of pairs of H&E and a second stain, and seconds until many paired stores are
open.

    python benchmarks/pair_speed.py [--stores 1000] [--threads 2] [--global-px 224]

The stores of a synthetic slide and its partner are copied, and each copy counts as a separate
slide. Views of H&E and of partners are counted. Rates are estimated from processor time, as on an
idle machine; views per second are also given by the clock.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/support"))

from paired import draw_paired_slide

from muse_pipeline.data.partners import PairBatch, PairedSource, PartnerSource
from muse_pipeline.data.views import ViewSettings
from muse_pipeline.methods.trident.method import TridentConfig
from muse_pipeline.methods.trident.run import TridentStage
from muse_pipeline.training.method import Schedule


def main() -> None:
    """Write and copy the stores, open them, make batches, and print the rates as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stores", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--global-px", type=int, default=224)
    args = parser.parse_args()
    torch.set_num_threads(1)  # batches are made in parallel threads instead
    with tempfile.TemporaryDirectory() as folder:
        config = TridentConfig(
            name="speed",
            backbone="muse_compact_16",
            sources=copy_pairs(Path(folder), args.stores),
            schedule=Schedule(steps=1),
            views=ViewSettings(global_px=args.global_px, mpp=(0.5, 1.0), n_local=0),
            batch=24,
        )
        stage = TridentStage(config, Path(folder) / "run")
        processor, clock = time.process_time(), time.perf_counter()
        data = stage.open_data(lambda sentence: None)
        opening = {
            "processor_s": time.process_time() - processor,
            "clock_s": time.perf_counter() - clock,
        }
        batches = stage.batches(data, torch.device("cpu"))
        batches(args.batches)  # the first batch is slower, as it allocates memory
        processor, clock = time.process_time(), time.perf_counter()
        with ThreadPoolExecutor(args.threads) as pool:
            n_views = sum(
                pool.map(lambda number: count_views(batches(number)), range(args.batches))
            )
        processor, clock = time.process_time() - processor, time.perf_counter() - clock
    found = {
        "paired_stores": len(data.images),
        **{f"opening_{name}": seconds for name, seconds in opening.items()},
        "threads": args.threads,
        "global_px": args.global_px,
        "views_per_s": n_views * args.threads / processor,
        "views_per_s_by_the_clock": n_views / clock,
    }
    print(json.dumps({name: round(value, 1) for name, value in found.items()}, indent=1))


def copy_pairs(folder: Path, n: int) -> tuple[PairedSource, ...]:
    """Sources of ``n`` identical slides, each with the store of a partner."""
    draw_paired_slide(folder / "0")
    for number in range(1, n):
        shutil.copytree(folder / "0", folder / str(number))
    return tuple(
        PairedSource(
            store=one / "image-500nm.zarr",
            proposals=one / "proposals.parquet",
            partner=PartnerSource(store=one / "partner.zarr"),
        )
        for one in (folder / str(number) for number in range(n))
    )


def count_views(batch: PairBatch) -> int:
    """Number of views of both stains in a batch."""
    return len(batch.views.global_views.pixels) + len(batch.partner.image)


if __name__ == "__main__":
    main()

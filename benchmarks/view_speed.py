"""Views per second of pretraining's data pipeline: drawn, read, cut, varied in colour and sharpness, matched.

    python benchmarks/view_speed.py config/train/muse_pretrain.yaml --data ../shared/data [--threads 2] [--set batch=8]

Counted is processor time over threads, the rate of an idle machine; beside it the rate by the clock. Local views are
counted by what batches cost more than batches of global views alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from muse_pipeline.methods.muse.config import MuseConfig
from muse_pipeline.methods.muse.data import PretrainData, read_pretrain_data
from muse_pipeline.methods.muse.run import load_muse_config, make_batches


def main() -> None:
    """Open the sources of a config, draw batches, print the rates as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    torch.set_num_threads(1)  # threads make batches side by side instead
    config = load_muse_config(args.config, args.data, args.set)
    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        data = read_pretrain_data(config.sources, config.views.mpp[0], config.min_nuclei, Path(folder))
        opening = time.process_time() - started
        wide = dataclasses.replace(config, views=dataclasses.replace(config.views, n_local=0))
        few, all_views = (measure(one, data, args.batches, args.threads) for one in (wide, config))
    n_sets = args.batches * config.batch
    local = max(all_views["processor"] - few["processor"], 1e-9)
    found = {
        "images": len(data.images),
        "opening_processor_s": opening,
        "threads": args.threads,
        "global_px": config.views.global_px,
        "local_px": config.views.local_px,
        "n_local": config.views.n_local,
        "global_views_per_s": 2 * n_sets * args.threads / few["processor"],
        "local_views_per_s": config.views.n_local * n_sets * args.threads / local,
        "sets_per_s": n_sets * args.threads / all_views["processor"],
        "sets_per_s_by_the_clock": n_sets / all_views["clock"],
    }
    print(json.dumps({name: round(value, 1) for name, value in found.items()}, indent=1))


def measure(config: MuseConfig, data: PretrainData, n_batches: int, threads: int) -> dict[str, float]:
    """Seconds by the processor and by the clock of ``n_batches`` batches."""
    batches = make_batches(config, data, torch.device("cpu"))
    batches(n_batches)  # the first finds memory
    processor, clock = time.process_time(), time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(batches, range(n_batches)))
    return {"processor": time.process_time() - processor, "clock": time.perf_counter() - clock}


if __name__ == "__main__":
    main()

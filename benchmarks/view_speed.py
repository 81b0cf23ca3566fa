"""Views per second of the data pipeline of pretraining: sampling, reading, cropping, augmenting,
matching nuclei.

    python benchmarks/view_speed.py config/train/muse_pretrain.yaml --data ../shared/data \
        [--threads 2] [--set batch=8]

Rates are estimated from processor time, as on an idle machine; sets per second are also given by
the clock. The cost of local views is the additional cost of batches with them over batches with
only global views. For a GPU, the loader reads windows, and the GPU cuts the views; both are
measured on the CPU. For stores, the chunks that a set of views shows and the chunks that are
decoded for it are counted too.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import torch

from muse_pipeline.methods.muse.config import MuseConfig
from muse_pipeline.methods.muse.data import PretrainData, read_pretrain_data
from muse_pipeline.methods.muse.run import make_batches
from muse_pipeline.store import zarr_files as shards
from muse_pipeline.store.zarr_files import ShardFiles
from muse_pipeline.training.recipe import load_run


def main() -> None:
    """Open the sources of a config, make batches, and print the rates as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)  # batches are made in parallel threads instead
    _, config = load_run(args.config, args.data, args.set, default="muse", only=MuseConfig)
    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        data = read_pretrain_data(
            config.sources, config.views.mpp[0], config.min_nuclei, Path(folder)
        )
        opening = time.process_time() - started
        wide = dataclasses.replace(config, views=dataclasses.replace(config.views, n_local=0))
        few, all_views = (measure(one, data, args.batches, args.threads) for one in (wide, config))
        windows, cut = measure_windows(config, data, args.batches)
        chunks = count_chunks(config, data)
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
        "processor_s_per_64_sets": 64 * all_views["processor"] / n_sets,
        "processor_s_per_64_sets_of_windows": 64 * windows / n_sets,
        "processor_s_to_cut_64_sets_from_windows": 64 * cut / n_sets,
        **chunks,
    }
    print(json.dumps({name: float(f"{value:.3g}") for name, value in found.items()}, indent=1))


def measure(
    config: MuseConfig, data: PretrainData, n_batches: int, threads: int
) -> dict[str, float]:
    """Processor and wall seconds for ``n_batches`` batches."""
    batches = make_batches(config, data)
    batches(n_batches)  # the first batch is slower, as it allocates memory
    processor, clock = time.process_time(), time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(batches, range(n_batches)))
    return {"processor": time.process_time() - processor, "clock": time.perf_counter() - clock}


def measure_windows(config: MuseConfig, data: PretrainData, n_batches: int) -> tuple[float, float]:
    """Processor seconds for ``n_batches`` batches of windows, and for cutting their views."""
    batches = make_batches(config, data)
    batches.on_device = True
    batches(n_batches).cut(config.augmentation)
    begun = time.process_time()
    windows = [batches(number) for number in range(n_batches)]
    read = time.process_time()
    for batch in windows:
        batch.cut(config.augmentation)
    return read - begun, time.process_time() - read


def count_chunks(config: MuseConfig, data: PretrainData) -> dict[str, float]:
    """Mean numbers of the chunks that a set of views shows, and of the chunks decoded for each
    set of a batch.
    """
    decoded, read_chunk = [], ShardFiles.read_chunk
    ShardFiles.read_chunk = lambda *given: decoded.append(given[1:]) or read_chunk(*given)
    try:
        sets = make_batches(config, data).draw(config.schedule.steps)[1]
        n_decoded, shown = len(decoded), 0
        for one in sets:
            decoded.clear()
            shards.read_recent_chunk.cache_clear()
            for view in one.views:
                view.cut(one.image)
            shown += len(set(decoded))
    finally:
        ShardFiles.read_chunk = read_chunk
    return {
        "chunks_shown_per_set": shown / len(sets),
        "chunks_decoded_per_set": n_decoded / len(sets),
    }


if __name__ == "__main__":
    main()

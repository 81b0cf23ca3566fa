"""Training windows per second of the data pipeline: cropping, geometric and colour augmentation,
targets of nuclei.

    python benchmarks/windows.py config/train/compact.yaml --data ../shared/data [--threads 2] \
        [--set window_px=256]

The rate by the clock is valid on an idle machine; the rate by processor time estimates it on a busy
one.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from muse_pipeline.methods.detector.data import read_detector_data
from muse_pipeline.methods.detector.run import load_detector_config


def main() -> None:
    """Read the labels of a config, make batches, and print the rates."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batches", type=int, default=50)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    config = load_detector_config(args.config, args.data, args.set)
    windows = read_detector_data(config).make_windows(torch.device("cpu"))
    for number in range(5):  # the first calls are slower, as they allocate memory
        windows(number)
    n = args.batches * config.batch
    processor, wall = time.process_time(), time.perf_counter()
    for number in range(args.batches):
        windows(number)
    processor, wall = time.process_time() - processor, time.perf_counter() - wall
    print(
        f"{n} windows of {config.window_px} px on {args.threads} threads: {n / wall:.0f} per second"
        f" by the clock, {n * args.threads / processor:.0f} by processor time"
    )


if __name__ == "__main__":
    main()

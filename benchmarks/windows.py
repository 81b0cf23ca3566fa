"""Training windows per second of the data pipeline: cut, turned, scaled, varied in stain and sharpness, with nuclei.

    python benchmarks/windows.py config/train/compact.yaml --data ../shared/data [--threads 2] [--set window_px=256]

Counted is processor time over threads, the wall time of an idle machine; the wall time here is printed beside it.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from muse_pipeline.data.labels import read_labelled_images
from muse_pipeline.data.windows import LabelledWindows
from muse_pipeline.training.census import REFERENCE_STAINS, colour_reference, image_colour
from muse_pipeline.training.finetune_config import FinetuneConfig, load_finetune_config


def main() -> None:
    """Read the labels of a config, draw batches, print the rate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batches", type=int, default=50)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    config = load_finetune_config(args.config, args.data, args.set)
    windows = read_windows(config)
    for number in range(5):  # the first calls find memory
        windows(number)
    n = args.batches * config.batch
    processor, wall = time.process_time(), time.perf_counter()
    for number in range(args.batches):
        windows(number)
    processor, wall = time.process_time() - processor, time.perf_counter() - wall
    print(
        f"{n} windows of {config.window_px} px on {args.threads} threads: {n * args.threads / processor:.0f} a second "
        f"by processor time, {n / wall:.0f} by the clock"
    )


def read_windows(config: FinetuneConfig) -> LabelledWindows:
    """The windows that training with this config draws, on the CPU."""
    images = read_labelled_images(config.sources, config.class_names, config.mpp, config.n_rays)
    reference = colour_reference(images, config.colour)
    return LabelledWindows(
        images,
        np.stack([image_colour(image, reference) for image in images]),
        np.array(reference.stains or REFERENCE_STAINS),
        config.mpp,
        config.window_px,
        config.batch,
        config.augmentation,
        config.seed,
        torch.device("cpu"),
    )


if __name__ == "__main__":
    main()

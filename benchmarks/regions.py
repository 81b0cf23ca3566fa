"""Cost of tissue regions: mapping a slide at 2 um/px, and training attention on many slides.

    python benchmarks/regions.py map STORE MODEL.onnx --threads 2
    python benchmarks/regions.py attention --slides 1000 --tiles 10000 --measured 20

``map`` does the work of `muse regions` on a store with slide.json and colour.json next to it.
``attention`` trains gated attention, as `slide_labels` does, on memory-mapped random features of
``--measured`` slides, and extrapolates the time to 5 epochs of all ``--slides``. On a busy machine
rely on the processor seconds.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from muse_pipeline.core.environment import peak_memory_mib
from muse_pipeline.inference import region_maps
from muse_pipeline.inference.predictor import RegionPredictor
from muse_pipeline.inference.region_files import write_regions
from muse_pipeline.inference.stains import colour_of_fit, read_colour
from muse_pipeline.methods.mil.attention import GatedAttention, SlideAttention
from muse_pipeline.slides.inspect import read_info
from muse_pipeline.store.store import open_store

EPOCHS, FEATURES, HIDDEN, BAGS = 5, 256, 64, 4


def main() -> None:
    """Measure and print one line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(dest="part", required=True)
    mapping = parts.add_parser("map")
    mapping.add_argument("store", type=Path)
    mapping.add_argument("model", type=Path)
    attention = parts.add_parser("attention")
    attention.add_argument("--slides", type=int, default=1000)
    attention.add_argument("--tiles", type=int, default=10_000)
    attention.add_argument("--measured", type=int, default=20)
    for part in (mapping, attention):
        part.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    print(map_slide(args) if args.part == "map" else train_attention(args))


def map_slide(args: argparse.Namespace) -> str:
    """A line with the time for maps and for files, without the start of the process, and with its
    peak memory.
    """
    predictor, folder = RegionPredictor(args.model), args.store.parent
    image, info = open_store(args.store), read_info(folder / "slide.json")
    mask, pixel_px = image.tissue
    mm2 = mask.sum() * (pixel_px * image.mpp) ** 2 / 1e6
    colour = colour_of_fit(predictor.card.colour, read_colour(folder / "colour.json").macenko)
    times = [(time.perf_counter(), time.process_time())]
    found = region_maps.map_slide(image, predictor, colour, threads=args.threads)
    times.append((time.perf_counter(), time.process_time()))
    with TemporaryDirectory() as output:
        write_regions(found, image, info, Path(output))
    times.append((time.perf_counter(), time.process_time()))
    (map_s, map_cpu), (write_s, write_cpu) = np.diff(times, axis=0) / mm2
    mib = peak_memory_mib()
    return (
        f"{mm2:.1f} mm2 with {args.threads} threads: maps {map_s:.3f} s/mm2 ({map_cpu:.3f}"
        f" processor s), files {write_s:.3f} s/mm2 ({write_cpu:.3f}), {mib} MiB"
    )


def train_attention(args: argparse.Namespace) -> str:
    """A line with the seconds for the measured slides, extrapolated to all slides and epochs."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    method = SlideAttention(GatedAttention(FEATURES, 1, HIDDEN))
    optimiser = torch.optim.AdamW(method.parameters(), 1e-3)
    with TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.npy" for number in range(args.measured)]
        for path in paths:
            np.save(
                path, rng.standard_normal((args.tiles, FEATURES), np.float32).astype(np.float16)
            )
        started, cpu = time.perf_counter(), time.process_time()
        for start in range(0, args.measured, BAGS):
            some = [np.array(np.load(path, mmap_mode="r")) for path in paths[start : start + BAGS]]
            bags = [(torch.from_numpy(features).float(), torch.ones(1)) for features in some]
            loss = method.losses(bags, "model", 0.0)["loss"]
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    factor = EPOCHS * args.slides / args.measured
    return (
        f"{args.measured} slides of {args.tiles:,} tiles: {seconds:.2f} s, {cpu:.2f} processor s;"
        f" {EPOCHS} epochs over {args.slides:,} slides, extrapolated: {seconds * factor / 60:.1f}"
        f" min, {cpu * factor / 60:.1f} processor min"
    )


if __name__ == "__main__":
    main()

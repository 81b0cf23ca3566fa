"""Overhead of running a model, compared with bare calls of ONNX Runtime: a ViT-S/16 at 512 px.

    python benchmarks/runtime_overhead.py [--backbone muse_vit_s_16_512] [--threads 2] [--provider \
        cpu] [--json FILE]

All three ways run the same windows on the same number of threads. The first bare session uses all
threads for one window at a time. The pipeline runs one window per thread, so that results do not
depend on the number of threads. The second bare session does the same, and shows the cost of the
pipeline itself. The ways are run in turn and the fastest round of each counts, because other work
on the machine can only slow them down. The weights are random.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from muse_pipeline.core.process import map_in_order
from muse_pipeline.export.onnx import trace, write_model
from muse_pipeline.inference.card import ModelCard, NucleusClass
from muse_pipeline.inference.model import open_session
from muse_pipeline.inference.predictor import OUTPUTS, Predictor
from muse_pipeline.models.detector import DetectionGraph, NucleusDetector
from muse_pipeline.tissue.stain import IDENTITY

MPP = 0.5


def write_untrained(path: Path, backbone: str, head: str, window_px: int) -> None:
    """Export an untrained detector, with a threshold that every peak passes."""
    torch.manual_seed(0)
    detector = NucleusDetector(backbone, head, 3, 32).eval()
    detector.backbone.fix_size(window_px, window_px)
    card = ModelCard(
        name=backbone,
        mpp=MPP,
        input_px=window_px,
        halo_px=32,
        stride_px=detector.backbone.stride_px,
        batch=1,
        capacity=2048,
        classes=tuple(NucleusClass(name, (0, 0, 0)) for name in "abc"),
        threshold=0.01,
        n_rays=32,
        readout=detector.backbone.lattice.name,
        licence="CC0-1.0",
        training_data="none",
    )
    write_model(
        trace(DetectionGraph(detector, card.threshold, card.capacity).eval(), card), card, path
    )


def open_bare(path: Path, n_threads: int, provider: str) -> onnxruntime.InferenceSession:
    """A session of ONNX Runtime, without the pipeline around it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = n_threads
    return open_session(path, options, provider)


def seconds(run) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    """Measure, print, and write the figures to ``--json`` if it is given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="muse_vit_s_16_512")
    parser.add_argument("--head", default="dense")
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--provider", default="cpu")
    parser.add_argument(
        "--windows", type=int, default=4, help="windows per round (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        write_untrained(path, args.backbone, args.head, args.window)
        predictor = Predictor(path, args.provider)
        together, alone = (
            open_bare(path, n_threads, args.provider) for n_threads in (args.threads, 1)
        )
        pixels = np.random.default_rng(0).integers(
            0, 256, (args.windows, 1, args.window, args.window, 3), np.uint8
        )
        inputs = [
            {"pixels": np.ascontiguousarray(batch.transpose(0, 3, 1, 2)), "colour": IDENTITY}
            for batch in pixels
        ]

        def bare() -> None:
            for feed in inputs:
                together.run(list(OUTPUTS), feed)

        def bare_at_a_time() -> None:
            for _ in map_in_order(
                lambda feed: alone.run(list(OUTPUTS), feed), inputs, args.threads
            ):
                pass

        def pipeline() -> None:
            for _ in map_in_order(lambda batch: predictor(batch, IDENTITY), pixels, args.threads):
                pass

        ways = (bare, bare_at_a_time, pipeline)
        times = [[seconds(way) for way in ways] for _ in range(args.rounds + 1)][
            1:
        ]  # the first round warms up
    fastest = np.array(times).min(0)
    area_mm2 = args.windows * (args.window * MPP / 1000) ** 2
    result = {
        "backbone": args.backbone,
        "head": args.head,
        "window_px": args.window,
        "threads": args.threads,
        "provider": args.provider,
        "bare_s_per_window": round(fastest[0] / args.windows, 4),
        "bare_at_a_time_s_per_window": round(fastest[1] / args.windows, 4),
        "pipeline_s_per_window": round(fastest[2] / args.windows, 4),
        "pipeline_mm2_per_s": round(area_mm2 / fastest[2], 4),
        "ratio": round(fastest[2] / fastest[0], 3),
        "ratio_at_a_time": round(fastest[2] / fastest[1], 3),
    }
    print(json.dumps(result, indent=1))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Inference and training on the devices of this machine, beside the CPU.

    python benchmarks/gpu.py --data DATA --models compact compact-int8 --output runs/gpu

Inference: windows of nine pictures of DATA/brca-m2c/images with each provider that starts here, their pixels copied at
each call or bound to the device before (IO binding), and how many nuclei are those of the CPU. Training: steps of
`--config`, a run of one stage, on the CPU and, where there is one, on a GPU; the first third of them is not timed.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from graph_time import compare, draw_windows
from onnxruntime import OrtValue

from muse_pipeline.core.files import write_json
from muse_pipeline.inference.model import PROVIDERS, find_model, starts
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.tissue.stain import IDENTITY
from muse_pipeline.training.recipe import load_run, train_run
from muse_pipeline.training.run import Options

GPU_PROVIDERS = ("cuda", "tensorrt")  # whose inputs are bound on the device


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=["compact", "compact-int8"], metavar="MODEL")
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--config", type=Path, default=Path("config/train/muse_pretrain.yaml"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="settings of the training")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--output", type=Path, default=Path("runs/gpu"))
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    rows = []
    for row in chain(measure_inference(args), measure_training(args)):
        shown = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in row.items()}
        print("  ".join(f"{name}: {value}" for name, value in shown.items()))
        rows.append(row)
    write_json(args.output / "gpu.json", rows)


def measure_inference(args: argparse.Namespace) -> Iterator[dict]:
    """A row per model and provider that starts; the CPU is the first."""
    pictures = sorted((args.data / "brca-m2c/images").glob("*.png"))
    for model in args.models:
        expected = None
        for provider in filter(starts, PROVIDERS):
            predictor = Predictor(find_model(model, provider), provider)
            card = predictor.card
            windows = draw_windows(pictures, args.windows * card.batch, card.input_px)
            batches = [np.concatenate(windows[at :: args.windows]) for at in range(args.windows)]
            found = [nuclei for batch in batches for nuclei in find(predictor, batch)]  # kernels are chosen here
            expected = expected or found
            n, same = compare(expected, found)
            mm2 = card.batch * (card.input_px * card.mpp / 1000) ** 2
            yield {
                "model": model,
                "provider": provider,
                "mm2/s": mm2 / time_calls([partial(find, predictor, batch) for batch in batches], args.rounds),
                "mm2/s, bound": mm2 / time_calls([bind(predictor, batch) for batch in batches], args.rounds),
                "nuclei": n,
                "as on the CPU": same,
            }


def time_calls(calls: list[Callable], rounds: int) -> float:
    """Median seconds of a call."""
    seconds = []
    for call in calls * rounds:
        begun = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begun)
    return float(np.median(seconds))


def find(predictor: Predictor, batch: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Positions (N, 2) px and scores (N,) of the nuclei of each window of a batch (B, S, S, 3)."""
    return [(nuclei.xy, nuclei.score) for nuclei in predictor(batch, IDENTITY)]


def bind(predictor: Predictor, batch: np.ndarray) -> Callable[[], None]:
    """A call of the graph whose inputs are on the device already, and whose outputs stay there."""
    device = "cuda" if predictor.provider in GPU_PROVIDERS else "cpu"
    binding = predictor.session.io_binding()
    for name, values in predictor.inputs(batch, IDENTITY).items():
        binding.bind_ortvalue_input(name, OrtValue.ortvalue_from_numpy(values, device))
    for name in predictor.outputs:
        binding.bind_output(name, device)
    binding.synchronize_inputs()

    def call() -> None:
        predictor.session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return call


def measure_training(args: argparse.Namespace) -> Iterator[dict]:
    """A row per device: steps per second after the first third."""
    changes = [f"schedule.steps={args.steps}", "schedule.log_every=1", *args.set]
    for accelerator in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        folder, times = args.output / f"run-{accelerator}", []
        shutil.rmtree(folder, ignore_errors=True)
        recipe, config = load_run(args.config, args.data, changes, "muse")
        options = Options(accelerator=accelerator, progress=lambda *_, times=times: times.append(time.perf_counter()))
        train_run(recipe, config, folder, options)
        times = times[len(times) // 3 :]
        device = torch.cuda.get_device_name() if accelerator == "cuda" else "cpu"
        yield {"config": args.config.name, "device": device, "steps/s": (len(times) - 1) / (times[-1] - times[0])}


if __name__ == "__main__":
    main()

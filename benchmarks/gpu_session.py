"""All measurements that need a GPU, in one session on a machine with PyTorch and no network.

    python benchmarks/gpu_session.py pack --data DATA --work PACKED
    python benchmarks/gpu_session.py SECTION ... --data PACKED --work WORK --output gpu.json

`pack` writes the pictures as JPEG, before the session. The checkout and PACKED take 60 MiB;
packages that the machine lacks (Snakemake for the section cohort) are carried in addition. A
session may end early, so the sections are listed in the order of what is least known: the first
five measure whole slides, cohorts and pretraining. Each row is written to the JSON file as soon as
it is measured. Without a GPU, the sections run on the CPU at a small size, to test the script.

machine     the hardware and the versions
runs        `muse run` of synthetic slides by provider: seconds per step, nuclei, and F1
cohort      mm2/s of the workflow with 32 slides of 20 mm2, several of which share the GPU
pretraining sets/s of MUSE with one batch repeated and with loaders, and how long the GPU waits
long        a pretraining of ViT-S/16 for --seconds, and kNN of held-out nuclei before and after
forward     mm2/s of a detector by runtime, precision and batch, and nuclei that agree with fp32
tests       the tests of methods and training with every CPU device replaced by the GPU
precision   losses in bf16 and fp32 over the same steps
resume      a run that is killed and continued, compared with one that is not
processes   gradients and rows shared by two processes on one GPU, compared with one process
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import psutil
import torch
from graph_time import compare, draw_windows

from muse_pipeline.core.files import write_json
from muse_pipeline.inference.model import find_fault, find_model
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.labels.picture_source import PictureSource
from muse_pipeline.methods.muse.config import MuseConfig
from muse_pipeline.methods.muse.run import INDEX, MuseStage
from muse_pipeline.nuclei.parquet import read_provenance
from muse_pipeline.tissue.stain import IDENTITY
from muse_pipeline.training.checkpoint import load_checkpoint
from muse_pipeline.training.devices import average_gradients, gather_rows
from muse_pipeline.training.recipe import load_run
from muse_pipeline.training.run import Options

ROOT = Path(__file__).parents[1]
ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"
TORCH_PROVIDER = "torch" if ON_GPU else "torch-cpu"
CORES = len(os.sched_getaffinity(0))
LOADERS = max(CORES - 1, 1)
PACKED = (
    "brca-m2c/images",
    "orion-crc-tiles",
    "camelyon16-patches",
    "oesophagus-tcga-unlabelled",
    "tnbc-nuclei",
)
JPEG = [cv2.IMWRITE_JPEG_QUALITY, 88]
VIT = [
    "backbone=muse_vit_s_16_224",
    "views.global_px=224",
    "views.local_px=96",
    "views.n_local=8",
    "views.mpp=[0.5, 0.5]",
    "distillation.n_prototypes=8192",
    "distillation.hidden=2048",
    "distillation.bottleneck=256",
]
COMPACT = ["backbone=muse_compact_64"]


def main() -> None:
    """Run the sections in the given order."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sections", nargs="+", choices=["pack", *SECTIONS, "victim"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--output", type=Path)
    parser.add_argument(
        "--mm2", type=float, default=20.0 if ON_GPU else 1.0, help="tissue of the drawn slide"
    )
    parser.add_argument("--providers", nargs="+", default=[TORCH_PROVIDER, "cpu", TORCH_PROVIDER])
    parser.add_argument(
        "--glass-px",
        type=int,
        default=61_440 if ON_GPU else 13_312,
        help="side of the repeated slide",
    )
    parser.add_argument("--seconds", type=float, default=120.0 if ON_GPU else 5.0)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    if args.sections == ["pack"]:
        pack(args.data, args.work)
        return
    if args.sections == ["victim"]:
        pretrain(args, "cut", resume_settings(), 0)
        return
    rows = json.loads(args.output.read_text()) if args.output.is_file() else []
    for section in args.sections:
        begun = time.monotonic()
        try:
            for row in SECTIONS[section](args):
                rows.append(
                    {"section": section, **{name: rounded(value) for name, value in row.items()}}
                )
                print(json.dumps(rows[-1]), flush=True)
                write_json(args.output, rows)
        except Exception as error:  # the next section may still succeed
            rows.append({"section": section, "error": repr(error)[:400]})
            print(json.dumps(rows[-1]), flush=True)
        print(f"{section}: {time.monotonic() - begun:.0f} s", flush=True)
        write_json(args.output, rows)


def rounded(value: object) -> object:
    """A float rounded to four digits, to keep the JSON readable; any other value unchanged."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


def pack(data: Path, folder: Path) -> None:
    """Write the pictures as JPEG, which takes a quarter of the bytes, and the labels for the
    evaluation.
    """
    for name in PACKED:
        for path in sorted((data / name).rglob("*")):
            if path.suffix.lower() in {".png", ".jpg", ".tif"} and not {"instances", "regions"} & {
                *path.parts
            }:
                output = (folder / path.relative_to(data)).with_suffix(".jpg")
                output.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(output), cv2.imread(str(path)), JPEG)
    shutil.copytree(data / "brca-m2c/labels", folder / "brca-m2c/labels", dirs_exist_ok=True)


def machine(_args: argparse.Namespace) -> Iterator[dict]:
    """Yield the hardware and the versions."""
    name = torch.cuda.get_device_name() if ON_GPU else "none"
    yield {"gpu": name, "cores": CORES, "torch": torch.__version__, "cuda": torch.version.cuda}


def forward(args: argparse.Namespace) -> Iterator[dict]:
    """Yield a row per runtime, precision and batch."""
    model = find_model("compact-fp32")
    reference = Predictor(model)
    card = reference.card
    pictures = sorted((args.data / "brca-m2c/images").glob("*.*"))
    windows = draw_windows(pictures, 8 if ON_GPU else 1, card.input_px)
    expected = [found for window in windows for found in reference(window, IDENTITY)]
    owned = (
        (card.input_px - 2 * card.halo_px) * card.mpp / 1000
    ) ** 2  # mm2 of a window without its halo
    yield {"runtime": "onnxruntime cpu, one core", "batch": 1} | speed(
        reference, windows[0], owned, 3
    )
    for provider in (TORCH_PROVIDER, "cuda"):
        if find_fault(provider):
            yield {"runtime": provider, "error": "does not start"}
            continue
        for batch in (1, 8, 32) if ON_GPU else (1,):
            predictor = Predictor(model, provider)
            row = {"runtime": provider, "batch": batch}
            found = [nuclei for window in windows for nuclei in predictor(window, IDENTITY)]
            pairs = [[(each.xy, each.score) for each in nuclei] for nuclei in (expected, found)]
            counts = dict(zip(("nuclei", "within 1 px of the CPU's"), compare(*pairs), strict=True))
            pixels = np.concatenate((windows * batch)[:batch])
            row |= {"nuclei on the CPU": sum(map(len, expected)), **counts}
            yield row | speed(predictor, pixels, owned, 20 if ON_GPU else 2)


def speed(predictor: Predictor, pixels: np.ndarray, owned: float, repeats: int) -> dict:
    """mm2/s of the graph, including copies from and to the host."""
    mm2 = len(pixels) * owned
    row = {
        "mm2/s": (
            mm2
            / median_seconds(lambda: predictor.run(predictor.outputs, pixels, IDENTITY), repeats)
        )
    }
    if predictor.device and ON_GPU:
        row["GiB"] = torch.cuda.max_memory_allocated() / 2**30
    return row


def median_seconds(call: Callable[[], object], repeats: int) -> float:
    """Median seconds of a call until the device has finished, after one call that is not
    counted.
    """
    seconds = []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        call()
        if ON_GPU:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begun)
    return float(np.median(seconds[1:]))


def runs(args: argparse.Namespace) -> Iterator[dict]:
    """Yield a row per synthetic slide and provider."""
    for folder in draw_slides(args):
        for turn, provider in enumerate(args.providers):
            results = args.work / "results" / f"{folder.name}-{provider}-{turn}"
            command = [
                "-m",
                "muse_pipeline.cli.main",
                "run",
                folder / "demo.svs",
                "-o",
                results,
                "--no-viewer",
            ]
            begun = time.monotonic()
            call([sys.executable, *command, "--model", "compact-fp32", "--provider", provider])
            seconds = time.monotonic() - begun
            (nuclei,) = results.glob("*/nuclei.parquet")
            ledgers = {
                path.stem: json.loads(path.read_text())
                for path in nuclei.parent.glob("ledger/*.json")
            }
            mm2 = tissue_mm2(results)
            row = {
                "slide": folder.name,
                "provider": provider,
                "mm2": mm2,
                "seconds": seconds,
                "s/mm2": seconds / mm2,
            }
            row["nuclei"] = read_provenance(nuclei).n_nuclei
            row["steps, s"] = {
                name: rounded(float(ledger["seconds"])) for name, ledger in ledgers.items()
            }
            truth = folder / "truth.csv"
            yield row | (
                evaluate(nuclei, truth, args.work / "scores.json") if truth.is_file() else {}
            )


def draw_slides(args: argparse.Namespace) -> tuple[Path, Path]:
    """The folders of a drawn slide and of its copies side by side, which are written unless
    they exist.
    """
    slides = args.work / "slides"
    draw = [
        ROOT / "benchmarks/draw_slides.py",
        slides,
        "--areas-mm2",
        args.mm2,
        "--repeat-px",
        args.glass_px,
    ]
    if not slides.is_dir():
        call([sys.executable, *draw, "--threads", CORES])
    return slides / f"{args.mm2:g}mm2", slides / f"{args.mm2:g}mm2-repeated"


def tissue_mm2(results: Path) -> float:
    """Area of tissue of all slides, from the table of the cohort."""
    with (results / "cohort.tsv").open(encoding="utf-8") as file:
        return sum(float(row["tissue_mm2"]) for row in csv.DictReader(file, delimiter="\t"))


def cohort(args: argparse.Namespace) -> Iterator[dict]:
    """Yield a row for one slide alone, which shows the memory that it needs, and one for all
    slides.
    """
    drawn, repeated = draw_slides(args)
    # Without a GPU, the slide of several fields, because smaller slides run in batches, without
    # jobs for detection.
    path = (drawn if ON_GPU else repeated) / "demo.svs"
    alone = run_cohort(args, path, 1, 1)
    yield alone
    at_once = int(0.9 * free_memory() / max(alone["GiB of a slide"], 0.1))
    yield run_cohort(args, path, 32 if ON_GPU else 3, min(max(at_once, 1), CORES))


def run_cohort(args: argparse.Namespace, path: Path, n_slides: int, at_once: int) -> dict:
    """Run the workflow on ``n_slides`` links to a slide, of which ``at_once`` use the device at
    the same time.
    """
    folder = args.work / f"cohort-{n_slides}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    lines = [f"slide-{number}\t{path.resolve()}" for number in range(1, n_slides + 1)]
    (folder / "slides.tsv").write_text("\n".join(["slide_id\tpath", *lines, ""]), encoding="utf-8")
    settings = {
        "slides": folder / "slides.tsv",
        "output": folder / "results",
        "model": "compact-fp32",
    }
    settings |= {"provider": TORCH_PROVIDER, "viewer": False}
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--snakefile",
        ROOT / "workflow/Snakefile",
        "--directory",
        folder,
    ]
    command += ["--cores", CORES, "--set-threads", f"detect={CORES // at_once}"]
    command += ["--resources", f"gpu={at_once}", "--set-resources", "detect:gpu=1"]
    before, lowest, ended = free_memory(), [free_memory()], threading.Event()

    def watch() -> None:
        while not ended.wait(0.1):
            lowest.append(free_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    begun = time.monotonic()
    try:
        call([*command, "--config", *(f"{name}={value}" for name, value in settings.items())])
    finally:
        ended.set()
        watcher.join()
    seconds, mm2 = time.monotonic() - begun, tissue_mm2(folder / "results")
    row = {
        "slides": n_slides,
        "slides that share the device": at_once,
        "mm2": mm2,
        "seconds": seconds,
    }
    return row | {"mm2/s": mm2 / seconds, "GiB of a slide": (before - min(lowest)) / at_once}


def free_memory() -> float:
    """GiB of free memory of the GPU or, without one, of the machine."""
    if ON_GPU:
        return torch.cuda.mem_get_info()[0] / 2**30
    return psutil.virtual_memory().available / 2**30


def evaluate(nuclei: Path, truth: Path, scores: Path) -> dict:
    """Nuclei, detection F1 and mean class F1 of ``muse evaluate``."""
    command = [
        "-m",
        "muse_pipeline.cli.main",
        "evaluate",
        nuclei,
        "--truth",
        truth,
        "--json",
        scores,
    ]
    call([sys.executable, *command, "--repeats", "10"])
    found = json.loads(scores.read_text())
    return {
        "nuclei": found["n_found"],
        "F1": found["detection"]["f1"],
        "mean class F1": found["mean_class"]["f1"],
    }


def call(command: list) -> None:
    """Run a command of this checkout; if it fails, the error contains its output."""
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: {(done.stdout + done.stderr)[-1500:]}")


def tests(args: argparse.Namespace) -> Iterator[dict]:
    """Run the tests, and yield pytest's last line and the failed tests."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "gpu_session",
        "tests/methods",
        "tests/training",
        "tests/losses",
    ]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": paths}
    command += [
        "-n",
        str(max(CORES - 2, 1)),
        "-p",
        "no:cacheprovider",
        *([] if ON_GPU else ["-k", "test_kill"]),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=env, check=False)
    lines = (done.stdout + done.stderr).strip().splitlines()
    failed = [line[:300] for line in lines if line.startswith(("FAILED", "ERROR"))]
    (args.work / "tests.log").write_text(done.stdout + done.stderr, encoding="utf-8")
    closing = next(
        (line for line in reversed(lines) if " passed" in line or " failed" in line), lines[-1]
    )
    yield {"closing line": closing, "failed": failed}


def pytest_collection_finish(session: object) -> None:
    """Move every training of the tests that requests the CPU to the GPU; pytest calls this hook."""
    from muse_pipeline.training import devices

    original = devices.open_fabric

    def open_fabric(accelerator: str, *rest: object, **named: object) -> object:
        return original("cuda" if accelerator == "cpu" and ON_GPU else accelerator, *rest, **named)

    for module in list(sys.modules.values()):
        if getattr(module, "open_fabric", None) is original:
            module.open_fabric = open_fabric


class OneBatch(MuseStage):
    """A stage with the same batch at every step, so that no step waits for data or cuts views."""

    finished: object = None

    def batches(self, data: object, device: torch.device) -> Callable[[int], object]:
        """A function that always returns the first batch."""
        first = super().batches(data, device)(0)
        return lambda _number: first

    def finish_batch(self, batch: object) -> object:
        """The batch of the first call."""
        if self.finished is None:
            self.finished = super().finish_batch(batch)
        return self.finished


def pretrain(
    args: argparse.Namespace,
    name: str,
    changes: list[str],
    loaders: int,
    stage: type[MuseStage] = MuseStage,
) -> tuple[dict, Path, list[float]]:
    """Pretrain on the tissue in ``args.data`` without site A7, and return a row, the checkpoint
    and the losses.
    """
    _, config = load_run(
        ROOT / "config/train/muse_pretrain.yaml",
        args.data,
        ["sources=[{images: brca-m2c/images, mpp: 0.5}]", *changes],
        only=MuseConfig,
    )
    config = unlabelled(config, args.data)
    folder, shared = args.work / name, args.work / INDEX
    if (
        shared.is_dir() and not (folder / INDEX).is_dir()
    ):  # the nuclei of the pictures are found only once
        shutil.copytree(shared, folder / INDEX)
    times, losses = [], []

    def progress(_done: int, _steps: int, loss: dict) -> None:
        times.append(time.perf_counter())
        losses.append(float(loss["loss"]))

    if ON_GPU:
        torch.cuda.reset_peak_memory_stats()
    begun = time.perf_counter()
    options = Options(accelerator=DEVICE, threads=CORES, loaders=loaders, progress=progress)
    checkpoint = stage(config, folder).run(options)
    if not shared.is_dir() and (folder / INDEX).is_dir():
        shutil.copytree(folder / INDEX, shared)
    steady = times[len(times) // 3 :]
    row = {
        "run": name,
        "batch": config.batch,
        "loaders": loaders,
        "seconds": time.perf_counter() - begun,
    }
    if len(steady) > 1:
        row["sets/s"] = (
            config.batch * config.schedule.log_every * (len(steady) - 1) / (steady[-1] - steady[0])
        )
    row["GiB"] = torch.cuda.max_memory_allocated() / 2**30 if ON_GPU else 0.0
    return row, checkpoint, losses


def unlabelled(config, data: Path):
    """The settings with all tissue in ``data`` as sources, except site A7, which is held out."""
    breast, *_ = config.sources
    more = [
        ("camelyon16-patches/normal", 0.25, "^([a-z]+_[0-9]+)"),
        ("camelyon16-patches/tumor", 0.25, "^([a-z]+_[0-9]+)"),
        ("oesophagus-tcga-unlabelled", 0.2485, None),
    ]
    added = [
        dataclasses.replace(breast, images=data / name, mpp=mpp, patient=patient)
        for name, mpp, patient in more
        if any((data / name).glob("*.*"))
    ]
    breast = dataclasses.replace(breast, exclude=(*breast.exclude, "TCGA-A7-"))
    return dataclasses.replace(config, sources=(breast, *added))


def steps(count: int) -> list[str]:
    """Settings of a run of ``count`` steps that logs every step."""
    return [f"schedule.steps={count}", "schedule.log_every=1", "schedule.save_every=1000000"]


def pretraining(args: argparse.Namespace) -> Iterator[dict]:
    """Yield a row for each backbone and batch size."""
    count = 40 if ON_GPU else 3
    for name, network, batches in (("vit_s_16", VIT, (64,)), ("compact_64", COMPACT, (64, 256))):
        for batch in batches if ON_GPU else (2,):
            settings = [*steps(count), f"batch={batch}", *network]
            alone, _, _ = pretrain(args, f"{name}-{batch}-alone", settings, 0, OneBatch)
            loaded, _, _ = pretrain(args, f"{name}-{batch}", settings, LOADERS)
            waits = 1 - loaded["sets/s"] / alone["sets/s"]
            yield loaded | {
                "sets/s, one batch": alone["sets/s"],
                "share of time that the GPU waits": max(waits, 0.0),
            }


def precision(args: argparse.Namespace) -> Iterator[dict]:
    """Yield how far losses in bf16 are from those in fp32."""
    settings = [*steps(200 if ON_GPU else 4), f"batch={12 if ON_GPU else 2}"]
    _, _, half = pretrain(args, "bf16", settings, LOADERS)
    _, _, full = pretrain(args, "fp32", [*settings, "precision=32-true"], LOADERS)
    last = len(half) // 10 or 1
    means = {
        f"mean of the last {last}, {name}": float(np.mean(each[-last:]))
        for name, each in (("bf16", half), ("fp32", full))
    }
    yield {
        "steps": len(half),
        "mean difference": float(np.abs(np.subtract(half, full)).mean()),
        **means,
    }


def resume_settings() -> list[str]:
    """Settings of the run that is killed."""
    count = 80 if ON_GPU else 8
    return [
        f"schedule.steps={count}",
        "schedule.log_every=1",
        f"schedule.save_every={count // 4}",
        f"batch={12 if ON_GPU else 2}",
    ]


def resume(args: argparse.Namespace) -> Iterator[dict]:
    """Yield how far the weights of a killed and continued run are from those of an
    uninterrupted run.
    """
    _, whole, _ = pretrain(args, "whole", resume_settings(), 0)
    _, again, _ = pretrain(args, "again", resume_settings(), 0)
    command = [sys.executable, __file__, "victim", "--data", args.data, "--work", args.work]
    victim = subprocess.Popen(list(map(str, command)), env={**os.environ})
    point, checkpoint = args.work / "cut/resume.pt", args.work / "cut/checkpoint.pt"
    while victim.poll() is None and not point.is_file():
        time.sleep(0.02)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    was_killed = point.is_file() and not checkpoint.is_file()
    _, cut, _ = pretrain(args, "cut", resume_settings(), 0)
    weights = [load_checkpoint(path).backbone for path in (whole, again, cut)]

    def difference(first: dict, second: dict) -> float:
        return max(
            float((first[name].float() - second[name].float()).abs().max()) for name in first
        )

    yield {
        "killed": was_killed,
        "largest difference of a repeated run": difference(*weights[:2]),
        "largest difference of the resumed run": difference(weights[0], weights[2]),
    }


def processes(args: argparse.Namespace) -> Iterator[dict]:
    """Yield whether two processes on one GPU compute the same gradient as one process."""
    file = args.work / "rendezvous"
    file.unlink(missing_ok=True)
    for backend in ("gloo", "nccl") if ON_GPU else ("gloo",):
        try:
            torch.multiprocessing.spawn(
                share_step, (str(file.with_suffix(f".{backend}")), backend), nprocs=2
            )
            yield {"backend": backend, "gradient of two processes equals that of one": True}
        except Exception as error:  # NCCL needs a GPU for each process
            yield {"backend": backend, "error": str(error).strip().splitlines()[-1][:200]}


def share_step(rank: int, file: str, backend: str) -> None:
    """Compare the averaged gradient of gathered rows with that of all rows in one process."""
    torch.distributed.init_process_group(
        backend, init_method=f"file://{file}", rank=rank, world_size=2
    )
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(12, 8, generator=generator).to(DEVICE)
    weight = torch.randn(8, 4, generator=generator).to(DEVICE).requires_grad_()
    whole = torch.autograd.grad(
        torch.logsumexp((rows @ weight) @ (rows @ weight).T, 1).sum(), weight
    )[0]
    own = gather_rows(rows[:5] @ weight if rank == 0 else rows[5:] @ weight)
    torch.logsumexp(own @ own.T, 1).sum().backward()
    average_gradients([weight])
    torch.testing.assert_close(weight.grad, whole)
    torch.distributed.destroy_process_group()


def long(args: argparse.Namespace) -> Iterator[dict]:
    """Yield the kNN score on held-out nuclei in the course of a pretraining of ViT-S/16."""
    batch = 128 if ON_GPU else 2
    rate, _, _ = pretrain(
        args, "rate", [*steps(30 if ON_GPU else 3), f"batch={batch}", *VIT], LOADERS
    )
    count = max(int(args.seconds * rate["sets/s"] / batch), 4)
    classes = {"1": "Lymphocyte", "2": "Epithelial", "3": "Stroma"}
    folder = args.data / "brca-m2c"
    held = PictureSource(
        folder / "labels",
        "row column class",
        images=folder / "images",
        mpp=0.5,
        class_map=classes,
        exclude=("TCGA-A8-", "TCGA-AC-"),
    )
    settings = [
        f"schedule.steps={count}",
        f"schedule.validate_every={max(count // 8, 1)}",
        "schedule.log_every=20",
        "schedule.save_every=1000000",
        f"batch={batch}",
        "distillation.momentum=0.99",
        "schedule.learning_rate=5e-4",
        *VIT,
    ]

    class Held(MuseStage):
        """A stage that is scored on the nuclei of site A7, including before the first step."""

        @property
        def _held(self):
            from muse_pipeline.methods.muse.validation import read_held

            return read_held((held,), self.config.middle_mpp)

        def monitors(self, data, method):
            monitors = super().monitors(data, method)
            score = next(each for each in monitors if hasattr(each, "score"))
            method.to(DEVICE)
            found.append({"step": 0, "held kNN": score.score()})
            return monitors

    found: list[dict] = []
    row, checkpoint, losses = pretrain(args, "long", settings, LOADERS, Held)
    yield from found
    log = [json.loads(line) for line in (args.work / "long/metrics.jsonl").read_text().splitlines()]
    yield from (
        {"step": each["step"] + 1, "held kNN": each["held kNN"]}
        for each in log
        if "held kNN" in each
    )
    yield row | {
        "steps": count,
        "first loss": losses[0],
        "last loss": losses[-1],
        "checkpoint": checkpoint.name,
    }


SECTIONS: dict[str, Callable[[argparse.Namespace], Iterator[dict]]] = {
    "machine": machine,
    "runs": runs,
    "cohort": cohort,
    "pretraining": pretraining,
    "long": long,
    "forward": forward,
    "tests": tests,
    "precision": precision,
    "resume": resume,
    "processes": processes,
}

if __name__ == "__main__":
    main()

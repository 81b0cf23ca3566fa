"""Regions of real tissue from labels of images, compared with controls: fields composed of
CAMELYON16 patches.

    python -m experiments.mil_mosaics.run --data DATA    # trains what is not recorded
    python -m experiments.mil_mosaics.run --table        # prints the tables

DATA/camelyon16-patches/ has the patches normal/<slide>_<x>_<y>.png and tumor/<slide>_<x>_<y>.png of
256 px at 0.243 um/px. The stains of every slide are mapped to one reference, because the two
classes come from different slides. Rotated and mirrored patches are laid side by side into images
of 160 px and fields of 2 mm at 1 um/px, in which smooth areas are tumour. Training uses only a
label per image. The true areas score 24 fields, composed of patches that no training image
contains.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.nn import functional

from experiments.common.runs import run_arms, runs_of
from muse_pipeline.core.pictures import list_pictures, read_rgb, write_png
from muse_pipeline.evaluation.bootstrap import area_under_curve, percentile_interval, resample_sums
from muse_pipeline.export.region_models import load_region_model
from muse_pipeline.inference.card import ColourReference, NucleusClass
from muse_pipeline.labels.tissue import TissueSource
from muse_pipeline.methods.mil.config import (
    MilConfig,
    NetworkSettings,
    StageConfig,
    StudentSettings,
)
from muse_pipeline.methods.mil.data import read_region_data
from muse_pipeline.methods.mil.method import EXPONENT
from muse_pipeline.models.region import RegionNetwork
from muse_pipeline.tissue.stain import MacenkoFit, fit_macenko, optical_density, stain_map
from muse_pipeline.training.method import AveragedNetwork, Schedule
from muse_pipeline.training.recipe import RECIPES, train_run
from muse_pipeline.training.run import Options

RUNS = runs_of(__file__)
PATCH_PX, IMAGE_PX, FIELD_PX, N_FIELDS, N_IMAGES = (
    62,
    160,
    2000,
    24,
    150,
)  # px of 1 um; N_IMAGES for each label
KINDS = ("normal", "tumor")
CLASSES = (NucleusClass("Normal", (150, 200, 150)), NucleusClass("Tumour", (200, 0, 0)))
REFERENCE = ColourReference(
    method="macenko", stains=((0.65, 0.70, 0.29), (0.07, 0.99, 0.11)), strong=(1.2, 0.8)
)
SPLITS = {
    "patches": "every second patch",
    "slides": "trained on tumor_001 and tumor_004, tested on tumor_064",
}
TITLES = {
    "student": "student with distillation and weighted cross-entropy",
    "teacher": "its teacher, Dice on image labels",
    "gm": "control: generalised means (GM-MIL)",
    "cam": "control: class activation map of an image classifier",
    "otsu": "control: Otsu's threshold on haematoxylin, on the side that labels tell",
}
STEPS, ROUND = 200, 100
SCHEDULE = Schedule(steps=STEPS, learning_rate=1e-3, save_every=STEPS, log_every=STEPS)
STUDENT = StudentSettings(rounds=3, schedule=dataclasses.replace(SCHEDULE, steps=ROUND))
LONG = dataclasses.replace(
    SCHEDULE, steps=STEPS + STUDENT.rounds * ROUND
)  # as long as teacher and student together
BATCH = 6


def run_arm(split: str, seed: int, args: argparse.Namespace) -> dict:
    """Scores of the maps of all networks that are trained on one split."""
    patches = read_patches(args.data / "camelyon16-patches", split)
    return run_split(split, seed, patches, args.work.resolve())


def read_patches(folder: Path, split: str) -> dict[str, list[list[np.ndarray]]]:
    """Patches at 1 um/px in reference stains: for "training" and "test", a list of normal and one
    of tumour patches.
    """
    paths = [(kind, path) for kind in KINDS for path in list_pictures(folder / kind)]
    slide_of = {path: path.name.rsplit("_", 2)[0] for _, path in paths}
    pixels = {path: read_rgb(path) for _, path in paths}
    fits = {
        slide: fit_macenko(
            np.concatenate(
                [pixels[path].reshape(-1, 3) for path in pixels if slide_of[path] == slide]
            )
        )
        for slide in set(slide_of.values())
    }
    found = {"training": [[], []], "test": [[], []]}
    for number, (kind, path) in enumerate(paths):
        is_test = number % 2 if split == "patches" else slide_of[path] == "tumor_064"
        patch = restain(pixels[path], map_stains(fits[slide_of[path]]))
        small = cv2.resize(patch, (PATCH_PX, PATCH_PX), interpolation=cv2.INTER_AREA)
        found["test" if is_test else "training"][KINDS.index(kind)].append(small)
    return found


def map_stains(fit: MacenkoFit) -> np.ndarray:
    """Colour map (3, 4) from the stains of a slide to those of ``REFERENCE``."""
    return stain_map(fit.stains, fit.strong, REFERENCE.stains, REFERENCE.strong)


def restain(pixels: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Pixels (h, w, 3) uint8 with a colour map (3, 4) in optical density applied."""
    density = optical_density(pixels.reshape(-1, 3)) @ colour[:, :3].T + colour[:, 3]
    return (
        np.clip(256 * np.exp(-density) - 1, 0, 255).round().astype(np.uint8).reshape(pixels.shape)
    )


def lay(patches: list[np.ndarray], side_px: int, rng: np.random.Generator) -> np.ndarray:
    """Picture (side_px, side_px, 3) uint8 of random patches, rotated and mirrored, on a grid with a
    random origin.
    """
    n = side_px // PATCH_PX + 2
    rows = []
    for _ in range(n):
        drawn = [np.rot90(patches[rng.integers(len(patches))], rng.integers(4)) for _ in range(n)]
        rows.append(
            np.concatenate([one[:, ::-1] if rng.random() < 0.5 else one for one in drawn], 1)
        )
    x, y = rng.integers(PATCH_PX, size=2)
    return np.concatenate(rows)[y : y + side_px, x : x + side_px]


def draw_area(side_px: int, share: float, rng: np.random.Generator) -> np.ndarray:
    """Mask (side_px, side_px) of smooth areas several hundred um wide, which cover the fraction
    ``share``.
    """
    small = rng.normal(size=(side_px // 20, side_px // 20)).astype(np.float32)
    field = cv2.resize(
        cv2.GaussianBlur(small, (0, 0), 6), (side_px, side_px), interpolation=cv2.INTER_CUBIC
    )
    return field > np.quantile(field, 1 - share)


def compose(
    patches: list[list[np.ndarray]], area: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """A picture with tumour inside ``area`` and normal tissue outside."""
    normal, tumour = (lay(of_kind, len(area), rng) for of_kind in patches)
    return np.where(area[..., None], tumour, normal)


def draw_images(folder: Path, patches: list[list[np.ndarray]], seed: int) -> Path:
    """Write the training images into a folder per class, and return ``folder``."""
    rng = np.random.default_rng(seed)
    for label, one in enumerate(CLASSES):
        (folder / one.name).mkdir(parents=True, exist_ok=True)
        for index in range(N_IMAGES):
            share = rng.uniform(0.2, 1) if label else 0.0
            area = (
                draw_area(IMAGE_PX, share, rng) if label else np.zeros((IMAGE_PX, IMAGE_PX), bool)
            )
            write_png(folder / one.name / f"{label}{index:03d}.png", compose(patches, area, rng))
    return folder


def run_split(
    split: str, seed: int, patches: dict[str, list[list[np.ndarray]]], work: Path
) -> dict:
    """Train every arm, and count the correct tumour pixels and the wrong pixels of every field."""
    folder = work / f"{split}-{seed}"
    images = draw_images(folder / "images", patches["training"], seed)
    networks = {
        "teacher": train(
            images, folder / "teacher", seed, "dice", SCHEDULE, StudentSettings(rounds=0)
        ),
        "student": train(images, folder / "student", seed, "dice", SCHEDULE, STUDENT),
        "gm": train(images, folder / "gm", seed, "gm", LONG, StudentSettings(rounds=0)),
        "cam": train_classifier(config(images, seed, "dice", LONG, StudentSettings(rounds=0))),
    }
    normal, tumour = (
        np.mean([haematoxylin(one) for one in of_kind]) for of_kind in patches["training"]
    )
    is_dark = tumour > normal
    maps = {name: map_fused for name in networks} | {"cam": map_activation}
    counts = {arm: [] for arm in TITLES}
    rng = np.random.default_rng(1000)  # the same fields for every seed
    for _ in range(N_FIELDS):
        area = draw_area(FIELD_PX, rng.uniform(0.15, 0.5), rng)
        field = compose(patches["test"], area, rng)
        found = {arm: maps[arm](network, field) >= 0.5 for arm, network in networks.items()}
        found["otsu"] = threshold_haematoxylin(field, is_dark)
        for arm, mask in found.items():
            counts[arm].append([int((mask & area).sum()), int((mask ^ area).sum())])
    auc = {
        arm: score_patches(maps[arm], network, patches["test"]) for arm, network in networks.items()
    }
    return {
        "counts": counts,
        "auc_of_patches": auc,
        "n_test_patches": [len(of_kind) for of_kind in patches["test"]],
    }


def config(
    images: Path, seed: int, teacher: str, schedule: Schedule, student: StudentSettings
) -> MilConfig:
    """The settings of an arm."""
    return MilConfig(
        name="mosaics",
        backbone="muse_compact_16",
        mpp=1.0,
        classes=CLASSES,
        sources=(TissueSource(folders=images, mpp=1.0),),
        schedule=schedule,
        licence="CC0-1.0",
        training_data="patches of CAMELYON16",
        teacher=teacher,
        student=student,
        colour="identity",
        window_px=IMAGE_PX,
        batch=BATCH,
        seed=100 * seed,
    )


def train(
    images: Path,
    folder: Path,
    seed: int,
    teacher: str,
    schedule: Schedule,
    student: StudentSettings,
) -> RegionNetwork:
    """The trained network of a run."""
    options = Options(accelerator="cpu", threads=1, log=print)
    before = folder.with_name("teacher")
    if (
        student.rounds and before.is_dir() and not folder.is_dir()
    ):  # the student's teacher is already trained
        shutil.copytree(before, folder)
        for name in ("checkpoint.pt", "config.yaml"):
            (folder / name).unlink(missing_ok=True)
    checkpoint = train_run(
        RECIPES["mil"](), config(images, seed, teacher, schedule, student), folder, options
    )
    return load_region_model(checkpoint)[0]


def train_classifier(config: MilConfig) -> RegionNetwork:
    """A classifier of images, with averaged weights; its logit is the mean of a linear layer on the
    last stage.
    """
    shared = {
        field.name: getattr(config, field.name) for field in dataclasses.fields(NetworkSettings)
    }
    windows = read_region_data(StageConfig(**shared)).make_windows(torch.device("cpu"))
    torch.manual_seed(config.seed)
    network = RegionNetwork(config.backbone, len(config.classes)).train()
    average, optimiser = (
        AveragedNetwork(network),
        torch.optim.AdamW(network.parameters(), config.schedule.learning_rate),
    )
    for step in range(config.schedule.steps):
        batch = windows(step)
        logits = network.side_logits(batch.pixels, batch.colour)[-1].mean((2, 3))
        loss = functional.binary_cross_entropy_with_logits(logits, batch.label)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        average.update(network)
    return average.network.eval()


@torch.no_grad()
def map_fused(network: RegionNetwork, picture: np.ndarray) -> np.ndarray:
    """The network's fused map (h, w) of a picture."""
    return in_pixels(network(*as_input(picture)).fused, picture)


@torch.no_grad()
def map_activation(network: RegionNetwork, picture: np.ndarray) -> np.ndarray:
    """Class activation map (h, w): the probability at each position; the logits average to the
    logit of the image.
    """
    return in_pixels(network.side_logits(*as_input(picture))[-1].sigmoid(), picture)


def as_input(picture: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """The network's inputs: pixels, padded by reflection to a multiple of 16, and the identity as
    colour map.
    """
    bottom, right = (-side % 16 for side in picture.shape[:2])
    padded = cv2.copyMakeBorder(picture, 0, bottom, 0, right, cv2.BORDER_REFLECT_101)
    return torch.from_numpy(padded).permute(2, 0, 1)[None].float(), torch.eye(3, 4)


def in_pixels(found: torch.Tensor, picture: np.ndarray) -> np.ndarray:
    """A map (1, 1, rows, columns) enlarged to the picture's pixels (h, w)."""
    height, width = picture.shape[:2]
    size = [-(-side // 16) * 16 for side in (width, height)]
    return cv2.resize(found[0, 0].numpy(), size, interpolation=cv2.INTER_LINEAR)[:height, :width]


def haematoxylin(picture: np.ndarray) -> np.ndarray:
    """Concentration (h, w) float32 of haematoxylin."""
    unmixed = optical_density(picture.reshape(-1, 3)) @ np.linalg.pinv(np.array(REFERENCE.stains))
    return unmixed[:, 0].reshape(picture.shape[:2]).astype(np.float32)


def threshold_haematoxylin(picture: np.ndarray, is_dark: bool) -> np.ndarray:
    """Mask (h, w) where haematoxylin, smoothed over 25 um, exceeds Otsu's threshold; its inverse
    unless ``is_dark``.
    """
    small = cv2.resize(haematoxylin(picture), None, fx=0.2, fy=0.2, interpolation=cv2.INTER_AREA)
    scaled = cv2.normalize(
        cv2.GaussianBlur(small, (0, 0), 5), None, 0, 255, cv2.NORM_MINMAX
    ).astype(np.uint8)
    mask = cv2.threshold(scaled, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)[1]
    return (cv2.resize(mask, picture.shape[1::-1], interpolation=cv2.INTER_NEAREST) > 0) == is_dark


def score_patches(map_of, network: RegionNetwork, patches: list[list[np.ndarray]]) -> float:
    """AUC of single patches, scored by the generalised mean of their maps."""
    score = [
        np.mean(map_of(network, one) ** EXPONENT) ** (1 / EXPONENT)
        for of_kind in patches
        for one in of_kind
    ]
    return area_under_curve(np.array(score), np.arange(len(score)) >= len(patches[0]))


def dice(counts: np.ndarray) -> np.ndarray:
    """Dice in percent from (..., 2) counts of correct tumour pixels and wrong pixels."""
    return 200 * counts[..., 0] / np.maximum(2 * counts[..., 0] + counts[..., 1], 1)


def render_tables(runs: list[dict]) -> str:
    """A table for each split."""
    return "\n\n".join(
        render_table(split, [run for run in runs if run["arm"] == split]) for split in SPLITS
    )


def render_table(split: str, runs: list[dict]) -> str:
    """The table of a split: mean Dice over fields and seeds, and the student's difference from
    every other arm.
    """
    by_arm = {
        arm: np.stack([dice(np.array(run["counts"][arm])) for run in runs], 1) for arm in TITLES
    }  # (fields, seeds)
    rows = [
        f"| {SPLITS[split]}; {len(runs)} seeds | Dice | the student's difference (95 %) |",
        "|---|---|---|",
    ]
    names = [str(index) for index in range(N_FIELDS)]
    for arm, title in TITLES.items():
        paired = (by_arm["student"] - by_arm[arm]).mean(1)
        low, high = percentile_interval(resample_sums(paired, names) / N_FIELDS, names)
        difference = "" if arm == "student" else f"{paired.mean():+.1f} ({low:+.1f} to {high:+.1f})"
        by_seed = ", ".join(f"{value:.1f}" for value in by_arm[arm].mean(0))
        value = f"{by_arm[arm].mean():.1f}" + ("" if arm == "otsu" else f" ({by_seed})")
        rows.append(f"| {title} | {value} | {difference} |")
    return "\n".join(rows)


if __name__ == "__main__":
    run_arms(__doc__, RUNS, SPLITS, run_arm, render_tables, reads_data=True)

"""Mask-tissue translation on synthetic tissue, trained without its known nuclei.

    python -m experiments.unit_toy.run  # trains and scores what is not recorded
    python -m experiments.unit_toy.run --table                # prints the table

Tissue is rendered from synthesised masks, with two stains, varying cytoplasm and chromatin, blur
and noise. The first stage of `method: unit` trains without labels. Its reader is scored on 32
further synthetic pictures, by its instance head and by the masks that it predicts. The controls
lack one part each. A run takes some minutes on one core; a stopped run continues.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import torch

from experiments.common.runs import run_arms, runs_of
from muse_pipeline.core.pictures import write_png
from muse_pipeline.data.augment import Augmentation
from muse_pipeline.data.unlabelled import UnlabelledSource
from muse_pipeline.evaluation.detection import match_points
from muse_pipeline.methods.unit.config import (
    DiscriminatorSettings,
    GeneratorSettings,
    LossWeights,
    ReaderSettings,
    UnitConfig,
    stage_config,
)
from muse_pipeline.methods.unit.data import SynthesisStage, UnitData
from muse_pipeline.methods.unit.method import UnitTraining
from muse_pipeline.methods.unit.run import UnitStage
from muse_pipeline.methods.unit.synthesis_masks import (
    EPITHELIAL,
    InstanceMask,
    TissueSettings,
    synthesise_mask,
)
from muse_pipeline.methods.unit.translation import MaskReader
from muse_pipeline.models.detector import DetectionGraph
from muse_pipeline.nuclei.masks import label_image_to_nuclei
from muse_pipeline.training.checkpoint import load_checkpoint, load_detector_weights
from muse_pipeline.training.method import Schedule
from muse_pipeline.training.run import Options

RUNS = runs_of(__file__)
STEPS = 300
MPP, RADIUS_UM = 0.5, 3.0
TRAINED, TRAINED_PX, SCORED, SCORED_PX = 300, 160, 32, 128
THRESHOLDS, DEFAULT = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6), 0.2
HAEMATOXYLIN, EOSIN = np.array([0.65, 0.70, 0.29]), np.array([0.10, 0.75, 0.35])
MIN_PX = 6  # smallest area of a component of a predicted mask
PLAIN = Augmentation(
    stain_gain=0, stain_mix=0, shift=0, blur=0, noise=0
)  # all pictures have the same stain
ARMS = {
    "whole": "all parts",
    "no-guide": "without the instance guide",
    "no-cycle": "without the cycle",
    "untrained": "with an untrained generator",
}


class UntrainedGenerator(UnitStage):
    """A stage whose generator keeps its random weights."""

    def build(self, data: UnitData) -> UnitTraining:
        """The method of ``UnitStage`` with a frozen generator."""
        method = super().build(data)
        method.generator.requires_grad_(False)
        return method


def run_arm(arm: str, seed: int, steps: int, runs: Path) -> dict:
    """Train one arm and score its reader."""
    tissue = draw_training_tissue(runs / "tissue")
    config = arm_config(arm, seed, steps, tissue)
    options = Options(accelerator="cpu", log=print, progress=lambda *done: print(*done, flush=True))
    masks = SynthesisStage(config, runs / f"masks-{seed}").run(options)
    kind = UntrainedGenerator if arm == "untrained" else UnitStage
    checkpoint = kind(stage_config(config, masks, None), runs / f"{arm}-{seed}").run(options)
    return {"steps": steps, **score(load_reader(checkpoint, config))}


def arm_config(arm: str, seed: int, steps: int, tissue: Path) -> UnitConfig:
    """The settings of an arm, with small networks and windows of 64 px."""
    weights = LossWeights()
    if arm == "no-guide":
        weights = dataclasses.replace(weights, instances=0.0)
    if arm == "no-cycle":
        weights = dataclasses.replace(weights, cycle=0.0)
    generator = GeneratorSettings(
        base=16,
        most=64,
        levels=4,
        noise_dim=32,
        style_dim=64,
        code_dim=64,
        mapping_layers=2,
        skip_stride=1,
        dropout=0,
    )
    return UnitConfig(
        name=f"toy-{arm}",
        sources=(UnlabelledSource(images=tissue, mpp=MPP),),
        schedule=Schedule(
            steps, learning_rate=1e-3, warmup=50 / 300, clip=10, save_every=50, log_every=10
        ),
        licence="CC0-1.0",
        training_data="drawn tissue",
        window_px=64,
        batch=8,
        n_masks=1000,
        mask_px=160,
        colour="identity",
        augmentation=PLAIN,
        calibrate=False,
        discriminator_rate=0.4,
        weights=weights,
        generator=generator,
        reader=ReaderSettings("muse_compact_16", 32, (48, 24)),
        pictures=DiscriminatorSettings((32, 64, 128)),
        mask_discriminator=DiscriminatorSettings((32, 64, 128)),
        seed=seed,
    )


def draw_training_tissue(folder: Path) -> Path:
    """Write the training pictures without their masks, and return ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(TRAINED):
        path = folder / f"{index:03}.png"
        if not path.is_file():
            mask = synthesise_mask(index, 1001, TRAINED_PX, MPP, TissueSettings())
            write_png(path, draw_tissue(mask, np.random.default_rng((1, index))))
    return folder


def draw_tissue(mask: InstanceMask, rng: np.random.Generator) -> np.ndarray:
    """Picture (h, w, 3) uint8 of nuclei with varying haematoxylin, more eosin around
    epithelium, texture and noise.
    """
    shape = mask.instances.shape

    def smooth(sigma: float) -> np.ndarray:
        noise = cv2.GaussianBlur(rng.standard_normal(shape).astype(np.float32), (0, 0), sigma)
        return noise / noise.std()

    inside = mask.instances > 0
    nucleus = (
        0.75 + rng.normal(0, 0.12, mask.instances.max() + 1)[mask.instances] + 0.10 * smooth(1.2)
    )
    epithelium = np.append(False, mask.kinds == EPITHELIAL)[mask.instances]
    around = np.minimum(3 * cv2.GaussianBlur(epithelium.astype(np.float32), (0, 0), 6), 1)
    haematoxylin = 0.08 + 0.03 * smooth(4) + inside * nucleus
    eosin = 0.35 + 0.08 * smooth(6) + 0.06 * smooth(1.5) + 0.25 * around
    stains = (
        cv2.GaussianBlur(one.astype(np.float32), (0, 0), 0.8)[..., None]
        for one in (haematoxylin, eosin)
    )
    density = sum(
        amount * stain for amount, stain in zip(stains, (HAEMATOXYLIN, EOSIN), strict=True)
    )
    pixels = 255 * np.exp(-density * rng.uniform(0.85, 1.15)) + rng.normal(0, 4, (*shape, 3))
    return pixels.clip(0, 255).astype(np.uint8)


def load_reader(checkpoint: Path, config: UnitConfig) -> MaskReader:
    """The trained reader with its translation head."""
    reader = MaskReader(config.reader.backbone, config.reader.n_rays, config.reader.widths)
    trained = load_checkpoint(checkpoint)
    load_detector_weights(reader.detector(), trained, checkpoint)
    reader.translation.load_state_dict(trained.networks["translation"])
    return reader.eval()


@torch.no_grad()
def score(reader: MaskReader) -> dict[str, float]:
    """Detection F1 in percent within 3 um, of the head at the best and the default threshold
    and of predicted masks.
    """
    masks = [
        synthesise_mask(index, 1002, SCORED_PX, MPP, TissueSettings()) for index in range(SCORED)
    ]
    truth = [label_image_to_nuclei(mask.instances, (MPP, MPP), 32).xy for mask in masks]
    pictures = [
        draw_tissue(mask, np.random.default_rng((2, index))) for index, mask in enumerate(masks)
    ]
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    colour, graph = torch.eye(3, 4), DetectionGraph(reader.detector(), min(THRESHOLDS), 600)
    xy, scores, *_ = (
        torch.cat(one).numpy()
        for one in zip(*(graph(part, colour) for part in pixels.split(8)), strict=True)
    )
    by_threshold = {
        threshold: detection_f1(
            [one[s >= threshold] for one, s in zip(xy, scores, strict=True)], truth
        )
        for threshold in THRESHOLDS
    }
    best = max(by_threshold, key=by_threshold.__getitem__)
    read = np.concatenate([reader(part.float(), colour).mask.numpy() for part in pixels.split(8)])
    return {
        "head": by_threshold[best],
        "threshold": best,
        "head_at_default": by_threshold[DEFAULT],
        "masks": detection_f1([find_in_mask(one) for one in read], truth),
    }


def detection_f1(found: list[np.ndarray], truth: list[np.ndarray]) -> float:
    """Detection F1 in percent of positions (N, 2) px for each picture, in order of descending
    certainty.
    """
    matched = sum(
        int(
            (
                match_points(one * MPP, -np.arange(len(one), dtype=float), true * MPP, RADIUS_UM)
                >= 0
            ).sum()
        )
        for one, true in zip(found, truth, strict=True)
    )
    return round(200 * matched / sum(map(len, (*found, *truth))), 1)


def find_in_mask(mask: np.ndarray) -> np.ndarray:
    """Centres (N, 2) px of the filled areas, separated by contours, of a predicted mask (3, h,
    w) from -1 to 1.
    """
    inside = (mask[1:].max(0) > -0.5) & (mask[0] < 0)
    _, _, facts, centres = cv2.connectedComponentsWithStats(inside.astype(np.uint8), connectivity=4)
    return centres[1:][facts[1:, cv2.CC_STAT_AREA] >= MIN_PX] + 0.5


def render_table(runs: list[dict]) -> str:
    """The table of means over seeds, and of differences from the arm with all parts, paired by
    seed.
    """
    rows = [
        (
            "| | seeds | instance head, best threshold | change | instance head at 0.2 | change |"
            " read masks |"
        ),
        "|---|---|---|---|---|---|---|",
    ]
    whole = {run["seed"]: run for run in runs if run["arm"] == "whole"}
    for arm, title in ARMS.items():
        of_arm = [run for run in runs if run["arm"] == arm]
        if not of_arm:
            continue
        cells = []
        for name in ("head", "head_at_default"):
            is_untrained = (
                arm == "no-guide"
            )  # its predicted masks are compared with the head of "whole"
            change = [
                run["masks" if is_untrained else name] - whole[run["seed"]][name]
                for run in of_arm
                if run["seed"] in whole
            ]
            cells += [
                "not trained" if is_untrained else f"{np.mean([run[name] for run in of_arm]):.1f}"
            ]
            cells += ["" if arm == "whole" else f"{np.mean(change):+.1f}"]
        cells += [f"{np.mean([run['masks'] for run in of_arm]):.1f}"]
        rows.append(f"| {title} | {len(of_arm)} | {' | '.join(cells)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    cv2.setNumThreads(1)
    run_arms(
        __doc__,
        RUNS,
        ARMS,
        lambda arm, seed, args: run_arm(arm, seed, STEPS, args.work),
        render_table,
    )

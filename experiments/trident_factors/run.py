"""What an H&E backbone learns from a partner: three factors of synthetic pictures, predicted from
its features.

    python -m experiments.trident_factors.run  # trains what is not recorded, a minute or two each
    python -m experiments.trident_factors.run --table    # prints the table

A picture has three binary factors. A, the size of its nuclei, is plain in H&E and in the partner.
B, the number of fibres (few or many), is plain in H&E and absent from the partner. C shows as faint
green dots in H&E, no stronger than the noise that each view receives, and as the colour of the
partner. A linear probe predicts the factors from the image vectors of new pictures. A useful
partner adds C without losing B.

Weights and pictures were chosen on seeds 0 to 2, the number of steps on seeds 0, 3 and 4. These
factors are far fewer than those of tissue: with loss weights of 1, 25 and 1 and vectors of 16
dimensions, the backbone learned only one of B and C. The recorded runs of 500 steps are older, and
had a warm-up of 5 % of their steps.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from experiments.common.runs import run_arms, runs_of
from muse_pipeline.data.augment import Augmentation, seed_of_step, vary_colour, vary_sharpness
from muse_pipeline.data.partners import PairBatch, PairedSource, PartnerBatch, PartnerSource
from muse_pipeline.data.views import ViewBatch, Views, ViewSettings
from muse_pipeline.methods.trident.method import AlignmentSettings, TridentConfig
from muse_pipeline.methods.trident.run import TridentStage
from muse_pipeline.models import BACKBONES
from muse_pipeline.models.base import Backbone
from muse_pipeline.tissue.stain import ROUNDED_TEXTBOOK
from muse_pipeline.training.checkpoint import Checkpoint, load_checkpoint
from muse_pipeline.training.method import Method, Schedule
from muse_pipeline.training.run import Log, Options

RUNS = runs_of(__file__)
SIDE_PX, VIEW_PX, MPP, N_PICTURES, N_PROBED = 48, 32, 0.5, 2000, 1000
FACTORS = ("A", "B", "C")
MARGIN_PX, N_NUCLEI, RADII_PX = 6, 4, (2, 4)
N_FIBRES, FIBRE_PX, FIBRE_LEVELS = (2, 7), 14, 100
TINT = (-0.5, 1.0, -0.5)  # green
N_DOTS, DOT_PX, TINT_LEVELS, NOISE_LEVELS = (
    7,
    5,
    34.0,
    34.0,
)  # NOISE_LEVELS is the largest noise of a view
AUGMENTATION = Augmentation(
    stain_gain=0.1, stain_mix=0.02, shift=0.02, blur=0.0, noise=NOISE_LEVELS
)
WEIGHTS = {"hidden": 64, "width": 32, "invariance": 3.0, "variance": 50.0, "covariance": 1.0}
STEPS = 1500
ARMS = {  # number of branches, and how partners are paired
    "siamese": (1, "none"),
    "two": (2, "paired"),
    "three": (3, "paired"),
    "three-shuffled": (3, "shuffled"),
    "three-blank": (3, "blank"),
}
TITLES = {
    "siamese": "two H&E views (Siamese)",
    "two": "one H&E view and the partner (More From Less)",
    "three": "two H&E views and the partner (TriDeNT)",
    "three-shuffled": "likewise, partners of other pictures",
    "three-blank": "likewise, white partners",
}


def draw_pictures(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """H&E pictures and partners (n, S, S, 3) uint8, and their factors (n, 3) bool."""
    generator = np.random.default_rng(seed)
    factors = generator.integers(0, 2, (n, 3)).astype(bool)
    pairs = [draw_pair(*row, generator) for row in factors]
    he, partners = (np.stack(side) for side in zip(*pairs, strict=True))
    return he, partners, factors


def draw_pair(
    a: bool, b: bool, c: bool, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A picture and its partner, with random positions of nuclei, fibres and dots."""
    he = np.full((SIDE_PX, SIDE_PX, 3), (225, 175, 205), float)
    partner = np.full_like(he, (205, 185, 160) if c else (235, 235, 240))
    for x, y in generator.integers(MARGIN_PX, SIDE_PX - MARGIN_PX, (N_FIBRES[int(b)], 2)).tolist():
        draw_fibre(he, x, y, generator.uniform(0, 180))
    radius = RADII_PX[int(a)]
    for x, y in generator.integers(MARGIN_PX, SIDE_PX - MARGIN_PX, (N_NUCLEI, 2)).tolist():
        cv2.circle(he, (x, y), radius, (150, 115, 175), -1)
    cv2.circle(partner, (SIDE_PX // 2, SIDE_PX // 2), 4 * radius, (60, 70, 120), -1)
    tint = np.zeros((SIDE_PX, SIDE_PX))
    for x, y in generator.integers(MARGIN_PX, SIDE_PX - MARGIN_PX, (N_DOTS, 2)).tolist():
        cv2.circle(tint, (x, y), DOT_PX, TINT_LEVELS if c else 0.0, -1)
    he += (tint - tint.mean())[..., None] * np.array(TINT)
    return he.clip(0, 255).astype(np.uint8), partner.astype(np.uint8)


def draw_fibre(picture: np.ndarray, x: int, y: int, degrees: float) -> None:
    """Draw a straight fibre with its centre at ``x``, ``y``."""
    reach = FIBRE_PX / 2 * np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])
    ends = [
        tuple(np.round(np.array([x, y]) + sign * reach).astype(int).tolist()) for sign in (-1, 1)
    ]
    cv2.line(picture, *ends, (225, 175 - FIBRE_LEVELS, 205 - FIBRE_LEVELS), 2)


def make_config(branches: int, seed: int, steps: int, **alignment: float) -> TridentConfig:
    """The settings of a run; the path of its source is not used, as pictures are generated."""
    return TridentConfig(
        name="factors",
        backbone="muse_compact_16",
        sources=(PairedSource(images=Path("drawn"), partner=PartnerSource(images=Path("drawn"))),),
        schedule=Schedule(
            steps=steps,
            learning_rate=1e-2,
            warmup=0.1,
            weight_decay=0.01,
            clip=1e3,
            save_every=500,
            log_every=20,
        ),
        alignment=AlignmentSettings(branches=branches, **{**WEIGHTS, **alignment}),
        views=ViewSettings(global_px=VIEW_PX, mpp=(MPP, MPP), n_local=0),
        batch=64,
        seed=seed,
    )


class FactorData(NamedTuple):
    """Pictures and partners (N, S, S, 3) uint8.

    Attributes:
        he: H&E pictures.
        partners: partner of each picture; None if there are none.
    """

    he: Tensor
    partners: Tensor | None
    columns: tuple[str, ...] = ()


class FactorBatches:
    """Batches of random crops; the partner has the pose of the first view, without noise or changes
    of colour.

    Args:
        data: pictures and partners.
        config: settings of the run.
    """

    def __init__(self, data: FactorData, config: TridentConfig):
        self.data, self.config = data, config

    def __call__(self, number: int) -> PairBatch:
        """The batch of step ``number``."""
        generator = torch.Generator().manual_seed(seed_of_step(self.config.seed, number))
        chosen = torch.randint(len(self.data.he), (self.config.batch,), generator=generator)
        poses = [draw_poses(self.config.batch, generator) for _ in range(2)]
        pixels = torch.cat([cut_crops(self.data.he[chosen], pose) for pose in poses])
        pixels = vary_sharpness(pixels, MPP, AUGMENTATION, generator)
        colour = torch.eye(3, 4).repeat(len(pixels), 1, 1)
        views = Views(
            pixels, vary_colour(colour, torch.tensor(ROUNDED_TEXTBOOK), AUGMENTATION, generator)
        )
        none = torch.zeros(0)
        known = torch.full((self.config.batch,), self.data.partners is not None)
        partner = (
            none if self.data.partners is None else cut_crops(self.data.partners[chosen], poses[0])
        )
        return PairBatch(ViewBatch(views, None, *[none] * 4), PartnerBatch(partner, known, none))


def draw_poses(n: int, generator: torch.Generator) -> Tensor:
    """Poses (n, 5): row and column of a crop, and 0 or 1 for a vertical flip, a horizontal flip
    and a transposition.
    """
    corner = torch.randint(SIDE_PX - VIEW_PX + 1, (n, 2), generator=generator)
    return torch.cat([corner, torch.randint(2, (n, 3), generator=generator)], 1)


def cut_crops(pictures: Tensor, poses: Tensor) -> Tensor:
    """Crops (n, 3, V, V) float of pictures (n, S, S, 3)."""
    top, left, flip_up, flip_left, transpose = poses[:, :, None, None].unbind(1)
    i, j = torch.meshgrid(*[torch.arange(VIEW_PX)] * 2, indexing="ij")
    row, column = torch.where(transpose > 0, j, i), torch.where(transpose > 0, i, j)
    row, column = (
        torch.where(f > 0, VIEW_PX - 1 - at, at) for f, at in ((flip_up, row), (flip_left, column))
    )
    return (
        pictures[torch.arange(len(pictures))[:, None, None], top + row, left + column]
        .permute(0, 3, 1, 2)
        .float()
    )


class FactorStage(TridentStage):
    """TriDeNT on synthetic pictures.

    Args:
        config: settings from ``make_config``.
        folder: folder of the run.
        control: how partners are paired, as in ``ARMS``.
    """

    def __init__(self, config: TridentConfig, folder: Path, control: str):
        super().__init__(config, folder)
        self.control = control

    def read(self, log: Log) -> FactorData:
        """Generate the pictures and their partners."""
        he, partners, _ = map(torch.from_numpy, draw_pictures(N_PICTURES, self.config.seed))
        if self.control == "shuffled":
            partners = partners[
                torch.randperm(len(partners), generator=torch.Generator().manual_seed(0))
            ]
        if self.control == "blank":
            partners = torch.full_like(partners, 255)
        return FactorData(he, None if self.control == "none" else partners)

    def batches(self, data: FactorData, device: torch.device) -> FactorBatches:
        """Batches of crops of pictures and partners."""
        return FactorBatches(data, self.config)

    def describe(self, data: FactorData, log: Log) -> None:
        """Write nothing."""

    def checkpoint(self, data: FactorData, method: Method) -> Checkpoint:
        """A checkpoint of only the H&E backbone."""
        return Checkpoint(method.trained().state_dict(), {}, {})


@torch.no_grad()
def read_features(backbone: Backbone, pictures: np.ndarray) -> np.ndarray:
    """Image vectors (n, D) of pictures."""
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float()
    parts = [backbone(backbone.prepare(part, torch.eye(3, 4))).image for part in pixels.split(200)]
    return torch.cat(parts).double().numpy()


def probe_factors(backbone: Backbone, seed: int) -> dict[str, float]:
    """Accuracy by factor of a ridge classifier that is fitted to one half of new pictures and
    scored on the other.
    """
    he, _, factors = draw_pictures(2 * N_PROBED, 1000 + seed)
    generator = np.random.default_rng(seed)
    he = (he + generator.normal(0, NOISE_LEVELS / 2, he.shape)).clip(0, 255).astype(np.uint8)
    features = read_features(backbone.eval(), he)
    features = (features - features[:N_PROBED].mean(0)) / (features[:N_PROBED].std(0) + 1e-6)
    train, test = features[:N_PROBED], features[N_PROBED:]
    gram = train.T @ train + 10 * np.eye(train.shape[1])
    weights = np.linalg.solve(gram, train.T @ (2.0 * factors[:N_PROBED] - 1))
    hits = (test @ weights > 0) == factors[N_PROBED:]
    return dict(zip(FACTORS, hits.mean(0).round(4).tolist(), strict=True))


def run_arm(arm: str, seed: int, steps: int, folder: Path, **alignment: float) -> dict:
    """Train one arm and probe the backbone of its checkpoint."""
    branches, control = ARMS[arm]
    stage = FactorStage(make_config(branches, seed, steps, **alignment), folder, control)
    checkpoint = load_checkpoint(stage.run(Options(accelerator="cpu", threads=1)))
    backbone = BACKBONES["muse_compact_16"]()
    backbone.load_state_dict(checkpoint.backbone)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    gauges = {
        name: round(json.loads(lines[-1])[f"image_{name}"], 4) for name in ("std", "spread", "rank")
    }
    return {"steps": steps, **probe_factors(backbone, seed), **gauges}


def render_table(runs: list[dict]) -> str:
    """The table of accuracies of each factor by arm and number of steps: the mean over seeds,
    and each seed.
    """
    runs = sorted(runs, key=lambda run: run["seed"])
    rows = ["| aligned | steps | seeds | A | B | C |", "|---|---|---|---|---|---|"]
    for steps in sorted({run["steps"] for run in runs}):
        for arm, title in TITLES.items():
            if found := [run for run in runs if (run["arm"], run["steps"]) == (arm, steps)]:
                cells = [render_cell([run[factor] for run in found]) for factor in FACTORS]
                rows.append(f"| {title} | {steps:,} | {len(found)} | {' | '.join(cells)} |")
    return "\n".join(rows)


def render_cell(values: list[float]) -> str:
    """The mean, with the single values if they differ."""
    mean, single = f"{np.mean(values):.2f}", [f"{value:.2f}" for value in values]
    return f"{mean} ({', '.join(single)})" if set(single) != {mean} else mean


if __name__ == "__main__":
    run_arms(
        __doc__,
        RUNS,
        ARMS,
        lambda arm, seed, args: run_arm(arm, seed, STEPS, args.work / f"{arm}-{seed}"),
        render_table,
    )

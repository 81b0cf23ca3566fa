"""What an H&E backbone learns from a partner: three factors of drawn pictures, read from its features.

    python experiments/trident_factors.py            # trains what is missing: a JSON per run, about a minute each
    python experiments/trident_factors.py --table    # the table of docs/results.md, from these

A picture has three binary factors. A, the size of its nuclei, is plain in H&E and in the partner. B, the shape of the
marks between them (upright or diagonal crosses), is plain in H&E and not in the partner. C is the direction of fine
stripes that are fainter in H&E than the noise that each view receives, and the colour of the partner. A linear probe
reads the factors from the image vectors of new pictures. A useful partner adds C without the loss of B.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
import torch

from muse_pipeline.core.files import read_json
from muse_pipeline.data.augment import Augmentation
from muse_pipeline.data.nucleus_images import NucleusIndex, NucleusPicture
from muse_pipeline.data.partners import PairedSource, PartnerPicture, PartnerSource
from muse_pipeline.data.views import ViewSettings
from muse_pipeline.inference.card import ColourReference
from muse_pipeline.methods.trident.config import AlignmentSettings, TridentConfig
from muse_pipeline.methods.trident.data import PairedData
from muse_pipeline.methods.trident.run import TridentStage
from muse_pipeline.models import BACKBONES
from muse_pipeline.models.base import Backbone
from muse_pipeline.training.checkpoint import load_checkpoint
from muse_pipeline.training.run import Options, Say
from muse_pipeline.training.schedule import Schedule

RUNS = Path(__file__).parent / "trident_factors"
SIDE_PX, MPP, N_PICTURES, N_PROBED = 64, 0.5, 2000, 1000
FACTORS = ("A", "B", "C")
MARGIN_PX, N_NUCLEI, N_MARKS = 7, 5, 8
RADII_PX, MARK_PX, MARK_LEVELS = (3, 5), 7, 100
TINT = (-0.5, 1.0, -0.5)  # green
N_DOTS, DOT_PX, TINT_LEVELS, NOISE_LEVELS = 8, 5, 34.0, 34.0  # largest noise of a view
STEPS = 600
ARMS = {  # branches, and what is done to the partners
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


def draw_pair(a: bool, b: bool, c: bool, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A picture and its partner; where nuclei and marks lie is drawn."""
    he = np.full((SIDE_PX, SIDE_PX, 3), (225, 175, 205), float)
    partner = np.full_like(he, (205, 185, 160) if c else (235, 235, 240))
    for x, y in generator.integers(MARGIN_PX, SIDE_PX - MARGIN_PX, (N_MARKS, 2)).tolist():
        draw_mark(he, x, y, b)
    radius = RADII_PX[int(a)]
    for x, y in generator.integers(MARGIN_PX, SIDE_PX - MARGIN_PX, (N_NUCLEI, 2)).tolist():
        cv2.circle(he, (x, y), radius, (150, 115, 175), -1)
    cv2.circle(partner, (SIDE_PX // 2, SIDE_PX // 2), 4 * radius, (60, 70, 120), -1)
    tint = np.zeros((SIDE_PX, SIDE_PX))
    for x, y in generator.integers(MARGIN_PX, SIDE_PX - MARGIN_PX, (N_DOTS, 2)).tolist():
        cv2.circle(tint, (x, y), DOT_PX, TINT_LEVELS if c else 0.0, -1)
    he += (tint - tint.mean())[..., None] * np.array(TINT)
    return he.clip(0, 255).astype(np.uint8), partner.astype(np.uint8)


def draw_mark(picture: np.ndarray, x: int, y: int, is_diagonal: bool) -> None:
    """An upright or a diagonal cross of the same length."""
    r = MARK_PX
    if is_diagonal:
        r = round(r / 2**0.5)
        ends = [((x - r, y - r), (x + r, y + r)), ((x - r, y + r), (x + r, y - r))]
    else:
        ends = [((x - r, y), (x + r, y)), ((x, y - r), (x, y + r))]
    colour = (225, 175 - MARK_LEVELS, 205 - MARK_LEVELS)
    for one, other in ends:
        cv2.line(picture, one, other, colour, 2)


def make_config(branches: int, seed: int, steps: int, **alignment: float) -> TridentConfig:
    """The settings of a run; its one source is drawn, and the path in it is not read.

    Three factors are far fewer than the images of a cohort differ by. Weights of (1, 25, 1) in place of (25, 25, 1) let
    every dimension vary before the branches agree; with 25 all dimensions follow the first factor that is found.
    """
    alignment = {"hidden": 64, "width": 16, "invariance": 1.0, **alignment}
    return TridentConfig(
        name="factors",
        backbone="muse_compact_16",
        sources=(PairedSource(images=Path("drawn"), partner=PartnerSource(images=Path("drawn"))),),
        schedule=Schedule(steps=steps, learning_rate=1e-2, weight_decay=0.01, clip=1e3, save_every=steps, log_every=20),
        alignment=AlignmentSettings(branches=branches, **alignment),
        views=ViewSettings(global_px=48, mpp=(0.5, 0.66), n_local=0, min_matches=0, draws=1),
        augmentation=Augmentation(stain_gain=0.1, stain_mix=0.02, shift=0.02, blur=0.0, noise=NOISE_LEVELS),
        grey=0.0,
        batch=64,
        seed=seed,
    )


class FactorStage(TridentStage):
    """The method on drawn pictures.

    Args:
        config: see ``make_config``.
        folder: of the run.
        control: what is done to the partners, see ``ARMS``.
    """

    def __init__(self, config: TridentConfig, folder: Path, control: str):
        super().__init__(config, folder)
        self.control = control

    def open_data(self, say: Say) -> PairedData:
        """The drawn pictures, in which views lie around a few places."""
        he, partners, _ = draw_pictures(N_PICTURES, self.config.seed)
        if self.control == "shuffled":
            partners = np.random.default_rng(0).permutation(partners)
        if self.control == "blank":
            partners = np.full_like(partners, 255)
        places = np.stack(np.meshgrid([16.0, 32.0, 48.0], [16.0, 32.0, 48.0]), -1).reshape(-1, 2)
        index = NucleusIndex.build(places, (SIDE_PX, SIDE_PX), MPP)
        images = [
            NucleusPicture(f"P{i}", f"P{i}", MPP, (SIDE_PX, SIDE_PX), None, 1.0, pixels, index)
            for i, pixels in enumerate(he)
        ]
        colours = np.tile(np.eye(3, 4), (len(images), 1, 1))
        found = [None if self.control == "none" else PartnerPicture(pixels) for pixels in partners]
        sources = list(self.config.sources) * len(images)
        return PairedData(images, colours, ColourReference(method="identity"), sources, found)


@torch.no_grad()
def read_features(backbone: Backbone, pictures: np.ndarray) -> np.ndarray:
    """(n, D) image vectors."""
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float()
    parts = [backbone(backbone.prepare(part, torch.eye(3, 4))).image for part in pixels.split(200)]
    return torch.cat(parts).double().numpy()


def probe_factors(backbone: Backbone, seed: int) -> dict[str, float]:
    """Accuracy of a ridge classifier on new pictures, by factor; half of them train it."""
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
    gauges = {name: round(json.loads(lines[-1])[f"image_{name}"], 4) for name in ("std", "spread", "rank")}
    return {"arm": arm, "seed": seed, "steps": steps, **probe_factors(backbone, seed), **gauges}


def main() -> None:
    """Train and probe the runs that have no JSON yet, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--work", type=Path, default=Path("runs/trident_factors"), help="for runs (default: %(default)s)"
    )
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS, metavar="ARM")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--table", action="store_true", help="print the table of the runs that exist")
    args = parser.parse_args()
    if args.table:
        print(render_table())
        return
    torch.set_num_threads(1)
    for seed in args.seeds:
        for arm in args.arms:
            result = RUNS / f"{arm}-{seed}.json"
            if not result.is_file():
                facts = run_arm(arm, seed, STEPS, args.work / f"{arm}-{seed}")
                result.write_text(json.dumps(facts) + "\n", encoding="utf-8")
                print(result, flush=True)


def render_table() -> str:
    """Mean accuracy of each factor over seeds, and each seed."""
    runs = [read_json(path) for path in sorted(RUNS.glob("*.json"))]
    rows = ["| aligned | seeds | A | B | C |", "|---|---|---|---|---|"]
    for arm, title in TITLES.items():
        of_arm = [run for run in runs if run["arm"] == arm]
        if of_arm:
            cells = [render_cell([run[factor] for run in of_arm]) for factor in FACTORS]
            rows.append(f"| {title} | {len(of_arm)} | {' | '.join(cells)} |")
    return "\n".join(rows)


def render_cell(values: list[float]) -> str:
    """Mean and single values."""
    return f"{np.mean(values):.2f} ({', '.join(f'{value:.2f}' for value in values)})"


if __name__ == "__main__":
    main()

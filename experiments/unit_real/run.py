"""Nuclei of real tissue found without labels, by mask-tissue translation and by its controls.

    python -m experiments.unit_real.run --data DATA  # trains and scores what is not recorded
    python -m experiments.unit_real.run --table               # prints the table

`config/train/unit.yaml` trains on pixels of BRCA-M2C and CAMELYON16. The detector is scored on TNBC
(Institut Curie, 35 crops of 7 patients) and NuCLS (10 crops, each counted as a patient), on which
nothing was trained or chosen. All arms run on crops of 0.25 um/px with the threshold of their card.
A stopped training continues.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from experiments.common.crops import (
    MIN_PX,
    MPP,
    SNAP_UM,
    Find,
    aji,
    detection_f1,
    find_by_otsu,
    find_stains,
    mean_of_seeds,
    network_finder,
    score,
)
from experiments.common.runs import TOP, change_from, run_arms, runs_of
from muse_pipeline.export.onnx import export_onnx
from muse_pipeline.inference.card import ColourReference
from muse_pipeline.inference.model import find_model
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.inference.stains import colour_of_fit
from muse_pipeline.methods.psm.activation_map import ClusterSettings, MaskSettings, PseudoMasker
from muse_pipeline.methods.unit.config import LossWeights, UnitConfig, stage_config
from muse_pipeline.methods.unit.data import SynthesisStage, UnitData
from muse_pipeline.methods.unit.losses import paint_flat
from muse_pipeline.methods.unit.method import INSIDE, UnitTraining, build_reader
from muse_pipeline.methods.unit.monitors import TranslationAlarm
from muse_pipeline.methods.unit.run import UnitRecipe, UnitStage
from muse_pipeline.nuclei.masks import drop_small_labels
from muse_pipeline.proposals.otsu_mask import blend_stains, cut_mask, haematoxylin
from muse_pipeline.tissue.stain import fit_macenko
from muse_pipeline.training.checkpoint import load_checkpoint, load_detector_weights
from muse_pipeline.training.loop import Monitor
from muse_pipeline.training.recipe import load_run
from muse_pipeline.training.run import Options

RUNS = runs_of(__file__)
STRIDE_PX = 32  # sides of the reader's pictures are multiples of this
TRAINED = {
    "unit": "**UNIT** (`config/train/unit.yaml`)",
    "first": "its first stage alone",
    "snapped": "its outlines on the nearest edges, as those of `label_free`",
    "third": "a third of its steps",
    "no-guide": "a third, without the instance guide; nuclei of read masks",
    "painted": "control, a third: the same reader trained on flat painted masks, no GAN",
    "painted-whole": "control, all steps of the reader on flat painted masks, no GAN",
}
THIRD = ["schedule.steps=500", "second.steps=500"]
CHANGES = {  # settings that differ from config/train/unit.yaml
    "unit": [],
    "first": [],
    "snapped": [],
    "third": THIRD,
    "no-guide": [*THIRD, "weights.instances=0", "calibrate=false"],
    "painted": THIRD,
    "painted-whole": [],
}
UNTRAINED = {
    "colour": "k-means of colour, cut into nuclei",
    "otsu": "Otsu on haematoxylin, cut into nuclei",
    "label_free": "built-in `label_free`",
}
ARMS = TRAINED | UNTRAINED
ONE_THIRD = {
    arm for arm, title in TRAINED.items() if "third" in title
}  # shown only in the table of TNBC
REFERENCE = "label_free"  # arm from which differences are taken


def run_arm(arm: str, seed: int, args: argparse.Namespace) -> dict:
    """Scores of an arm, which is trained first if necessary."""
    return score(make_finder(arm, seed, args.data.resolve(), args.work), args.data)


def make_finder(arm: str, seed: int, data: Path, runs: Path) -> Find:
    """The finder of an arm; if the arm needs training, it is trained first, or its stopped
    training is resumed.
    """
    if arm == "colour":
        return find_by_colour
    if arm == "otsu":
        return find_by_otsu
    if arm == "label_free":
        return network_finder(Predictor(find_model("label_free")))
    _, config = load_run(TOP / "config/train/unit.yaml", data, [f"seed={seed}", *CHANGES[arm]])
    if arm in {"painted", "painted-whole"}:
        checkpoint = train_painted(config, runs / f"{arm}-{seed}")
    elif arm in {"first", "snapped"}:  # stages of the whole run
        checkpoint = train_unit(
            config, runs / f"unit-{seed}", until="translation" if arm == "first" else "reader"
        )
    else:
        checkpoint = train_unit(config, runs / f"{arm}-{seed}", until="reader")
    if arm == "no-guide":
        return mask_finder(checkpoint, config)
    model = checkpoint.with_name("model.onnx")
    export_onnx(checkpoint, model)
    predictor = Predictor(model)
    if arm == "snapped":
        predictor.card = dataclasses.replace(predictor.card, snap_um=SNAP_UM)
    return network_finder(predictor)


def train_unit(config: UnitConfig, folder: Path, until: str) -> Path:
    """Run the stages up to ``until`` as `muse train` does, and return its checkpoint."""
    stages = UnitRecipe().stages(config, folder)
    names = [stage.name for stage in stages]
    for stage in stages[: names.index(until) + 1]:
        checkpoint = stage.run(_options())
    return checkpoint


class Painter(nn.Module):
    """A replacement for the generator, which paints masks in two flat colours of the tissue.

    Args:
        palette: colours (2, 3) of nuclei and background, 0 to 255.
    """

    noise_dim = 1

    def __init__(self, palette: np.ndarray):
        super().__init__()
        self.register_buffer("palette", torch.from_numpy(palette))
        self.unused = nn.Parameter(torch.zeros(()))

    def forward(self, mask: Tensor, noise: Tensor, grain: Tensor) -> Tensor:
        """Pictures (B, 3, H, W), 0 to 255, of masks (B, 3, H, W)."""
        return paint_flat(mask, *self.palette) + self.unused


class PaintedStage(UnitStage):
    """Training of only the reader, on painted masks."""

    def build(self, data: UnitData) -> UnitTraining:
        """The method of ``UnitStage`` with a ``Painter`` as generator."""
        method = super().build(data)
        method.generator = Painter(data.palette)
        return method

    def monitors(self, data: UnitData, method: UnitTraining) -> list[Monitor]:
        """The monitors without the alarm for collapsed translation, as nothing is translated."""
        return [
            one for one in super().monitors(data, method) if not isinstance(one, TranslationAlarm)
        ]


def train_painted(config: UnitConfig, folder: Path) -> Path:
    """Train the reader on painted masks for the steps of the second stage, and return its
    checkpoint.
    """
    weights = LossWeights(picture_gan=0, mask_gan=0, cycle=0, instances=config.weights.instances)
    schedule = dataclasses.replace(config.schedule, **vars(config.second))
    settings = {**vars(config), "weights": weights, "schedule": schedule}
    masks = SynthesisStage(config, folder / "masks").run(_options())
    return PaintedStage(stage_config(UnitConfig(**settings), masks, None), folder / "reader").run(
        _options()
    )


def _options() -> Options:
    return Options(accelerator="cpu", log=print, progress=lambda *done: print(*done, flush=True))


def find_by_colour(pixels: np.ndarray) -> np.ndarray:
    """Instances of the darkest of three clusters of colour, cut into nuclei."""
    clusters = ClusterSettings(features="colour", n_clusters=3, foreground="dark")
    mask = PseudoMasker(None, [pixels], MPP, find_stains(pixels), MaskSettings(clusters=clusters))
    return cut_mask(mask(pixels), haematoxylin(pixels, blend_stains(find_stains(pixels))), MPP)


def mask_finder(checkpoint: Path, config: UnitConfig) -> Find:
    """A finder of nuclei as the filled areas, separated by contours, of the masks that the
    reader predicts.
    """
    reader = build_reader(config).eval()
    trained = load_checkpoint(checkpoint)
    load_detector_weights(reader.detector(), trained, checkpoint)
    reader.translation.load_state_dict(trained.networks["translation"])
    reference = ColourReference(**trained.meta["colour"])

    @torch.no_grad()
    def find(pixels: np.ndarray) -> np.ndarray:
        height, width = (
            round(side * MPP / config.mpp) // STRIDE_PX * STRIDE_PX for side in pixels.shape[:2]
        )
        resized = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
        colour = torch.from_numpy(colour_of_fit(reference, fit_macenko(pixels.reshape(-1, 3))))
        mask = (
            reader(torch.from_numpy(resized).permute(2, 0, 1)[None].float(), colour).mask[0].numpy()
        )
        inside = (mask[1:].max(0) > INSIDE) & (mask[0] < 0)
        _, labels = cv2.connectedComponents(inside.astype(np.uint8), connectivity=4)
        whole = cv2.resize(
            labels.astype(np.float32), pixels.shape[1::-1], interpolation=cv2.INTER_NEAREST
        )
        return drop_small_labels(whole.astype(np.int32), MIN_PX)

    return find


def render_tables(runs: list[dict]) -> str:
    """The tables of both sets: scores, and differences from ``REFERENCE`` with 95 % intervals,
    paired by patient.
    """
    return "\n\n".join(_render(name, runs) for name in ("TNBC", "NuCLS"))


def _render(name: str, runs: list[dict]) -> str:
    rows = [
        f"| {name} | seeds | detection F1 | AJI | change of F1 (95 %) | change of AJI (95 %) |",
        "|---|---|---|---|---|---|",
    ]
    sums = {arm: mean_of_seeds([run for run in runs if run["arm"] == arm], name) for arm in ARMS}
    for arm, title in ARMS.items():
        if sums[arm] is None or (name == "NuCLS" and arm in ONE_THIRD):
            continue
        values, patients, n = sums[arm]
        cells = [f"{measure(values.sum(0)):.3f}" for measure in (detection_f1, aji)]
        changes = ["", ""]
        if arm != REFERENCE and sums[REFERENCE]:
            changes = [
                change_from(measure, sums[REFERENCE][0], values, patients)
                for measure in (detection_f1, aji)
            ]
        rows.append(
            f"| {title} | {n if arm in TRAINED else ''} | " + " | ".join((*cells, *changes)) + " |"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    cv2.setNumThreads(1)
    run_arms(__doc__, RUNS, ARMS, run_arm, render_tables, reads_data=True, seeds=(0,))

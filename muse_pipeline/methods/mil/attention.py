"""Selection of labelled tiles from labelled slides: attention MIL on bags of tiles, cross-validated
by patient.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from muse_pipeline.core.errors import LabelError
from muse_pipeline.core.files import read_json, sha256_of, write_json
from muse_pipeline.core.pictures import spread_evenly, write_png
from muse_pipeline.data.augment import seed_of_step
from muse_pipeline.evaluation.bootstrap import area_interval, area_under_curve
from muse_pipeline.methods.mil.bags import Bag, BagsStage, open_bags, open_slide_store
from muse_pipeline.methods.mil.config import MilConfig
from muse_pipeline.training.checkpoint import Checkpoint, load_checkpoint
from muse_pipeline.training.method import Losses, Method, Schedule
from muse_pipeline.training.recipe import MADE_FROM, PreparedStage, StageList, TrainingStage
from muse_pipeline.training.run import Inputs, Log


class BagOutput(NamedTuple):
    """Output of a model for a slide with N tiles; the K classes are all but the first."""

    logit: Tensor  # (K,) logits of the slide
    attention: Tensor  # (N, K) attention, which sums to 1 over the tiles
    tile_logit: Tensor  # (N, K) logits of the individual tiles


class GatedAttention(nn.Module):
    """Classifies a slide by D features of its tiles, with separate attention for each of K classes
    after the first.
    """

    def __init__(self, n_features: int, n_classes: int, hidden: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("deviation", torch.ones(n_features))
        self.embed = nn.Sequential(nn.Linear(n_features, 2 * hidden), nn.ReLU())
        self.value = nn.Linear(2 * hidden, hidden)
        self.gate = nn.Linear(2 * hidden, hidden)
        self.attend = nn.Linear(hidden, n_classes)
        self.classify = nn.Linear(2 * hidden, n_classes)

    def forward(self, features: Tensor) -> BagOutput:
        """Classify a slide by the features (N, D) of its tiles."""
        embedded = self.embed((features - self.mean) / self.deviation)
        scores = self.attend(torch.tanh(self.value(embedded)) * torch.sigmoid(self.gate(embedded)))
        # A slide's logit is the attention-weighted mean of its tiles' logits, so the latter
        # classify single tiles.
        attention = torch.softmax(scores, 0)
        tile_logit = self.classify(embedded)
        return BagOutput((attention * tile_logit).sum(0), attention, tile_logit)


KIND, NETWORK = "slide attention", "attention"
TRAINING, VALIDATION, LABELS = "training", "validation", "labels.tsv"
SCORES_OF_SLIDES = "slides.json"
CHANCE = 0.5  # AUC of a constant score


def add_slide_stages(stages: StageList, config: MilConfig) -> Path | None:
    """Add stages for bags, the model of each fold, and the choice of tiles, and return the folder
    of tiles; None without slide labels.
    """
    labels = config.slide_labels
    if labels is None:
        return None
    bags = stages.add(BagsStage, "bags", config)
    models = []
    for fold in range(labels.folds):
        settings = AttentionConfig(
            bags=bags,
            fold=fold,
            folds=labels.folds,
            classes=config.class_names,
            schedule=labels.schedule,
            batch=labels.bags,
            hidden=labels.hidden,
            seed=config.seed,
        )
        models.append(stages.add(AttentionStage, f"attention-{fold + 1}", settings))
    return stages.add(TilesStage, "tiles", config, bags, models)


class SlideAttention(Method):
    """Training with the cross-entropy between the slides' logits and labels."""

    def __init__(self, network: GatedAttention):
        super().__init__()
        self.network = network

    def losses(self, batch: list[tuple[Tensor, Tensor]], turn: str, progress: float) -> Losses:
        """Compute the loss on a batch of slides, each with features (N, D) and labels (K,)."""
        logits = torch.stack([self.network(features).logit for features, _ in batch])
        labels = torch.stack([label for _, label in batch])
        return {"loss": functional.binary_cross_entropy_with_logits(logits, labels)}

    def trained(self) -> GatedAttention:
        """The network."""
        return self.network


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """Settings of the model of one fold, most of them from ``config.SlideLabelSettings``."""

    bags: Path  # folder of the bags stage
    fold: int  # index of the held-out fold
    folds: int  # number of folds of patients
    classes: tuple[str, ...]  # names of the classes
    schedule: Schedule  # length and learning rate
    batch: int  # slides per step
    hidden: int  # width of the attention's hidden layer
    seed: int = 0  # seed of the weights and of the choice of slides
    precision: str = "32-true"  # "32-true"


class AttentionStage(TrainingStage[AttentionConfig, list[Bag]]):
    """Trains the model of a fold on the slides of all other folds."""

    def inputs(self) -> Inputs:
        """The checksum of the bags."""
        return Inputs(checksums={"bags": sha256_of(self.config.bags / MADE_FROM)})

    def read(self, log: Log) -> list[Bag]:
        """Open the bags of all other folds."""
        return [
            bag
            for bag in open_bags(self.config.bags, self.config.folds)
            if bag.fold != self.config.fold
        ]

    def build(self, data: list[Bag]) -> SlideAttention:
        """Build a network that standardises features by the mean and deviation of the training
        features.
        """
        config = self.config
        # About 256 tiles per slide, so that large slides do not dominate the mean and little is
        # read from disk.
        sample = np.concatenate(
            [bag.features()[:: max(1, len(bag.features()) // 256)] for bag in data]
        ).astype(np.float32)
        network = GatedAttention(sample.shape[1], len(config.classes) - 1, config.hidden)
        network.mean.copy_(torch.from_numpy(sample.mean(0)))
        network.deviation.copy_(torch.from_numpy(sample.std(0).clip(min=1e-3)))
        return SlideAttention(network)

    def batches(
        self, data: list[Bag], device: torch.device
    ) -> Callable[[int], list[tuple[Tensor, Tensor]]]:
        """Batches of random slides, in which all classes are equally probable."""
        labels = torch.tensor([bag.slide.label for bag in data])
        weights = 1.0 / torch.bincount(labels)[labels]

        def draw(step: int) -> list[tuple[Tensor, Tensor]]:
            generator = torch.Generator().manual_seed(seed_of_step(self.config.seed, step))
            chosen = torch.multinomial(
                weights, self.config.batch, replacement=True, generator=generator
            ).tolist()
            targets = (
                functional.one_hot(labels[chosen], len(self.config.classes))[:, 1:]
                .float()
                .to(device)
            )
            features = [
                torch.from_numpy(np.array(data[index].features())).to(device).float()
                for index in chosen
            ]
            return list(zip(features, targets, strict=True))

        return draw

    def checkpoint(self, data: list[Bag], method: SlideAttention) -> Checkpoint:
        """Checkpoint of the network."""
        config, network = self.config, method.trained()
        sizes = {
            "n_features": len(network.mean),
            "n_classes": len(config.classes) - 1,
            "hidden": config.hidden,
        }
        patients = sorted({bag.slide.patient for bag in data})
        meta = {
            "kind": KIND,
            "sizes": sizes,
            "patients": patients,
            "images": [bag.slide.slide_id for bag in data],
        }
        # A checkpoint must have backbone weights, so it gets a dummy; the network is stored under
        # its own name.
        return Checkpoint({"none": torch.zeros(1)}, {}, meta, {NETWORK: network.state_dict()})


@dataclass
class TilesStage(PreparedStage):
    """Writes, for each split, the tiles that show the slide labels, as images with a table of
    labels.

    ``models`` are the checkpoints of the folds.
    """

    config: MilConfig
    bags: Path
    models: Sequence[Path]
    folder: Path
    name: str = "tiles"

    def made_from(self) -> dict[str, Any]:
        """The bags, the models and the rule for choosing tiles."""
        settings = self.config.slide_labels
        return {
            "bags": sha256_of(self.bags / MADE_FROM),
            "models": [load_checkpoint(path).weights_sha256() for path in self.models],
            "tiles_per_slide": settings.tiles_per_slide,
            "least_probability": settings.least_probability,
        }

    def write(self, folder: Path, log: Log) -> None:
        """Score each slide with the model that was not trained on it, choose its tiles and write
        them.
        """
        networks = []
        for checkpoint in map(load_checkpoint, self.models):
            networks.append(GatedAttention(**checkpoint.meta["sizes"]).eval())
            networks[-1].load_state_dict(checkpoint.networks[NETWORK])
        bags = open_bags(self.bags, len(networks))
        with torch.no_grad():
            outputs = [
                networks[bag.fold](torch.from_numpy(np.array(bag.features())).float())
                for bag in bags
            ]
        scores = score_slides(bags, outputs, self.config.class_names)
        write_json(folder / SCORES_OF_SLIDES, scores)
        log(describe_slide_scores(scores))
        for split in (TRAINING, VALIDATION):
            (folder / split / "images").mkdir(parents=True)
            rows = [["image", "label", "patient"]]
            for bag, output in zip(bags, outputs, strict=True):
                if (bag.fold == 0) == (split == VALIDATION):
                    rows += self._write_tiles(bag, output, folder / split / "images")
            if missing := set(self.config.class_names) - {row[1] for row in rows}:
                raise LabelError(
                    f"attention found no tile of {' and '.join(sorted(missing))} among the {split}"
                    f" slides (AUC of the slides {scores['auc']:.2f}); lower"
                    " `slide_labels.least_probability`, or add slides"
                )
            with (folder / split / LABELS).open("w", encoding="utf-8", newline="") as file:
                csv.writer(file, delimiter="\t", lineterminator="\n").writerows(rows)
            log(f"tiles: {len(rows) - 1} images for {split}")

    def _write_tiles(self, bag: Bag, output: BagOutput, folder: Path) -> list[list[str]]:
        settings = self.config.slide_labels
        side = self.config.window_px
        rows = []
        store = open_slide_store(settings, bag.slide.slide_id, self.config.mpp)
        chosen = choose_tiles(
            output, bag.slide.label, settings.tiles_per_slide, settings.least_probability
        )
        for x, y in bag.corners()[chosen].tolist():
            name = f"{bag.slide.slide_id}_x{x}_y{y}"
            write_png(folder / f"{name}.png", store.read((x, y), (side, side)))
            rows.append([name, self.config.class_names[bag.slide.label], bag.slide.patient])
        return rows


def choose_tiles(output: BagOutput, label: int, most: int, least_probability: float) -> np.ndarray:
    """Choose at most ``most`` tiles of a slide for training, and return their indices.

    The tiles with the highest attention, and a probability of the slide's class of at least
    ``least_probability``, are chosen or, for slides of the first class, evenly spread tiles.
    """
    n = len(output.attention)
    if label == 0:
        return np.array(spread_evenly(n, most), int)
    order = output.attention[:, label - 1].argsort(descending=True, stable=True)[:most]
    probability = output.tile_logit[:, label - 1].sigmoid()
    return order[probability[order] >= least_probability].numpy()


def score_slides(
    bags: Sequence[Bag], outputs: Sequence[BagOutput], classes: tuple[str, ...]
) -> dict[str, Any]:
    """Probabilities of held-out slides, the area under the ROC curve of each class, and the mean of
    these areas.
    """
    probability = torch.stack([output.logit.sigmoid() for output in outputs]).numpy().astype(float)
    labels = np.array([bag.slide.label for bag in bags])
    patients = [bag.slide.patient for bag in bags]
    by_class = {}
    for k, name in enumerate(classes[1:]):
        judged = probability[:, k], labels == k + 1
        interval = area_interval(*judged, patients)
        by_class[name] = {"auc": area_under_curve(*judged), "interval": interval}
    slides = {
        bag.slide.slide_id: {
            "label": classes[bag.slide.label],
            "fold": bag.fold,
            "probability": row.round(6).tolist(),
        }
        for bag, row in zip(bags, probability, strict=True)
    }
    return {
        "auc": float(np.mean([score["auc"] for score in by_class.values()])),
        "classes": by_class,
        "n_patients": len(set(patients)),
        "slides": slides,
    }


def describe_slide_scores(scores: dict[str, Any]) -> str:
    """Describe the AUC of each class in sentences, one per line."""
    sentences = []
    for name, score in scores["classes"].items():
        low, high = score["interval"]
        sentences.append(
            f"slides: AUC of {name} {score['auc']:.3f} ({low:.3f} to {high:.3f} over"
            f" {scores['n_patients']} patients), each slide scored by a model that was not trained"
            " on its patient"
        )
        if low <= CHANCE:
            sentences.append(
                f"{name} may be at chance level: with so few slides its attention map may be"
                " meaningless"
            )
    return "\n".join(sentences)


def slide_metrics(folder: Path | None) -> dict[str, float]:
    """AUC of slides for the card, keyed by class, read from the folder of a tiles stage; empty
    without a folder.
    """
    if folder is None:
        return {}
    scores = read_json(folder / SCORES_OF_SLIDES)["classes"]
    return {f"AUC of slides, {name}": round(score["auc"], 4) for name, score in scores.items()}

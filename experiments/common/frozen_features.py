"""Classification of nuclei from frozen features with few labels, and the table of arms with
different backbones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from experiments.common.runs import by_arm_and_seed
from muse_pipeline.evaluation.bootstrap import compare_scores
from muse_pipeline.inference.card import ColourReference
from muse_pipeline.inference.stains import colour_of_fit
from muse_pipeline.labels.labelled_image import LabelledImage
from muse_pipeline.labels.statistics import mean_stains
from muse_pipeline.methods.muse.validation import PointSet, classify_by_neighbours, point_features
from muse_pipeline.models import BACKBONES
from muse_pipeline.models.base import Backbone
from muse_pipeline.training.checkpoint import load_backbone

PROTOCOLS = ("kNN", "linear")
K, WINDOW_PX, N_LABELLED, N_DRAWS = 20, 224, 5, 5


def count_predictions(
    name: str,
    checkpoint: Path | None,
    known: Sequence[LabelledImage],
    judged: Sequence[LabelledImage],
    seed: int,
) -> dict:
    """Classify nuclei with the labels of ``N_LABELLED`` pictures, and count them by true and
    predicted class.

    Args:
        name: registered name of the backbone.
        checkpoint: weights of the backbone; random if None.
        known: pictures from which labelled ones are chosen at random, ``N_DRAWS`` times.
        judged: pictures whose nuclei are classified.
        seed: seed of random weights.

    Returns:
        ``patients``, P names, and ``counts``, (P, C * C) for each protocol, summed over the random
            choices.
    """
    n_classes = 1 + max(int(image.nuclei.label.max(initial=0)) for image in judged)
    backbone, reference = load_frozen(name, checkpoint, known, seed)
    (bank, labelled), (query, points) = (
        read_points(backbone, images, reference) for images in (known, judged)
    )
    mean, std = bank.mean(0), bank.std(0) + 1e-6
    bank, query, truth = (bank - mean) / std, (query - mean) / std, points.label.numpy()
    picture, counts = positions(labelled)[0], dict.fromkeys(PROTOCOLS, 0)
    for draw in range(N_DRAWS):
        chosen = np.isin(
            picture, np.random.default_rng(draw).choice(len(known), N_LABELLED, replace=False)
        )
        features, label = bank[chosen], labelled.label[chosen]
        predicted = {
            "kNN": classify_by_neighbours(features, label, query, n_classes, K),
            "linear": train_linear_probe(features, label, n_classes, seed=draw).classify(query)[-1],
        }
        for protocol, classes in predicted.items():
            patients, found = confusion_by_patient(
                truth, classes.numpy(), points.patient, n_classes
            )
            counts[protocol] = counts[protocol] + found
    return {
        "patients": list(patients),
        "counts": {
            protocol: found.reshape(len(patients), -1).tolist()
            for protocol, found in counts.items()
        },
    }


def load_frozen(
    name: str, checkpoint: Path | None, known: Sequence[LabelledImage], seed: int
) -> tuple[Backbone, ColourReference]:
    """A backbone with the weights of a checkpoint, or random ones if None; and the colours to
    normalise images to.
    """
    torch.manual_seed(seed)
    backbone = BACKBONES[name]()
    if checkpoint is None:
        return backbone, mean_stains([image.stain for image in known], "macenko")
    colour = load_backbone(backbone, checkpoint).meta["colour"]
    return backbone, ColourReference(
        colour["method"], tuple(map(tuple, colour["stains"])), tuple(colour["strong"])
    )


def positions(points: PointSet) -> tuple[np.ndarray, np.ndarray]:
    """(P,) index of the image of every point, and (P, 2) its position in that image in px."""
    images = [np.repeat(window.image, len(window.label)) for window in points.windows]
    xy = [window.xy + np.float32(window.origin) for window in points.windows]
    return np.concatenate([np.zeros(0, int), *images]), np.concatenate(
        [np.zeros((0, 2), np.float32), *xy]
    )


def read_points(
    backbone: Backbone, images: Sequence[LabelledImage], reference: ColourReference
) -> tuple[torch.Tensor, PointSet]:
    """Features (N, D) of the nuclei of ``images``, and the nuclei."""
    points = PointSet(
        images, np.stack([colour_of_fit(reference, image.stain) for image in images]), WINDOW_PX
    )
    return point_features(backbone, points, torch.device("cpu")), points


LINEAR_EPOCHS = 100
LINEAR_LEARNING_RATE = 0.01
MOMENTUM = 0.9
LINEAR_BATCH = 256
INITIAL_STD = 0.01


@dataclass(frozen=True)
class LinearProbe:
    """The linear layer after each of E epochs.

    Attributes:
        weight: (E, C, D) weights.
        bias: (E, C) biases.
    """

    weight: Tensor
    bias: Tensor

    def classify(self, features: Tensor) -> Tensor:
        """Class indices (E, M) of features (M, D)."""
        return torch.stack(
            [(features @ w.T + b).argmax(1) for w, b in zip(self.weight, self.bias, strict=True)]
        )


def train_linear_probe(
    features: Tensor, label: Tensor, n_classes: int, seed: int, epochs: int = LINEAR_EPOCHS
) -> LinearProbe:
    """Train a linear layer by SGD with momentum, shuffled batches of 256, and a learning rate that
    falls as a cosine.

    Args:
        features: (N, D) features; fewer than 256 are a single batch.
        label: (N,) class indices.
        n_classes: number of classes.
        seed: seed of the initial weights and of the order.
        epochs: number of epochs.
    """
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(features.shape[1], n_classes)
    nn.init.normal_(layer.weight, std=INITIAL_STD, generator=generator)
    nn.init.zeros_(layer.bias)
    optimiser = torch.optim.SGD(
        layer.parameters(), lr=LINEAR_LEARNING_RATE, momentum=MOMENTUM, weight_decay=0.0
    )
    batch = min(LINEAR_BATCH, len(features))
    weights, biases = [], []
    for epoch in range(epochs):
        optimiser.param_groups[0]["lr"] = (
            LINEAR_LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * epoch / epochs))
        )
        order = torch.randperm(len(features), generator=generator)
        for chosen in order[: len(order) // batch * batch].split(batch):
            loss = functional.cross_entropy(layer(features[chosen]), label[chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        weights.append(layer.weight.detach().clone())
        biases.append(layer.bias.detach().clone())
    return LinearProbe(torch.stack(weights), torch.stack(biases))


def confusion_by_patient(
    true: np.ndarray, predicted: np.ndarray, patient: Sequence[str], n_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sorted names of N patients, and (N, C, C) numbers of their nuclei by true and predicted
    class.
    """
    names, member = np.unique(np.asarray(patient, str), return_inverse=True)
    by_patient = np.zeros((len(names), n_classes, n_classes), int)
    np.add.at(by_patient, (member, true, predicted), 1)
    return names, by_patient


def macro_f1(counts: np.ndarray) -> np.ndarray:
    """Mean F1 (...) in % over classes and S seeds, from counts (..., S, C, C) by true and predicted
    class.
    """
    right = np.diagonal(counts, axis1=-2, axis2=-1)
    return 100 * (2 * right / np.maximum(counts.sum(-1) + counts.sum(-2), 1)).mean((-2, -1))


def render_arms(recorded: Sequence[dict], titles: Mapping[str, str], baseline: str) -> str:
    """F1 by arm, and its difference from the baseline with the same seeds, with an interval
    bootstrapped over patients.

    Args:
        recorded: recorded runs.
        titles: titles of the arms.
        baseline: name of the arm to compare with.
    """
    runs = by_arm_and_seed(recorded)
    header = ["backbone", "runs", *(f"{name} F1" for name in PROTOCOLS)]
    header += [f"{name}, less {baseline.capitalize()}" for name in PROTOCOLS]
    rows = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for arm, title in titles.items():
        seeds = sorted(seed for name, seed in runs if name == arm)
        if not seeds:
            continue
        cells = [
            f"{macro_f1(stack_counts(runs, arm, seeds, name).sum(0)):.1f}" for name in PROTOCOLS
        ]
        both = [seed for seed in seeds if (baseline, seed) in runs]
        cells += [
            compare(runs, arm, baseline, both, name) if both and arm != baseline else ""
            for name in PROTOCOLS
        ]
        rows.append(f"| {title} | {len(seeds)} | {' | '.join(cells)} |")
    return "\n".join(rows)


def stack_counts(runs: Mapping, arm: str, seeds: Sequence[int], protocol: str) -> np.ndarray:
    """Counts (P, S, C, C) of an arm's runs with S seeds; (P, 1, C, C) if the runs judge different
    patients.
    """
    counts = [np.array(runs[arm, seed]["counts"][protocol]) for seed in seeds]
    found = (
        np.concatenate(counts)[:, None]
        if _patients_differ(runs, arm, seeds)
        else np.stack(counts, 1)
    )
    n_classes = round(found.shape[-1] ** 0.5)
    return found.reshape(*found.shape[:2], n_classes, n_classes)


def compare(runs: Mapping, arm: str, baseline: str, seeds: Sequence[int], protocol: str) -> str:
    """Difference between an arm and the baseline, with its 95 % interval."""
    before, after = (stack_counts(runs, one, seeds, protocol) for one in (baseline, arm))
    patients = runs[arm, seeds[0]]["patients"]
    if _patients_differ(runs, arm, seeds):
        patients = [f"{seed} {name}" for seed in seeds for name in runs[arm, seed]["patients"]]
    found = compare_scores(before, after, patients, macro_f1)
    low, high = found["interval"]
    return f"{found['difference']:+.1f} ({low:+.1f} to {high:+.1f})"


def _patients_differ(runs: Mapping, arm: str, seeds: Sequence[int]) -> bool:
    return any(runs[arm, seed]["patients"] != runs[arm, seeds[0]]["patients"] for seed in seeds)

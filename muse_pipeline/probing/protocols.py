"""MUSE's three ways of reading classes from features: nearest neighbours, a linear layer, the whole network trained."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from muse_pipeline.core.errors import ConfigError
from muse_pipeline.data.labelled_points import BATCH, PointSet, point_features
from muse_pipeline.models.base import Backbone
from muse_pipeline.probing.network import SEED, ProbedNetwork
from muse_pipeline.training.knn import KS, classify_by_neighbours

KNN, BEST_KNN, LINEAR, FINETUNE = "kNN, k by validation", "kNN, best k on the test", "linear", "fine-tune"


@dataclass(frozen=True, eq=False)
class Prediction:
    """Predictions of a protocol for P nuclei.

    Attributes:
        predicted: (P,) class index, -1 where nothing is reported.
        chosen: "k" or "epoch", and the chosen value for each split.
    """

    predicted: np.ndarray
    chosen: dict[str, list[int]]


@dataclass(frozen=True, eq=False)
class ProbedFeatures:
    """A network's features of all nuclei.

    Attributes:
        backbone: the network, on ``device``.
        train: N points that are learnt from.
        judged: P points that are judged.
        bank: (N, D) features on the CPU.
        query: (P, D) features on the CPU.
        splits: splits of the judged points into those for choices and those that are reported.
        n_classes: C.
        device: device of the backbone.
    """

    backbone: Backbone
    train: PointSet
    judged: PointSet
    bank: Tensor
    query: Tensor
    splits: Sequence[ProbeSplit]
    n_classes: int
    device: torch.device

    @classmethod
    def read(
        cls,
        network: ProbedNetwork,
        train: PointSet,
        judged: PointSet,
        splits: Sequence[ProbeSplit],
        n_classes: int,
        device: torch.device,
    ) -> ProbedFeatures:
        """Take the network to the device and read all points."""
        backbone = network.backbone.to(device)
        bank, query = (point_features(backbone, points, device) for points in (train, judged))
        return cls(backbone, train, judged, bank, query, splits, n_classes, device)

    def learnt_from(self, patients: Collection[str]) -> ProbedFeatures:
        """The same with these patients' nuclei alone to learn from; no features are read again."""
        kept = torch.from_numpy(np.isin(self.train.patient, list(patients)))
        return replace(self, train=self.train.of_patients(patients), bank=self.bank[kept])

    def repeated(self, times: int) -> ProbedFeatures:
        """The same with the training points repeated, for as long a training on few labels as on many."""
        return replace(self, train=self.train.repeated(times), bank=self.bank.repeat(times, 1))

    @property
    def reported(self) -> np.ndarray:
        """(P,) bool, True for reported points."""
        return np.any([split.reported for split in self.splits], axis=0)

    @property
    def true(self) -> np.ndarray:
        """(P,) class index."""
        return self.judged.label.numpy()


def predict_by_neighbours(features: ProbedFeatures) -> dict[str, Prediction]:
    """Predict with k by validation, and with the k that is best on the reported points."""
    by_k = classify_by_neighbours(features.bank, features.train.label, features.query, features.n_classes).numpy()
    ks = [min(k, len(features.train)) for k in KS]
    predicted, chosen = choose(by_k, features.true, features.splits)
    best = (by_k[:, features.reported] == features.true[features.reported]).mean(1).argmax()
    return {
        KNN: Prediction(predicted, {"k": [ks[index] for index in chosen]}),
        BEST_KNN: Prediction(np.where(features.reported, by_k[best], -1), {"k": [ks[best]]}),
    }


def predict_linearly(features: ProbedFeatures) -> tuple[Prediction, LinearProbe]:
    """Predict with the best epoch by validation, of equals the last; returns the layer too."""
    linear = train_linear_probe(features.bank, features.train.label, features.n_classes, SEED)
    predicted, epochs = choose(linear.classify(features.query).numpy(), features.true, features.splits, last=True)
    return Prediction(predicted, {"epoch": [epoch + 1 for epoch in epochs]}), linear


def predict_finetuned(
    features: ProbedFeatures, linear: LinearProbe, begin: Prediction, learning_rate: float
) -> Prediction:
    """Predict after training a copy of the whole network, which begins with a linear probe's layer.

    Args:
        features: features of the frozen network.
        linear: the linear probe on them.
        begin: prediction of the linear probe.
        learning_rate: learning rate of the whole network.
    """
    # Of two halves neither may choose for the other what is trained but once.
    epoch = begin.chosen["epoch"][0] - 1 if len(features.splits) == 1 else -1
    by_epoch = finetune_on_points(
        copy.deepcopy(features.backbone),
        linear.layer(epoch).to(features.device),
        features.train,
        features.judged,
        features.device,
        learning_rate,
    )
    predicted, epochs = choose(by_epoch.numpy(), features.true, features.splits, last=True)
    return Prediction(predicted, {"epoch": [epoch + 1 for epoch in epochs]})


LINEAR_EPOCHS = 100
LINEAR_LEARNING_RATE = 0.01
MOMENTUM = 0.9
LINEAR_BATCH = 256
INITIAL_STD = 0.01


@dataclass(frozen=True)
class LinearProbe:
    """The layer after each of E epochs.

    Attributes:
        weight: (E, C, D).
        bias: (E, C).
    """

    weight: Tensor
    bias: Tensor

    def classify(self, features: Tensor) -> Tensor:
        """(M, D) raw features -> (E, M) class index."""
        return torch.stack([(features @ w.T + b).argmax(1) for w, b in zip(self.weight, self.bias, strict=True)])

    def layer(self, epoch: int) -> nn.Linear:
        """The layer after ``epoch`` (counted from 0; -1 is the last)."""
        layer = nn.Linear(self.weight.shape[2], self.weight.shape[1])
        layer.load_state_dict({"weight": self.weight[epoch], "bias": self.bias[epoch]})
        return layer


def train_linear_probe(
    features: Tensor, label: Tensor, n_classes: int, seed: int, epochs: int = LINEAR_EPOCHS
) -> LinearProbe:
    """SGD with momentum, learning rate along a cosine from 0.01 to 0 by epochs, shuffled whole batches of 256.

    Args:
        features: (N, D), raw. Fewer than 256 make one batch.
        label: (N,) class index.
        n_classes: C.
        seed: seed of the first weights and of the order.
        epochs: E.
    """
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(features.shape[1], n_classes)
    nn.init.normal_(layer.weight, std=INITIAL_STD, generator=generator)
    nn.init.zeros_(layer.bias)
    optimiser = torch.optim.SGD(layer.parameters(), lr=LINEAR_LEARNING_RATE, momentum=MOMENTUM, weight_decay=0.0)
    batch = min(LINEAR_BATCH, len(features))
    weights, biases = [], []
    for epoch in range(epochs):
        optimiser.param_groups[0]["lr"] = LINEAR_LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * epoch / epochs))
        order = torch.randperm(len(features), generator=generator)
        for chosen in order[: len(order) // batch * batch].split(batch):
            loss = functional.cross_entropy(layer(features[chosen]), label[chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        weights.append(layer.weight.detach().clone())
        biases.append(layer.bias.detach().clone())
    return LinearProbe(torch.stack(weights), torch.stack(biases))


FINETUNE_EPOCHS = 10
WINDOWS = 32
FINETUNE_LEARNING_RATE = 1e-5


def finetune_on_points(
    backbone: Backbone,
    layer: nn.Linear,
    train: PointSet,
    judged: PointSet,
    device: torch.device,
    learning_rate: float = FINETUNE_LEARNING_RATE,
) -> Tensor:
    """AdamW without weight decay, cosine to 0, cross-entropy over all nuclei of a batch, batch norm in train mode.

    Args:
        backbone: changed in place.
        layer: (D) -> (C) initial layer, that of the linear probe; changed in place.
        train: training points, not augmented; 32 windows make a batch.
        judged: points that are classified after every epoch.
        device: device of both networks.
        learning_rate: 1e-5; the authors advise 4e-5 for ResNet-50.

    Returns:
        (E, P) class index of each of the judged points after each of ``FINETUNE_EPOCHS``.
    """
    generator = torch.Generator().manual_seed(SEED)
    parameters = [*backbone.parameters(), *layer.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0)
    predictions = []
    for epoch in range(FINETUNE_EPOCHS):
        optimiser.param_groups[0]["lr"] = learning_rate * 0.5 * (1 + math.cos(math.pi * epoch / FINETUNE_EPOCHS))
        backbone.train()
        order = torch.randperm(len(train.windows), generator=generator).tolist()
        for batch in train.batches(WINDOWS, device, order):
            loss = functional.cross_entropy(layer(batch.features(backbone)), batch.label[batch.label >= 0])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        predictions.append(_classify(backbone, layer, judged, device))
    return torch.stack(predictions)


@torch.no_grad()
def _classify(backbone: Backbone, layer: nn.Linear, points: PointSet, device: torch.device) -> Tensor:
    backbone.eval()
    return torch.cat([layer(batch.features(backbone)).argmax(1).cpu() for batch in points.batches(BATCH, device)])


@dataclass(frozen=True, eq=False)
class ProbeSplit:
    """A split of P judged nuclei.

    Attributes:
        choosing: (P,) bool, True for nuclei that choose.
        reported: (P,) bool, True for nuclei that are reported.
    """

    choosing: np.ndarray
    reported: np.ndarray


def split_validation_and_test(n_validation: int, n_test: int) -> tuple[ProbeSplit, ...]:
    """Split into the validation, which stands first and chooses, and the test, which is reported."""
    is_test = np.arange(n_validation + n_test) >= n_validation
    return (ProbeSplit(~is_test, is_test),)


def split_halves(patient: np.ndarray) -> tuple[ProbeSplit, ProbeSplit]:
    """Split without a test: every second patient, by name. Choices of each half are reported on the other.

    Raises:
        ConfigError: there is only one patient.
    """
    names = np.unique(patient)
    if len(names) < 2:
        raise ConfigError(
            f"the validation pictures are all of patient '{names[0]}': one part must choose and another be reported; "
            "add patients, or give --test"
        )
    second = np.isin(patient, names[1::2])
    return ProbeSplit(second, ~second), ProbeSplit(~second, second)


def choose(
    candidates: np.ndarray, label: np.ndarray, splits: Sequence[ProbeSplit], last: bool = False
) -> tuple[np.ndarray, list[int]]:
    """For each split, apply the candidate of the best accuracy on the choosing nuclei to the reported ones.

    Args:
        candidates: (E, P) class index.
        label: (P,) true class index.
        splits: splits with disjoint reported nuclei.
        last: whether to take the last of equals, as for epochs, instead of the first, as for k.

    Returns:
        (P,) predictions, -1 where nothing is reported; the index of the candidate of each split.
    """
    predicted, chosen = np.full(len(label), -1), []
    for split in splits:
        right = (candidates[:, split.choosing] == label[split.choosing]).mean(1)
        best = len(right) - 1 - right[::-1].argmax() if last else right.argmax()
        predicted[split.reported] = candidates[best, split.reported]
        chosen.append(int(best))
    return predicted, chosen

"""MUSE's three ways of reading classes from features: nearest neighbours, a linear layer, the whole network trained."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from muse_pipeline.models.base import Backbone
from muse_pipeline.training.probing.finetune_probe import finetune_on_points
from muse_pipeline.training.probing.knn import KS, classify_by_neighbours
from muse_pipeline.training.probing.linear_probe import LinearProbe, train_linear_probe
from muse_pipeline.training.probing.network import SEED, ProbedNetwork
from muse_pipeline.training.probing.point_set import PointSet, point_features
from muse_pipeline.training.probing.splits import ProbeSplit, choose

KNN, BEST_KNN, LINEAR, FINETUNE = "kNN, k by validation", "kNN, best k on the test", "linear", "fine-tune"


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a protocol says of P judged nuclei.

    Attributes:
        predicted: (P,) class index, -1 where nothing is reported.
        chosen: "k" or "epoch", and for each split the one that was chosen.
    """

    predicted: np.ndarray
    chosen: dict[str, list[int]]


@dataclass(frozen=True, eq=False)
class ProbedFeatures:
    """A network's features of all nuclei.

    Attributes:
        backbone: on ``device``.
        train: N points that are learnt from.
        judged: P points.
        bank: (N, D) features on the CPU.
        query: (P, D) features on the CPU.
        splits: which of the judged choose and which are reported.
        n_classes: C.
        device: of the backbone.
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
        """The same with these patients' nuclei alone to learn from; nothing is read again."""
        kept = torch.from_numpy(np.isin(self.train.patient, list(patients)))
        return replace(self, train=self.train.of_patients(patients), bank=self.bank[kept])

    def repeated(self, times: int) -> ProbedFeatures:
        """The same with everything that is learnt from so often, for training as long on few labels as on many."""
        return replace(self, train=self.train.repeated(times), bank=self.bank.repeat(times, 1))

    @property
    def reported(self) -> np.ndarray:
        """(P,) bool."""
        return np.any([split.reported for split in self.splits], axis=0)

    @property
    def true(self) -> np.ndarray:
        """(P,) class index."""
        return self.judged.label.numpy()


def predict_by_neighbours(features: ProbedFeatures) -> dict[str, Prediction]:
    """With k by validation, and with the k that is best on what is reported."""
    by_k = classify_by_neighbours(features.bank, features.train.label, features.query, features.n_classes).numpy()
    ks = [min(k, len(features.train)) for k in KS]
    predicted, chosen = choose(by_k, features.true, features.splits)
    best = (by_k[:, features.reported] == features.true[features.reported]).mean(1).argmax()
    return {
        KNN: Prediction(predicted, {"k": [ks[index] for index in chosen]}),
        BEST_KNN: Prediction(np.where(features.reported, by_k[best], -1), {"k": [ks[best]]}),
    }


def predict_linearly(features: ProbedFeatures) -> tuple[Prediction, LinearProbe]:
    """With the best epoch by validation, of equals the last; the layer too."""
    linear = train_linear_probe(features.bank, features.train.label, features.n_classes, SEED)
    predicted, epochs = choose(linear.classify(features.query).numpy(), features.true, features.splits, last=True)
    return Prediction(predicted, {"epoch": [epoch + 1 for epoch in epochs]}), linear


def predict_finetuned(
    features: ProbedFeatures, linear: LinearProbe, begin: Prediction, learning_rate: float
) -> Prediction:
    """After training a copy of the whole network, which begins with a linear probe's layer.

    Args:
        features: of the frozen network.
        linear: the probe on them.
        begin: what it predicts.
        learning_rate: of the whole network.
    """
    # Of two halves neither may choose for the other what is trained but once.
    epoch = begin.chosen["epoch"][0] - 1 if len(features.splits) == 1 else -1
    by_epoch = finetune_on_points(
        copy.deepcopy(features.backbone),
        linear.layer(epoch).to(features.device),
        features.train,
        features.judged,
        features.device,
        SEED,
        learning_rate,
    )
    predicted, epochs = choose(by_epoch.numpy(), features.true, features.splits, last=True)
    return Prediction(predicted, {"epoch": [epoch + 1 for epoch in epochs]})

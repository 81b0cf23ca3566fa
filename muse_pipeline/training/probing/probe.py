"""What a backbone knows of classes at given points: kNN, linear and fine-tuned accuracy by MUSE's protocols."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from muse_pipeline.data.label_source import LabelSource
from muse_pipeline.evaluation.bootstrap import REPEATS
from muse_pipeline.evaluation.classification import score_classes
from muse_pipeline.training.devices import open_fabric
from muse_pipeline.training.finetune_config import FinetuneConfig, require_window
from muse_pipeline.training.probing.data import read_probe_data
from muse_pipeline.training.probing.finetune_probe import LEARNING_RATE
from muse_pipeline.training.probing.network import SEED, open_network
from muse_pipeline.training.probing.protocols import (
    FINETUNE,
    LINEAR,
    Prediction,
    ProbedFeatures,
    predict_by_neighbours,
    predict_finetuned,
    predict_linearly,
)
from muse_pipeline.training.running import Running


@dataclass(frozen=True)
class ProbeSettings:
    """How a backbone is probed.

    Attributes:
        window_px: side of the windows around points: 224, or 512 for backbones of the larger field.
        finetune: whether the whole network is trained too.
        finetune_rate: its learning rate.
        shared_patients: whether patients may be on both sides, as in the official split of BRCA-M2C.
        repeats: draws of the bootstrap.
    """

    window_px: int = 224
    finetune: bool = False
    finetune_rate: float = LEARNING_RATE
    shared_patients: bool = False
    repeats: int = REPEATS


def probe(
    config: FinetuneConfig, test: Sequence[LabelSource], settings: ProbeSettings, running: Running
) -> dict[str, Any]:
    """Train on the config's ``sources``, choose on its ``validation``, report on ``test``.

    Without ``test`` the patients of the validation are halved: what one half chooses is reported on the other.

    Args:
        config: its backbone, checkpoint, classes, mpp and sources are used.
        test: labelled pictures to report on.
        settings: how.
        running: how it computes and whom it tells.

    Raises:
        CheckpointError: the checkpoint does not fit.
        ConfigError: there is no validation, the window does not suit the backbone, or a class has no nucleus.
        LabelError: labels cannot be read, or patients are on both sides or were trained on.
    """
    torch.set_num_threads(running.threads)
    device = open_fabric(running.accelerator, 1, "32-true").device
    network = open_network(config.backbone, config.checkpoint, config.trust_pickle)
    require_window(settings.window_px, network.backbone, network.name)
    data = read_probe_data(config, test, settings.shared_patients, settings.window_px)
    notes = [*data.notes, *network.check_unseen(data.reported, settings.shared_patients)]
    train, judged = data.point_sets(network.reference, settings.window_px)
    running.say(f"features of {len(train):,} nuclei to learn from and {len(judged):,} to judge by")
    features = ProbedFeatures.read(network, train, judged, data.splits, len(data.classes), device)
    true, patient = features.true[features.reported], judged.patient[features.reported]

    def score(prediction: Prediction) -> dict[str, Any]:
        predicted = prediction.predicted[features.reported]
        return {**score_classes(true, predicted, patient, data.classes, settings.repeats), **prediction.chosen}

    protocols = {name: score(prediction) for name, prediction in predict_by_neighbours(features).items()}
    running.say("linear layer")
    linear, layer = predict_linearly(features)
    protocols[LINEAR] = score(linear)
    if settings.finetune:
        running.say("fine-tuning the whole network")
        protocols[FINETUNE] = score(predict_finetuned(features, layer, linear, settings.finetune_rate))
    return {
        "backbone": network.name,
        "weights": network.weights,
        "window_px": settings.window_px,
        "mpp": config.mpp,
        "colour": network.reference.method,
        "classes": list(data.classes),
        "seed": SEED,
        "splits": data.describe(),
        "protocols": protocols,
        "notes": notes,
    }

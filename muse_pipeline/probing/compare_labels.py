"""Comparison of two networks on labelled nuclei: accuracy of the classes, from many labels and from few."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from muse_pipeline.data.labelled_points import PointSet
from muse_pipeline.data.unlabelled import Picture
from muse_pipeline.evaluation.bootstrap import compare_scores
from muse_pipeline.evaluation.detection import accuracy, balanced_accuracy, confusion_by_patient
from muse_pipeline.inference.card import NucleusClass
from muse_pipeline.probing.neighbours import CROP_UM, NucleusGallery, draw_neighbours
from muse_pipeline.probing.network import SEED, ProbedNetwork
from muse_pipeline.probing.probe import ProbeData, ProbeSettings
from muse_pipeline.probing.protocols import (
    FINETUNE,
    KNN,
    LINEAR,
    ProbedFeatures,
    predict_by_neighbours,
    predict_finetuned,
    predict_linearly,
)

SHARES = (1.0, 0.25, 0.05)  # of the training patients: those of a smaller share are among those of a larger one
DRAWS = 3
NAMES = {KNN: "kNN", LINEAR: "linear", FINETUNE: "fine-tune"}  # k and epoch are chosen by validation, always
MEASURES = {"accuracy": accuracy, "balanced_accuracy": balanced_accuracy}


@dataclass(frozen=True)
class LabelDraw:
    """Patients whose labels are learnt from.

    Attributes:
        share: share of all training patients.
        number: number of the draw; all patients are drawn once.
        patients: the patients that were drawn.
    """

    share: float
    number: int
    patients: frozenset[str]


def draw_patients(patients: Sequence[str], draws: int) -> list[LabelDraw]:
    """Draw patients for each of ``SHARES`` by seed; within a draw the smaller shares lie in the larger ones.

    Args:
        patients: patients of the training.
        draws: number of draws of each share below 1; a share of as many patients as another is left out.
    """
    names = sorted(set(patients))
    orders = [np.random.default_rng((SEED, number)).permutation(names) for number in range(draws)]
    drawn, sizes = [], set()
    for share in SHARES:
        size = max(1, round(share * len(names)))
        if size in sizes:
            continue
        sizes.add(size)
        some = orders[:1] if size == len(names) else orders
        drawn += [LabelDraw(share, number, frozenset(order[:size].tolist())) for number, order in enumerate(some)]
    return drawn


def compare_on_labels(
    data: ProbeData,
    networks: Sequence[ProbedNetwork],
    *,
    classes: Sequence[NucleusClass],
    mpp: float,
    settings: ProbeSettings,
    draws: int,
    device: torch.device,
    output: Path,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Compare both networks by every protocol, from every share of the patients, on the same nuclei.

    Args:
        data: nuclei to learn from and to judge by.
        networks: the network before and the one after.
        classes: classes of the config, for the picture.
        mpp: um per pixel of the pictures.
        settings: settings of the probes.
        draws: number of draws of patients, for shares below 1.
        device: device of the networks.
        output: folder for the picture.
        say: callback with lines on progress.
    """
    drawn = draw_patients([one.patient for one in data.training if (one.nuclei.label >= 0).any()], draws)
    sides, looked_up = [], []
    for network in networks:
        train, judged = data.point_sets(network.reference, settings.window_px)
        say(f"{network.weights}: features of {len(train) + len(judged):,} labelled nuclei")
        features = ProbedFeatures.read(network, train, judged, data.splits, len(data.classes), device)
        sides.append({(key, draw): one for draw in drawn for key, one in _predict(features, draw, settings, say)})
        looked_up.append(features.query)
    reported = features.reported
    truth = _Truth(features.true[reported], judged.patient[reported], reported, len(data.classes))
    return {
        "window_px": settings.window_px,
        "mpp": mpp,
        "classes": list(data.classes),
        "splits": data.describe(),
        "seed": SEED,
        "rows": _compare_sides(sides, drawn, truth, settings),
        "notes": [*data.notes, _by_chance(truth.label, data.classes), *_missing_classes(data, drawn)],
        "picture": _draw(judged, features, looked_up, classes, mpp, output / "neighbours.png"),
    }


@dataclass(frozen=True, eq=False)
class _Truth:
    """Classes (N,) and patients of the reported nuclei, which of the judged they are, and the number of classes."""

    label: np.ndarray
    patient: np.ndarray
    reported: np.ndarray
    n_classes: int

    def confusion(self, side: dict, key: str, draws: Sequence[LabelDraw]) -> np.ndarray:
        """(patients, C, C) by one protocol, all draws added up."""
        predicted = [side[key, draw][self.reported] for draw in draws]
        return sum(confusion_by_patient(self.label, one, self.patient, self.n_classes)[1] for one in predicted)


def _compare_sides(
    sides: Sequence[dict], drawn: Sequence[LabelDraw], truth: _Truth, settings: ProbeSettings
) -> list[dict[str, Any]]:
    """A row of scores for every protocol and share of the patients."""
    rows = []
    for key in dict.fromkeys(key for key, _ in sides[0]):
        for share in dict.fromkeys(draw.share for draw in drawn):
            of = [draw for draw in drawn if draw.share == share]
            counts = [truth.confusion(side, key, of) for side in sides]
            scores = {
                name: compare_scores(*counts, np.unique(truth.patient), score, settings.repeats)
                for name, score in MEASURES.items()
            }
            n_patients = len(of[0].patients)
            rows.append({"protocol": key, "share": share, "n_patients": n_patients, "n_draws": len(of), **scores})
    return rows


def _predict(
    features: ProbedFeatures, draw: LabelDraw, settings: ProbeSettings, say: Callable[[str], None]
) -> Iterator[tuple[str, np.ndarray]]:
    """(protocol, (P,) predictions) learnt from the patients of a draw, in as many steps as from all patients."""
    some = features.learnt_from(draw.patients)
    yield NAMES[KNN], predict_by_neighbours(some)[KNN].predicted
    some = some.repeated(max(1, round(len(features.train) / max(1, len(some.train)))))
    linear, layer = predict_linearly(some)
    yield NAMES[LINEAR], linear.predicted
    if settings.finetune:
        say(f"fine-tuning on {len(draw.patients)} patients, draw {draw.number + 1}")
        yield NAMES[FINETUNE], predict_finetuned(some, layer, linear, settings.finetune_rate).predicted


def _by_chance(true: np.ndarray, classes: Sequence[str]) -> str:
    """Accuracy of the commonest class for every nucleus, in words."""
    counts = np.bincount(true, minlength=len(classes))
    share, balanced = 100 * counts.max() / max(1, counts.sum()), 100 / max(1, np.count_nonzero(counts))
    return (
        f"{classes[counts.argmax()]}, the commonest class for every nucleus would be right for {share:.1f} % "
        f"(balanced: {balanced:.1f} %)"
    )


def _missing_classes(data: ProbeData, drawn: Sequence[LabelDraw]) -> Iterator[str]:
    for draw in drawn:
        labels = [image.nuclei.label for image in data.training if image.patient in draw.patients]
        there = np.unique(np.concatenate(labels))
        missing = [name for index, name in enumerate(data.classes) if index not in there]
        if missing:
            yield (
                f"draw {draw.number + 1} of {len(draw.patients)} patients holds no {' and no '.join(missing)}, which "
                "neither network can learn from it"
            )


def _draw(
    judged: PointSet,
    features: ProbedFeatures,
    looked_up: Sequence[Tensor],
    classes: Sequence[NucleusClass],
    mpp: float,
    output: Path,
) -> dict[str, str] | None:
    image, xy = judged.positions()
    side = max(1, round(CROP_UM / mpp))

    def crop(nucleus: int) -> np.ndarray:
        x, y = np.floor(xy[nucleus] - side / 2).astype(int).tolist()
        return Picture(judged.images[image[nucleus]].pixels).read((x, y), (side, side))

    gallery = NucleusGallery(
        judged.patient,
        crop,
        np.flatnonzero(features.reported),
        label=features.true,
        classes=tuple(one.name for one in classes),
        colors=tuple(one.color for one in classes),
    )
    caption = draw_neighbours(gallery, *looked_up, output)
    return caption and {"file": output.name, "caption": caption}

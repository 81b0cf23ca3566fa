"""Accuracy of nucleus classes in the features of a teacher while it is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from muse_pipeline.data.labelled_points import PointSet, point_features
from muse_pipeline.inference.card import ColourReference
from muse_pipeline.labels.pictures import LabelledImage
from muse_pipeline.labels.read import read_labelled_images
from muse_pipeline.labels.sources import LabelSource
from muse_pipeline.labels.statistics import image_colour
from muse_pipeline.models.base import Backbone
from muse_pipeline.training.loop import BestWeights

KS = (10, 20, 100, 200, 500)
TEMPERATURE = 0.07
CHUNK = 1024


def classify_by_neighbours(
    bank: Tensor, bank_label: Tensor, query: Tensor, n_classes: int, ks: Sequence[int] = KS
) -> Tensor:
    """Each query gets the class with the most weight among its k nearest of the bank, for every k at once.

    Args:
        bank: (N, D) features, of any length.
        bank_label: (N,) class index.
        query: (M, D).
        n_classes: C.
        ks: numbers of neighbours that vote; at most all of the bank.

    Returns:
        (K, M) class index; of equal weights the lower class.
    """
    bank, query = functional.normalize(bank.float(), dim=1), functional.normalize(query.float(), dim=1)
    ks = [min(k, len(bank)) for k in ks]
    if not len(query):
        return torch.zeros((len(ks), 0), dtype=torch.long)
    predictions = []
    for part in query.split(CHUNK):
        similarity, neighbour = (part @ bank.T).topk(max(ks), dim=1)  # (m, k), nearest first
        votes = functional.one_hot(bank_label[neighbour], n_classes) * (similarity / TEMPERATURE).exp()[..., None]
        weight = votes.cumsum(1)  # (m, k, C): after so many neighbours
        predictions.append(torch.stack([weight[:, k - 1].argmax(1) for k in ks]))
    return torch.cat(predictions, 1)


SCORE = "held kNN"
K, MAX_IMAGES = 20, 40


def read_held(sources: Sequence[LabelSource], mpp: float) -> list[LabelledImage]:
    """Read at most ``MAX_IMAGES`` images with nuclei of known class at ``mpp``, spread evenly.

    Classes are those of the sources' class maps. The list is empty if a source has no map, or if the nuclei are of one
    class or one patient alone.

    Raises:
        LabelError: a picture or its labels cannot be read.
    """
    classes = sorted({name for source in sources for name in source.class_map.values() if name})
    if not classes or not all(source.class_map for source in sources):
        return []
    images = [image for image in read_labelled_images(sources, tuple(classes), mpp, n_rays=3) if known(image).size]
    chosen = np.unique(np.linspace(0, len(images) - 1, MAX_IMAGES).round().astype(int)) if images else ()
    images = [images[index] for index in chosen]
    n_classes = len({label for image in images for label in known(image).tolist()})
    return images if n_classes > 1 and len({image.patient for image in images}) > 1 else []


def known(image: LabelledImage) -> np.ndarray:
    """(M,) class index of the nuclei of known class."""
    return image.nuclei.label[image.nuclei.label >= 0]


class HeldScore(BestWeights):
    """Classes of held nuclei by their nearest neighbours among the nuclei of other held patients.

    Args:
        backbone: the teacher's backbone, which is scored with its weights at the time of a call.
        images: labelled images of two or more patients.
        reference: colour that images are normalised to.
        window_px: side of the windows that nuclei are read in.
        keep: callback with the steps done and the accuracy in percent, as ``SCORE``, whenever it is the best.
    """

    def __init__(
        self,
        backbone: Backbone,
        images: Sequence[LabelledImage],
        reference: ColourReference,
        window_px: int,
        keep: Callable[[int, dict[str, float]], None],
    ):
        super().__init__(SCORE, self.scores, keep)
        self.backbone = backbone
        colours = np.stack([image_colour(image, reference) for image in images])
        self.points = PointSet(images, colours, window_px)

    def scores(self) -> dict[str, float]:
        """Accuracy in percent, as ``SCORE``."""
        device, was_training = next(self.backbone.parameters()).device, self.backbone.training
        features = point_features(self.backbone, self.points, device)
        self.backbone.train(was_training)
        return {SCORE: round(accuracy_of_others(features, self.points.label, self.points.patient), 2)}


def accuracy_of_others(features: Tensor, label: Tensor, patient: np.ndarray) -> float:
    """Percent of P nuclei whose class is that of their ``K`` nearest neighbours in other patients.

    Args:
        features: (P, D).
        label: (P,) class index.
        patient: (P,) patient of each nucleus.
    """
    n_right = 0
    for name in np.unique(patient):
        own = torch.from_numpy(patient == name)
        found = classify_by_neighbours(features[~own], label[~own], features[own], int(label.max()) + 1, [K])
        n_right += int((found[0] == label[own]).sum())
    return 100 * n_right / len(label)

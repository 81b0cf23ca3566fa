"""Accuracy of classifying nuclei by nearest neighbours among a backbone's features, measured during
training.

Every nucleus is a point, and its feature is computed in exactly one window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor
from torch.nn import functional

from muse_pipeline.core.pictures import spread_evenly
from muse_pipeline.labels.base_source import LabelSource
from muse_pipeline.labels.label_sources import read_labelled_images
from muse_pipeline.labels.labelled_image import LabelledImage
from muse_pipeline.models.base import Backbone, interpolate_at

AUTHORS_CELL_PX = 224


@dataclass(frozen=True, eq=False)
class PointWindow:
    """One window of a picture, and the M nuclei whose features are computed in it."""

    image: int  # index of its picture
    # (x, y) of its upper left corner in the picture; negative if the picture is smaller than the
    # window
    origin: tuple[int, int]
    xy: ndarray  # (M, 2) float32 centres of the nuclei, window px
    label: ndarray  # (M,) class index, never -1


def cut_point_windows(index: int, image: LabelledImage, window_px: int) -> list[PointWindow]:
    """Plan windows of ``window_px`` so that every nucleus of known class is assigned to exactly one
    of them.
    """
    nuclei = image.nuclei[image.nuclei.label >= 0]
    start = np.array(image.annotated_box[:2])
    size_px = np.array(image.pixels.shape[1::-1])
    # As in the authors' evaluation, cells of 224 px tile the annotated area, each in the middle of
    # its window.
    cell_px = min(AUTHORS_CELL_PX, window_px)  # a larger cell would have nuclei outside its window
    cells = np.floor((nuclei.xy - start) / cell_px).astype(int)
    origins = start + cells * cell_px + (cell_px - window_px) // 2
    origins = np.clip(origins, 0, np.maximum(size_px - window_px, 0))
    origins = np.where(size_px < window_px, (size_px - window_px) // 2, origins)
    # clipping can make windows coincide
    unique, member = np.unique(origins, axis=0, return_inverse=True)
    member = member.ravel()
    return [
        PointWindow(
            index,
            (int(x), int(y)),
            (nuclei.xy[member == n] - (x, y)).astype(np.float32),
            nuclei.label[member == n],
        )
        for n, (x, y) in enumerate(unique)
    ]


def read_window(image: LabelledImage, window: PointWindow, window_px: int) -> ndarray:
    """(window_px, window_px, 3) uint8 pixels of a window, mirrored beyond the picture."""
    x, y = window.origin
    left, top = max(-x, 0), max(-y, 0)
    pixels = image.pixels[max(y, 0) : y + window_px, max(x, 0) : x + window_px]
    below = window_px - top - pixels.shape[0]
    right = window_px - left - pixels.shape[1]
    return np.pad(pixels, ((top, below), (left, right), (0, 0)), mode="reflect")


class PointSet:
    """P nuclei of known class as points, with label (P,) and patient (P,), in the order of their
    windows; there is at least one.
    """

    def __init__(self, images: Sequence[LabelledImage], colours: ndarray, window_px: int):
        self.images = images
        self.colours = colours
        self.window_px = window_px
        planned = (cut_point_windows(index, image, window_px) for index, image in enumerate(images))
        self.windows = [window for windows in planned for window in windows]
        labels = [window.label for window in self.windows]
        self.label = torch.from_numpy(np.concatenate(labels)).long()
        patients = [images[window.image].patient for window in self.windows]
        self.patient = np.repeat(patients, [len(label) for label in labels])


@torch.no_grad()
def point_features(backbone: Backbone, points: PointSet, device: torch.device) -> Tensor:
    """(P, D) float32 features of the points, on the CPU; leaves the backbone in evaluation mode."""
    backbone.eval()
    parts = []
    for window in points.windows:
        read = read_window(points.images[window.image], window, points.window_px)
        arrays = read, points.colours[window.image].astype(np.float32), window.xy
        pixels, colour, xy = (torch.from_numpy(array).to(device) for array in arrays)
        batch = pixels.permute(2, 0, 1)[None].float()
        dense = backbone(backbone.prepare(batch, colour)).dense
        parts.append(interpolate_at(dense, xy[None], backbone.lattice)[0].float().cpu())
    return torch.cat(parts)


K = 20
TEMPERATURE = 0.07
CHUNK = 1024


def classify_by_neighbours(
    bank: Tensor, bank_label: Tensor, query: Tensor, n_classes: int, k: int = K
) -> Tensor:
    """Classify each query (M, D) by a weighted vote of its k nearest neighbours in a ``bank`` (N,
    D) of features.

    All features vote if the bank has fewer than k. Returns class indices (M,), the lowest one if
    votes are equal.
    """
    bank = functional.normalize(bank.float(), dim=1)
    query = functional.normalize(query.float(), dim=1)
    predictions = [torch.zeros(0, dtype=torch.long)]
    for part in query.split(CHUNK):
        similarity, neighbour = (part @ bank.T).topk(min(k, len(bank)), dim=1)
        votes = (
            functional.one_hot(bank_label[neighbour], n_classes)
            * (similarity / TEMPERATURE).exp()[..., None]
        )
        predictions.append(votes.sum(1).argmax(1))
    return torch.cat(predictions)


SCORE = "held kNN"
MAX_IMAGES = 40


def read_held(sources: Sequence[LabelSource], mpp: float) -> list[LabelledImage]:
    """Read at ``mpp`` at most ``MAX_IMAGES`` evenly chosen images that have nuclei of known class.

    Classes are taken from the class maps of the sources. The list is empty if a source has no class
    map, or if all nuclei belong to the same class or the same patient.
    """
    classes = sorted({name for source in sources for name in source.class_map.values() if name})
    if not classes or not all(source.class_map for source in sources):
        return []
    images = read_labelled_images(sources, tuple(classes), mpp, n_rays=3)
    images = [image for image in images if (image.nuclei.label >= 0).any()]
    images = [images[index] for index in spread_evenly(len(images), MAX_IMAGES)]
    labels = np.concatenate([image.nuclei.label for image in images] or [np.zeros(0, int)])
    n_classes = len(np.unique(labels[labels >= 0]))
    return images if n_classes > 1 and len({image.patient for image in images}) > 1 else []


def score_held(backbone: Backbone, points: PointSet) -> dict[str, float]:
    """Accuracy in percent (``SCORE``) of classifying held-out nuclei by neighbours from other
    held-out patients.
    """
    device = next(backbone.parameters()).device
    was_training = backbone.training
    features = point_features(backbone, points, device)
    backbone.train(was_training)
    return {SCORE: round(accuracy_of_others(features, points.label, points.patient), 2)}


def accuracy_of_others(features: Tensor, label: Tensor, patient: ndarray) -> float:
    """Percentage of P nuclei that are classified correctly by ``K`` nearest neighbours from other
    patients.
    """
    n_right = 0
    for name in np.unique(patient):
        own = torch.from_numpy(patient == name)
        predicted = classify_by_neighbours(
            features[~own], label[~own], features[own], int(label.max()) + 1
        )
        n_right += int((predicted == label[own]).sum())
    return 100 * n_right / len(label)

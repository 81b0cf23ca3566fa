"""Accuracy of nucleus classes in the features of a teacher while it is trained, by their nearest neighbours.

Nuclei are read as points, each in exactly one window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from muse_pipeline.inference.card import ColourReference
from muse_pipeline.labels.pictures import LabelledImage
from muse_pipeline.labels.read import read_labelled_images
from muse_pipeline.labels.sources import LabelSource
from muse_pipeline.labels.statistics import image_colour
from muse_pipeline.models.base import Backbone, read_at
from muse_pipeline.training.loop import BestWeights

AUTHORS_CELL_PX = 224


@dataclass(frozen=True, eq=False)
class PointWindow:
    """One window of a picture and its nuclei.

    Attributes:
        image: index of its picture.
        origin: (x, y) of its corner in the picture; negative where the picture is too small.
        xy: (M, 2) float32 nuclei in window px.
        label: (M,) class index, never -1.
    """

    image: int
    origin: tuple[int, int]
    xy: np.ndarray
    label: np.ndarray


def cut_point_windows(images: Sequence[LabelledImage], window_px: int) -> list[PointWindow]:
    """Cut windows of ``window_px`` over every nucleus of known class, each in exactly one of them."""
    return [window for index, image in enumerate(images) for window in _cut(index, image, window_px)]


def _cut(index: int, image: LabelledImage, window_px: int) -> list[PointWindow]:
    nuclei = image.nuclei[image.nuclei.label >= 0]
    if not len(nuclei):
        return []
    start, size_px = np.array(image.annotated_box[:2]), np.array(image.pixels.shape[1::-1])
    cell_px = min(AUTHORS_CELL_PX, window_px)  # a smaller window would not hold the nuclei of its cell
    cells = np.floor((nuclei.xy - start) / cell_px).astype(int)
    origins = start + cells * cell_px + (cell_px - window_px) // 2
    origins = np.clip(origins, 0, np.maximum(size_px - window_px, 0))
    origins = np.where(size_px < window_px, (size_px - window_px) // 2, origins)
    unique, member = np.unique(origins, axis=0, return_inverse=True)  # cells whose windows coincide share one
    member = member.ravel()
    return [
        PointWindow(
            index, (int(x), int(y)), (nuclei.xy[member == n] - (x, y)).astype(np.float32), nuclei.label[member == n]
        )
        for n, (x, y) in enumerate(unique)
    ]


def read_window(image: LabelledImage, window: PointWindow, window_px: int) -> np.ndarray:
    """(window_px, window_px, 3) uint8 pixels of a window."""
    x, y = window.origin
    left, top = max(-x, 0), max(-y, 0)
    pixels = image.pixels[max(y, 0) : y + window_px, max(x, 0) : x + window_px]
    below, right = window_px - top - pixels.shape[0], window_px - left - pixels.shape[1]
    if not (top or left or below or right):
        return pixels
    return np.pad(pixels, ((top, below), (left, right), (0, 0)), mode="reflect")


BATCH = 10  # the authors'


@dataclass(frozen=True, eq=False)
class PointBatch:
    """B windows with at most M points each.

    Attributes:
        pixels: (B, 3, S, S) float, 0 to 255.
        colour: (B, 3, 4).
        xy: (B, M, 2) window px.
        label: (B, M) class index, -1 where there is no point.
    """

    pixels: Tensor
    colour: Tensor
    xy: Tensor
    label: Tensor

    def features(self, backbone: Backbone) -> Tensor:
        """(n, D) features of the existing points, window by window."""
        dense = backbone(backbone.prepare(self.pixels, self.colour)).dense
        return read_at(dense, self.xy, backbone.lattice)[self.label >= 0]


class PointSet:
    """The points of a split, in the order of their windows.

    Args:
        images: images with nuclei of known class.
        colours: (N, 3, 4) colour map of each image.
        window_px: side of a window.

    Attributes:
        windows: the W windows.
        label: (P,) class index of every point.
        patient: (P,) patient of every point.
    """

    def __init__(self, images: Sequence[LabelledImage], colours: np.ndarray, window_px: int):
        self.images, self.colours, self.window_px = images, colours, window_px
        self.windows = cut_point_windows(images, window_px)
        self.label = torch.from_numpy(np.concatenate([np.zeros(0, int), *(w.label for w in self.windows)])).long()
        patients = [np.repeat(images[window.image].patient, len(window.label)) for window in self.windows]
        self.patient = np.concatenate([np.zeros(0, str), *patients])

    def __len__(self) -> int:
        return len(self.label)

    def positions(self) -> tuple[np.ndarray, np.ndarray]:
        """(P,) index of the image of every point, and (P, 2) its position in that image, px."""
        images = [np.repeat(window.image, len(window.label)) for window in self.windows]
        xy = [window.xy + np.float32(window.origin) for window in self.windows]
        return np.concatenate([np.zeros(0, int), *images]), np.concatenate([np.zeros((0, 2), np.float32), *xy])

    def batches(self, size: int, device: torch.device) -> Iterator[PointBatch]:
        """Batches of ``size`` windows."""
        for first in range(0, len(self.windows), size):
            yield self._batch(self.windows[first : first + size], device)

    def _batch(self, windows: Sequence[PointWindow], device: torch.device) -> PointBatch:
        most = max(len(window.label) for window in windows)
        xy = np.zeros((len(windows), most, 2), np.float32)
        label = np.full((len(windows), most), -1)
        for row, window in enumerate(windows):
            xy[row, : len(window.label)], label[row, : len(window.label)] = window.xy, window.label
        pixels = np.stack([read_window(self.images[window.image], window, self.window_px) for window in windows])
        colour = np.stack([self.colours[window.image] for window in windows]).astype(np.float32)
        return PointBatch(
            torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float(),
            *(torch.from_numpy(values).to(device) for values in (colour, xy, label)),
        )


@torch.no_grad()
def point_features(backbone: Backbone, points: PointSet, device: torch.device) -> Tensor:
    """(P, D) float32 on the CPU, of the frozen backbone in eval mode."""
    backbone.eval()
    parts = [batch.features(backbone).float().cpu() for batch in points.batches(BATCH, device)]
    return torch.cat([torch.zeros(0, backbone.channels), *parts])


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

"""Third-party networks: scaling of their input, and what decoders of their maps share.

``inference.families`` has a decoder per kind of network. Maps may have their channels first or
last; their first class is the background.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy import ndarray
from scipy.special import expit, softmax

from muse_pipeline.core.types import Frame
from muse_pipeline.inference.card import EncoderCard, ImportedCard
from muse_pipeline.inference.families import FAMILIES
from muse_pipeline.nuclei.masks import MIN_NUCLEUS_UM2, cut_relief, label_image_to_nuclei
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.tissue.components import drop_small

MEAN, DEVIATION = (
    np.array(rgb, np.float32) for rgb in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
)  # ImageNet's
PERCENTILES = (1.0, 99.8)  # stretched to 0 and 1, as in StarDist
DEPTH_UM = 0.4  # sigma of the blur of the depth inside nuclei
N_RAYS = 32  # number of rays of an outline from a label image
RADIUS_UM = 4.0  # radius of the synthetic nuclei of an import


def _stretch(pixels: ndarray) -> ndarray:
    low, high = np.percentile(pixels, PERCENTILES, axis=(1, 2), keepdims=True).astype(np.float32)
    return (pixels - low) / np.maximum(high - low, 1)


# Functions from pixels (B, H, W, 3) float32, 0 to 255, to the network's input, keyed as in
# ``core.types.SCALINGS``.
SCALINGS: dict[str, Callable[[ndarray], ndarray]] = {
    "none": lambda pixels: pixels,
    "unit": lambda pixels: pixels / 255,
    "symmetric": lambda pixels: pixels / 127.5 - 1,
    "imagenet": lambda pixels: (pixels / 255 - MEAN) / DEVIATION,
    "percentile": _stretch,
}


def scale_pixels(pixels: ndarray, card: ImportedCard | EncoderCard) -> ndarray:
    """The network's input for windows (B, H, W, 3) uint8."""
    scaled = SCALINGS[card.scaling](pixels.astype(np.float32)).astype(card.dtype)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2)) if card.channels_first else scaled


class Map(NamedTuple):
    """One map of a kind of network; empty ``channels`` allow any number."""

    name: str  # in the authors' code
    content: str
    channels: tuple[int, ...]


def class_channels(n_classes: int) -> tuple[int, ...]:
    """Possible numbers of channels of a map of classes, the first of which is the background."""
    return (n_classes + 1,) if n_classes > 1 else (1, 2)


class Family(ABC):
    """Networks of one kind; maps are float32, with channels first."""

    has_classes = True

    @abstractmethod
    def list_maps(self, n_classes: int) -> list[Map]:
        """The maps in the order of ``ImportedCard.maps``."""

    @abstractmethod
    def decode(self, maps: list[ndarray], card: ImportedCard) -> Nuclei:
        """The nuclei (frame: window) in the maps (C, h, w) of one window, by descending score."""

    def split(self, joint: ndarray, n_classes: int) -> list[ndarray]:
        """The maps in an only output (B, C, h, w)."""
        return [joint]

    def count_rays(self, maps: list[ndarray]) -> int:
        """Number of rays of an outline."""
        return N_RAYS

    def find_fault(self, maps: list[ndarray], card: ImportedCard) -> str:
        """Describe a fault in the maps (B, C, h, w) of synthetic nuclei, and what to correct; "" if
        there is none.
        """
        return ""

    def with_classes(self, maps: list[Map], name: str, n_classes: int) -> list[Map]:
        """``maps``, and a map of classes if there are several."""
        return [*maps, Map(name, "classes", class_channels(n_classes))] if n_classes > 1 else maps


def channels_first(values: ndarray) -> ndarray:
    """Convert a map of square windows from (B, C, h, w), (B, h, w, C) or (B, h, w) to (B, C, h, w)
    float32.
    """
    if values.ndim == 3:
        values = values[:, None]
    return (values if values.shape[2] == values.shape[3] else values.transpose(0, 3, 1, 2)).astype(
        np.float32
    )


def read_maps(outputs: Sequence[ndarray], card: ImportedCard) -> list[ndarray]:
    """The maps (B, C, h, w) of ``Family.list_maps`` from the network's outputs ``card.maps``."""
    maps = [channels_first(values) for values in outputs]
    family = FAMILIES[card.kind]()
    return family.split(maps[0], len(card.classes)) if len(maps) == 1 else maps


def nuclei_of_maps(outputs: Sequence[ndarray], card: ImportedCard) -> list[Nuclei]:
    """The nuclei of each window (frame: window), by descending score, from the network's outputs
    ``card.maps``.
    """
    maps, family = read_maps(outputs, card), FAMILIES[card.kind]()
    return [
        family.decode([values[window] for values in maps], card) for window in range(len(maps[0]))
    ]


def is_nucleus(prob: ndarray) -> ndarray:
    """(h, w) probability of a nucleus, from its own map, or from classes (C, h, w)."""
    return prob[0] if len(prob) == 1 else 1 - prob[0]


def probabilities(values: ndarray, card: ImportedCard) -> ndarray:
    """(C, h, w) probabilities from a map of probabilities, or of logits if the card states so."""
    if not card.logits:
        return values
    return expit(values) if len(values) == 1 else softmax(values, axis=0)


def smooth(values: ndarray, sigma_um: float, card: ImportedCard) -> list[ndarray]:
    """The channels of a map (C, h, w), blurred."""
    return [
        cv2.GaussianBlur(channel, (0, 0), sigma_um / card.mpp / card.stride_px)
        for channel in values
    ]


def cut_nuclei(
    nucleus: ndarray,
    relief: Callable[[ndarray], ndarray],
    classes: ndarray | None,
    card: ImportedCard,
) -> Nuclei:
    """Nuclei that a watershed separates where the probability ``nucleus`` (h, w) is at least the
    threshold.

    Args:
        nucleus: probability of a nucleus.
        relief: function from the mask (h, w) bool to a map (h, w) that is highest in the middle of
            nuclei.
        classes: (C, h, w) probabilities of background and classes, if there are several classes.
        card: card of the network.
    """
    mask = nucleus_mask(nucleus, card)
    return nuclei_of_labels(
        cut_relief(mask, relief(mask), card.mpp * card.stride_px), nucleus, classes, card
    )


def nucleus_mask(nucleus: ndarray, card: ImportedCard) -> ndarray:
    """(h, w) bool: where the probability ``nucleus`` is at least the threshold, without small
    components and holes.
    """
    least = MIN_NUCLEUS_UM2 / (card.mpp * card.stride_px) ** 2
    mask = drop_small(nucleus >= card.threshold, least)
    return ~drop_small(~mask, least, connectivity=4)


def nuclei_of_labels(
    labels: ndarray, nucleus: ndarray, classes: ndarray | None, card: ImportedCard
) -> Nuclei:
    """Nuclei of a label image (h, w), 1..N, with the means of probabilities (see ``cut_nuclei``)
    over each of them.
    """
    mpp = card.mpp * card.stride_px
    nuclei = label_image_to_nuclei(labels, (mpp, mpp), card.n_rays)
    n_pixels = np.bincount(labels.ravel())[1:]
    score, *of_classes = (
        np.bincount(labels.ravel(), prob.ravel())[1:] / n_pixels
        for prob in (nucleus, *(() if classes is None else classes))
    )
    return nuclei_table(nuclei.xy * card.stride_px, nuclei.rays, score, of_classes, card)


def nuclei_table(
    xy: ndarray,
    rays: ndarray,
    score: ndarray,
    classes: Sequence[ndarray] | None,
    card: ImportedCard,
) -> Nuclei:
    """Table of at most ``card.capacity`` nuclei, by descending score; the first of ``classes`` is
    the background.
    """
    prob = np.ones((len(xy), 1))
    if len(card.classes) > 1:
        # Never 0, so that the probabilities of a nucleus that is all background can be divided by
        # their sum.
        prob = np.stack(list(classes[1:]), 1).clip(np.finfo(np.float32).tiny)
    prob /= prob.sum(1, keepdims=True)
    best = np.argsort(-score, kind="stable")[: card.capacity]
    best = best[np.isfinite(rays[best]).all(1)]
    columns = {"rays": rays, "label": prob.argmax(1), "score": score.clip(0, 1), "prob": prob}
    return Nuclei(xy + card.margin_px, Frame.WINDOW, **columns)[best]

"""Networks of others: how their input is scaled, and the nuclei in their maps.

A network of kind "stardist" (Schmidt et al., MICCAI 2018) gives rays around every point. The maps of the other kinds
are cut into nuclei by a watershed: "hover" (Graham et al., Medical Image Analysis 2019) has the horizontal and
vertical position of every pixel in its nucleus, "distance" a number that grows towards the middle of a nucleus, and
"boundary" a class for pixels between nuclei. Maps have their channels first or last; the class "background" is first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from muse_pipeline.core.types import Frame
from muse_pipeline.inference.card import ImportedCard
from muse_pipeline.nuclei.masks import label_image_to_nuclei
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.nuclei.watershed import MIN_NUCLEUS_UM2, SMOOTH_UM, cut_relief, depth_um
from muse_pipeline.tissue.find import drop_small

MEAN, DEVIATION = (np.array(rgb, np.float32) for rgb in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))  # of ImageNet
PERCENTILES = (1.0, 99.8)  # of StarDist


def _stretch(pixels: np.ndarray) -> np.ndarray:
    low, high = np.percentile(pixels, PERCENTILES, axis=(1, 2), keepdims=True).astype(np.float32)
    return (pixels - low) / np.maximum(high - low, 1)


# Pixels (B, H, W, 3) float32 from 0 to 255 -> what the network takes.
SCALINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": lambda pixels: pixels,
    "unit": lambda pixels: pixels / 255,
    "symmetric": lambda pixels: pixels / 127.5 - 1,
    "imagenet": lambda pixels: (pixels / 255 - MEAN) / DEVIATION,
    "percentile": _stretch,
}


def scale_pixels(pixels: np.ndarray, card: ImportedCard) -> np.ndarray:
    """The network's input for windows (B, H, W, 3) uint8."""
    scaled = SCALINGS[card.scaling](pixels.astype(np.float32)).astype(card.dtype)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2)) if card.channels_first else scaled


def channels_first(values: np.ndarray) -> np.ndarray:
    """(B, C, h, w) float32 of a map of square windows (B, C, h, w), (B, h, w, C) or (B, h, w)."""
    if values.ndim == 3:
        values = values[:, None]
    return (values if values.shape[2] == values.shape[3] else values.transpose(0, 3, 1, 2)).astype(np.float32)


class Map(NamedTuple):
    """A map that a network gives.

    Attributes:
        name: name of the output in the code of the network's authors.
        content: content, in words.
        channels: possible numbers of channels; none if any number is.
    """

    name: str
    content: str
    channels: tuple[int, ...]


def list_maps(kind: str, n_classes: int) -> list[Map]:
    """The maps of a network of ``kind``, in the order of ``ImportedCard.maps``."""
    classes = (n_classes + 1,) if n_classes > 1 else (1, 2)
    return {
        "stardist": [Map("prob", "nucleus", (1,)), Map("dist", "rays", ()), Map("prob_class", "classes", classes)],
        "hover": [Map("np", "nucleus", (1, 2)), Map("hv", "position", (2,)), Map("tp", "classes", classes)],
        "distance": [Map("classes", "classes", classes), Map("distance", "distance", (1,))],
        "boundary": [Map("classes", "classes and boundary", (n_classes + 2,))],
    }[kind][: None if n_classes > 1 else 2]


def nuclei_of_maps(maps: Sequence[np.ndarray], card: ImportedCard) -> list[Nuclei]:
    """The nuclei of each window (frame: window), by descending score, from the network's outputs ``card.maps``."""
    maps = [channels_first(values) for values in maps]
    decode = _decode_rays if card.kind == "stardist" else _decode_areas
    return [decode([values[window] for values in maps], card) for window in range(len(maps[0]))]


def _decode_rays(maps: list[np.ndarray], card: ImportedCard) -> Nuclei:
    """Nuclei at the peaks of the probability; one may have several, which ``nuclei.nms`` reduces to the best."""
    if len(maps) == 1:
        maps = np.split(maps[0], (1, 1 + card.n_rays))
    score = _probability(maps[0], card)[0]
    row, column = np.nonzero((score >= card.threshold) & (score == cv2.dilate(score, np.ones((3, 3), np.uint8))))
    best = np.argsort(-score[row, column], kind="stable")[: card.capacity]
    row, column = row[best], column[best]
    rays = maps[1][:, row, column].T.clip(0) * np.float32(card.mpp)
    xy = np.stack([column, row], 1) * card.stride_px + (card.margin_px + 0.5)  # of a pixel, not of the cell
    prob = _share_of_classes(_probability(maps[2], card)[:, row, column].T) if len(card.classes) > 1 else None
    found = _table(xy, rays, score[row, column], prob)
    return found[np.isfinite(found.rays).all(1)]


def _decode_areas(maps: list[np.ndarray], card: ImportedCard) -> Nuclei:
    """Nuclei of a mask that is cut by a watershed."""
    mpp = card.mpp * card.stride_px
    classes = _probability(maps[-1 if card.kind == "hover" and len(card.classes) > 1 else 0], card)
    nucleus = _probability(maps[0], card)
    nucleus = nucleus[0] if len(nucleus) == 1 else 1 - nucleus[0]
    mask = drop_small(nucleus >= card.threshold, MIN_NUCLEUS_UM2 / mpp**2)
    mask = ~drop_small(~mask, MIN_NUCLEUS_UM2 / mpp**2, connectivity=4)  # holes
    labels = cut_relief(mask, RELIEFS[card.kind](maps, mask, mpp, card), mpp)
    found = label_image_to_nuclei(labels, (mpp, mpp), card.n_rays)
    score, *prob = _means([nucleus, *classes[: len(card.classes) + 1]], labels)
    prob = _share_of_classes(np.stack(prob, 1)) if len(card.classes) > 1 else None
    found = _table(found.xy * card.stride_px + card.margin_px, found.rays, score, prob)
    return found[np.argsort(-found.score, kind="stable")[: card.capacity]]


FALL_PER_UM = 0.1  # of the position in a nucleus, which runs from -1 to 1: between nuclei it falls


def _hover_relief(maps: list[np.ndarray], mask: np.ndarray, mpp: float, _card: ImportedCard) -> np.ndarray:
    """Depth within what is left without pixels at which the position in a nucleus falls from 1 to -1."""
    position = maps[1]
    along = [cv2.GaussianBlur(each, (0, 0), SMOOTH_UM / mpp) for each in position]
    falls = np.minimum(np.gradient(along[0], axis=1), np.gradient(along[1], axis=0)) < -FALL_PER_UM * mpp
    return depth_um(mask & ~falls, mpp)


def _distance_relief(maps: list[np.ndarray], _mask: np.ndarray, mpp: float, _card: ImportedCard) -> np.ndarray:
    return cv2.GaussianBlur(maps[1][0], (0, 0), SMOOTH_UM / mpp)


def _boundary_relief(maps: list[np.ndarray], mask: np.ndarray, mpp: float, card: ImportedCard) -> np.ndarray:
    prob = _probability(maps[0], card)
    return depth_um(mask & (prob[-1] < prob[1:-1].sum(0)), mpp)


RELIEFS = {"hover": _hover_relief, "distance": _distance_relief, "boundary": _boundary_relief}


def _probability(values: np.ndarray, card: ImportedCard) -> np.ndarray:
    """(C, h, w) probabilities of a map that may have logits."""
    if not card.logits:
        return values
    if len(values) == 1:
        return 1 / (1 + np.exp(-values.clip(-50, 50)))
    raised = np.exp(values - values.max(0))
    return raised / raised.sum(0)


def _share_of_classes(prob: np.ndarray) -> np.ndarray:
    """(N, C) probabilities of classes, given that there is a nucleus, from (N, 1 + C) with the background."""
    of_classes = prob[:, 1:].clip(np.finfo(np.float32).tiny)
    return of_classes / of_classes.sum(1, keepdims=True)


def _means(maps: Sequence[np.ndarray], labels: np.ndarray) -> list[np.ndarray]:
    """Mean of each map (h, w) over labels 1..N, (N,) each."""
    n_pixels = np.bincount(labels.ravel())[1:]
    return [np.bincount(labels.ravel(), values.ravel())[1:] / n_pixels for values in maps]


def _table(xy: np.ndarray, rays: np.ndarray, score: np.ndarray, prob: np.ndarray | None) -> Nuclei:
    prob = np.ones((len(xy), 1), np.float32) if prob is None else prob
    return Nuclei(xy, Frame.WINDOW, rays=rays, label=prob.argmax(1), score=score.clip(0, 1), prob=prob)

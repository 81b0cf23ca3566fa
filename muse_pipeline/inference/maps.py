"""Third-party networks: scaling of their input, and the nuclei in their maps.

Networks of kind "stardist" (Schmidt et al., MICCAI 2018) return rays around every point. The maps of other kinds are
cut into nuclei by a watershed: "hover" networks (Graham et al., Medical Image Analysis 2019) return the horizontal and
vertical position of every pixel within its nucleus, "distance" networks a number that grows towards the middle of a
nucleus, and "boundary" networks an extra class for pixels between nuclei. Maps may have their channels first or last;
their first class is the background.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from scipy.special import expit, softmax

from muse_pipeline.core.types import Frame
from muse_pipeline.inference.card import EncoderCard, ImportedCard
from muse_pipeline.nuclei.masks import MIN_NUCLEUS_UM2, SMOOTH_UM, cut_relief, depth_um, label_image_to_nuclei
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.tissue.components import drop_small

MEAN, DEVIATION = (np.array(rgb, np.float32) for rgb in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))  # ImageNet's
PERCENTILES = (1.0, 99.8)  # stretched to 0 and 1, as in StarDist
PEAK_UM = 1.0  # half the side of the square around a peak in which no point has a higher probability
FALL_PER_UM = 0.1  # where "position" falls faster, two nuclei meet; within a nucleus it rises from -1 to 1


def _stretch(pixels: np.ndarray) -> np.ndarray:
    low, high = np.percentile(pixels, PERCENTILES, axis=(1, 2), keepdims=True).astype(np.float32)
    return (pixels - low) / np.maximum(high - low, 1)


# Functions from pixels (B, H, W, 3) float32, 0 to 255, to the network's input, keyed as in ``core.types.SCALINGS``.
SCALINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": lambda pixels: pixels,
    "unit": lambda pixels: pixels / 255,
    "symmetric": lambda pixels: pixels / 127.5 - 1,
    "imagenet": lambda pixels: (pixels / 255 - MEAN) / DEVIATION,
    "percentile": _stretch,
}


def scale_pixels(pixels: np.ndarray, card: ImportedCard | EncoderCard) -> np.ndarray:
    """The network's input for windows (B, H, W, 3) uint8."""
    scaled = SCALINGS[card.scaling](pixels.astype(np.float32)).astype(card.dtype)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2)) if card.channels_first else scaled


def list_maps(kind: str, n_classes: int) -> list[tuple[str, str, tuple[int, ...]]]:
    """Name (in the authors' code), content and possible numbers of channels of the maps of a kind of network.

    They are in the order of ``ImportedCard.maps``; an empty tuple allows any number of channels.
    """
    classes = (n_classes + 1,) if n_classes > 1 else (1, 2)
    return {
        "stardist": [("prob", "nucleus", (1,)), ("dist", "rays", ()), ("prob_class", "classes", classes)],
        "hover": [("np", "nucleus", (1, 2)), ("hv", "position", (2,)), ("tp", "classes", classes)],
        "distance": [("classes", "classes", classes), ("distance", "distance", (1,))],
        "boundary": [("classes", "classes and boundary", (n_classes + 2,))],
    }[kind][: None if n_classes > 1 else 2]


def channels_first(values: np.ndarray) -> np.ndarray:
    """Convert a map of square windows from (B, C, h, w), (B, h, w, C) or (B, h, w) to (B, C, h, w) float32."""
    if values.ndim == 3:
        values = values[:, None]
    return (values if values.shape[2] == values.shape[3] else values.transpose(0, 3, 1, 2)).astype(np.float32)


def nuclei_of_maps(maps: Sequence[np.ndarray], card: ImportedCard) -> list[Nuclei]:
    """The nuclei of each window (frame: window), by descending score, from the network's outputs ``card.maps``."""
    maps = [channels_first(values) for values in maps]
    decode = _decode_rays if card.kind == "stardist" else _decode_areas
    return [decode([values[window] for values in maps], card) for window in range(len(maps[0]))]


def _decode_rays(maps: list[np.ndarray], card: ImportedCard) -> Nuclei:
    """Nuclei at the peaks of the probability; if a nucleus has several peaks, ``nuclei.pairs`` keeps the best one."""
    if len(maps) == 1:
        maps = np.split(maps[0], (1, 1 + card.n_rays))
    score = probabilities(maps[0], card)[0]
    reach = max(round(PEAK_UM / card.mpp / card.stride_px), 1)
    row, column = np.nonzero(_find_peaks(score, maps[1].min(0), card.threshold, reach))
    rays = maps[1][:, row, column].T.clip(0) * np.float32(card.mpp)
    xy = np.stack([column, row], 1) * card.stride_px + 0.5  # centre of the first pixel of a cell, not of the cell
    classes = probabilities(maps[2], card)[:, row, column] if len(card.classes) > 1 else None
    return _table(xy, rays, score[row, column], classes, card)


def _find_peaks(score: np.ndarray, shortest: np.ndarray, threshold: float, reach: int) -> np.ndarray:
    """(h, w) bool: pixels with the highest score within ``reach`` pixels.

    Where scores are equal, as where a network in half precision saturates, the pixel with the longest ``shortest`` ray
    (h, w) is the peak; if these are equal too, the pixel deepest in the plateau, and of several the one in the middle.
    """
    around = np.ones((2 * reach + 1,) * 2, np.uint8)
    peaks = (score >= threshold) & (score == cv2.dilate(score, around))
    depth = cv2.distanceTransform(peaks.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    for height in (shortest, depth):
        of_peaks = np.where(peaks, height, -np.inf)
        peaks &= of_peaks == cv2.dilate(of_peaks, around)
    joined = cv2.dilate(peaks.view(np.uint8), np.ones((2 * (reach // 2) + 1,) * 2, np.uint8))
    row, column = np.nonzero(peaks)
    _, labels, _, middle = cv2.connectedComponentsWithStats(joined, connectivity=8)
    label = labels[row, column]
    near = np.lexsort((np.hypot(*(middle[label] - np.stack([column, row], 1)).T), label))
    first = near[np.unique(label[near], return_index=True)[1]]
    peaks[:] = False
    peaks[row[first], column[first]] = True
    return peaks


def _decode_areas(maps: list[np.ndarray], card: ImportedCard) -> Nuclei:
    """Nuclei that a watershed separates in the thresholded map of nuclei."""
    mpp = card.mpp * card.stride_px
    nucleus = probabilities(maps[0], card)
    nucleus = nucleus[0] if len(nucleus) == 1 else 1 - nucleus[0]
    mask = drop_small(nucleus >= card.threshold, MIN_NUCLEUS_UM2 / mpp**2)
    mask = ~drop_small(~mask, MIN_NUCLEUS_UM2 / mpp**2, connectivity=4)  # holes
    labels = cut_relief(mask, _relief(maps, mask, mpp, card), mpp)
    nuclei = label_image_to_nuclei(labels, (mpp, mpp), card.n_rays)
    # The last channel of a "boundary" network is the boundary, which is left out.
    classes = probabilities(maps[-1 if card.kind == "hover" else 0], card)[: len(card.classes) + 1]
    n_pixels = np.bincount(labels.ravel())[1:]
    score, *of_classes = (
        np.bincount(labels.ravel(), prob.ravel())[1:] / n_pixels for prob in (nucleus, *classes)
    )  # means over each nucleus
    return _table(nuclei.xy * card.stride_px, nuclei.rays, score, of_classes, card)


def _relief(maps: list[np.ndarray], mask: np.ndarray, mpp: float, card: ImportedCard) -> np.ndarray:
    """(h, w) float32, highest in the middle of nuclei: a distance map, or the depth in the mask without boundaries."""
    if card.kind == "boundary":
        return depth_um(mask & is_inside(probabilities(maps[0], card)), mpp)
    smooth = [cv2.GaussianBlur(channel, (0, 0), SMOOTH_UM / mpp) for channel in maps[1]]
    if card.kind == "distance":
        return smooth[0]
    rise = np.minimum(np.gradient(smooth[0], axis=1), np.gradient(smooth[1], axis=0))
    return depth_um(mask & (rise > -FALL_PER_UM * mpp), mpp)


def is_inside(prob: np.ndarray) -> np.ndarray:
    """(h, w) bool: where nuclei are more probable than the boundary, in the map (C, h, w) of a "boundary" network."""
    return prob[-1] < prob[1:-1].sum(0)


def probabilities(values: np.ndarray, card: ImportedCard) -> np.ndarray:
    """(C, h, w) probabilities from a map of probabilities, or of logits if the card says so."""
    if not card.logits:
        return values
    return expit(values) if len(values) == 1 else softmax(values, axis=0)


def _table(
    xy: np.ndarray, rays: np.ndarray, score: np.ndarray, classes: Sequence[np.ndarray] | None, card: ImportedCard
) -> Nuclei:
    """Table of at most ``card.capacity`` nuclei, by descending score; the first of ``classes`` is the background."""
    prob = np.ones((len(xy), 1))
    if len(card.classes) > 1:
        # Never 0, so that the probabilities of a nucleus that is all background can be divided by their sum.
        prob = np.stack(list(classes[1:]), 1).clip(np.finfo(np.float32).tiny)
    prob /= prob.sum(1, keepdims=True)
    best = np.argsort(-score, kind="stable")[: card.capacity]
    best = best[np.isfinite(rays[best]).all(1)]
    columns = {"rays": rays, "label": prob.argmax(1), "score": score.clip(0, 1), "prob": prob}
    return Nuclei(xy + card.margin_px, Frame.WINDOW, **columns)[best]

"""InstanSeg: a seed per nucleus, and a small network that assigns pixels to seeds (Goldsborough et
al., 2024).
"""

from __future__ import annotations

import cv2
import numpy as np
import scipy  # its parts are loaded when first used
from numpy import ndarray
from scipy.special import expit

from muse_pipeline.inference.card import ImportedCard
from muse_pipeline.inference.families import FAMILIES
from muse_pipeline.inference.maps import Family, Map, nuclei_of_labels
from muse_pipeline.nuclei.masks import MIN_NUCLEUS_UM2, drop_small_labels
from muse_pipeline.nuclei.table import Nuclei

N_CHANNELS = 5  # offsets in x and y, two features of a pixel, and a seed map
REACH, PER_PX = 8.0, 0.25  # range of offsets, and units of offsets per px
# the seed map is divided by the scale, and then added to the other number
SEED_SCALE, SEED_ZERO = 15.0, 0.5
PEAK_PX = 11  # side of the square in which a seed is the highest
WINDOW_PX = 32  # side of the square around a seed whose pixels may belong to it
LEAST_PROBABILITY = 0.53  # of a pixel, to belong to a nucleus
SAME_IOU = 0.3  # seeds with more similar masks belong to one nucleus


@FAMILIES.register("instanseg")
class InstanSeg(Family):
    """Nuclei of the pixels that the small network, ``ImportedCard.classifier``, assigns to each
    seed.
    """

    has_classes = False

    def list_maps(self, n_classes: int) -> list[Map]:
        """See ``Family``."""
        return [Map("maps", "offsets, features and seeds", (N_CHANNELS,))]

    def decode(self, maps: list[ndarray], card: ImportedCard) -> Nuclei:
        """See ``Family``."""
        values, shape = maps[0], maps[0].shape[1:]
        places = np.stack(
            np.meshgrid(*(np.linspace(0, side * PER_PX, side) for side in shape[::-1]))
        )
        field = np.concatenate([(expit(values[:2]) - 0.5) * REACH + places, values[2:-1]])
        row, column = _find_seeds(values[-1] / SEED_SCALE + SEED_ZERO, card.threshold)
        pixels = _windows(row, column, shape)
        features = field[:, *pixels]
        features[:2] -= field[:2, row, column, None, None]
        prob = expit(_classify(features, card.classifier))
        is_own = _parts_at_seeds(
            prob > LEAST_PROBABILITY, row - pixels[0][:, 0, 0], column - pixels[1][:, 0, 0]
        )
        labels, best = _paint(np.where(is_own, prob, 0), pixels, shape)
        labels = drop_small_labels(labels, MIN_NUCLEUS_UM2 / (card.mpp * card.stride_px) ** 2)
        return nuclei_of_labels(labels, best, None, card)


def _find_seeds(height: ndarray, threshold: float) -> tuple[ndarray, ndarray]:
    """Rows and columns (S,), (S,) of the peaks of a seed map (h, w); of equal heights, the first is
    a peak.
    """
    rank = np.empty(height.size, np.float32)
    rank[np.argsort(-height, axis=None, kind="stable")] = -np.arange(height.size)
    rank = rank.reshape(height.shape)
    return np.nonzero(
        (rank == cv2.dilate(rank, np.ones((PEAK_PX, PEAK_PX), np.uint8))) & (height > threshold)
    )


def _windows(row: ndarray, column: ndarray, shape: tuple[int, int]) -> tuple[ndarray, ndarray]:
    """Rows and columns (S, n, n) of the pixels around each seed, within the map."""
    side = min(WINDOW_PX, *shape)
    starts = (
        (at - side // 2).clip(0, length - side)
        for at, length in zip((row, column), shape, strict=True)
    )
    first, second = (start[:, None] + np.arange(side) for start in starts)
    return tuple(np.broadcast_arrays(first[:, :, None], second[:, None]))


def _classify(features: ndarray, classifier: tuple[tuple[float, ...], ...]) -> ndarray:
    """The logits (S, n, n) of pixels with features (F, S, n, n), by a network with a ReLU between
    its layers.
    """
    values = features.reshape(len(features), -1)
    for layer, (weights, bias) in enumerate(zip(classifier[::2], classifier[1::2], strict=True)):
        values = values.clip(0) if layer else values
        values = np.reshape(weights, (len(bias), -1)) @ values + np.reshape(bias, (-1, 1))
    return values.reshape(features.shape[1:])


def _parts_at_seeds(masks: ndarray, row: ndarray, column: ndarray) -> ndarray:
    """(S, n, n) bool: the connected part of each mask (S, n, n) that contains the pixel of its
    seed.
    """
    flat = np.zeros((3, 3, 3), bool)
    flat[1] = True  # windows are not neighbours
    parts, _ = scipy.ndimage.label(masks, flat)
    return masks & (parts == parts[np.arange(len(masks)), row, column][:, None, None])


def _paint(
    prob: ndarray, pixels: tuple[ndarray, ndarray], shape: tuple[int, int]
) -> tuple[ndarray, ndarray]:
    """Numbers (h, w) int32 of nuclei from the seeds' probabilities (S, n, n), and the greatest
    probability (h, w).
    """
    place = np.ravel_multi_index(pixels, shape)
    owner = np.indices(prob.shape)[0]
    rising = np.argsort(prob, axis=None, kind="stable")
    rising = rising[prob.ravel()[rising] > 0]
    place, owner = place.ravel()[rising], owner.ravel()[rising]
    labels, best = np.zeros(shape, np.int32), np.zeros(shape)
    nucleus = _join_similar(owner, place, len(prob), labels.size)
    labels.flat[place] = nucleus[owner] + 1  # the most probable of the seeds, the last, remains
    best.flat[place] = prob.ravel()[rising]
    return labels, best


def _join_similar(owner: ndarray, place: ndarray, n_seeds: int, n_pixels: int) -> ndarray:
    """(S,) the number of the nucleus of each seed, from the pixels (P,) of the masks."""
    masks = scipy.sparse.csr_array(
        (np.ones(len(owner), np.int32), (owner, place)), (n_seeds, n_pixels)
    )
    shared, size = scipy.sparse.coo_array(masks @ masks.T), masks.sum(1)
    first, second = shared.coords
    same = shared.data > SAME_IOU * (size[first] + size[second] - shared.data)
    pairs = scipy.sparse.coo_array((same[same], (first[same], second[same])), shared.shape)
    return scipy.sparse.csgraph.connected_components(pairs, directed=False)[1]

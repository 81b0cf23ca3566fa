"""Connected components of large masks, numbered strip by strip so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import cv2
import numpy as np

from muse_pipeline.tissue.overview import strips


def drop_small(
    mask: np.ndarray, min_pixels: float, connectivity: int = 8, keep_at_border: bool = False
) -> np.ndarray:
    """Drop components of fewer than ``min_pixels``; with ``keep_at_border``, an eighth suffices at
    the border.
    """
    components = Components(mask, connectivity)
    area = np.zeros(components.n, int)
    for _, number in components:
        area += np.bincount(number.ravel(), minlength=components.n)
    large = area >= min_pixels
    if keep_at_border:
        large |= components.at_border() & (area >= min_pixels / 8)
    return components.choose(large)


class Components:
    """The connected components of the true pixels in a mask (h, w) bool, numbered from 1; 0 marks
    all false pixels.

    Attributes:
        n: number of components, 0 included.
    """

    def __init__(self, mask: np.ndarray, connectivity: int = 8):
        self._pixels = np.ascontiguousarray(mask).view(np.uint8)
        self._connectivity = connectivity
        self.n, self._numbers = self._join_strips()

    def __iter__(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield each strip of rows with the component of each of its pixels, (rows, w) int32."""
        for strip, numbers in zip(strips(len(self._pixels)), self._numbers, strict=True):
            yield strip, numbers[self._label(strip)]

    def choose(self, chosen: np.ndarray) -> np.ndarray:
        """(h, w) bool: True where the number of a pixel's component is among the ``chosen`` (n,)
        bool, without 0.
        """
        mask, is_chosen = np.empty(self._pixels.shape, bool), chosen & (np.arange(self.n) > 0)
        for strip, component in self:
            mask[strip] = is_chosen[component]
        return mask

    def containing(self, find: Callable[[slice], np.ndarray]) -> np.ndarray:
        """(h, w) bool: the components with a pixel that ``find`` marks in a strip of rows, as
        (rows, w) bool.
        """
        chosen = np.zeros(self.n, bool)
        for strip, component in self:
            chosen[component[find(strip)]] = True
        return self.choose(chosen)

    def at_border(self) -> np.ndarray:
        """(n,) bool: True for components that touch the border of the mask."""
        touches, last = np.zeros(self.n, bool), len(self._pixels) - 1
        for strip, number in self:
            touches[number[:, [0, -1]]] = True
            touches[
                number[[row - strip.start for row in (0, last) if strip.start <= row < strip.stop]]
            ] = True
        return touches

    def _label(self, strip: slice) -> np.ndarray:
        """The strip's own labels, the same in every call."""
        return cv2.connectedComponents(self._pixels[strip], connectivity=self._connectivity)[1]

    def _join_strips(self) -> tuple[int, list[np.ndarray]]:
        """Number of components, 0 included, and for each strip the component of each of its
        labels.
        """
        n_labels, last_row, touching = [], None, [np.zeros((2, 0), int)]
        for strip in strips(len(self._pixels)):
            labels = self._label(strip)
            before = sum(n_labels)
            n_labels.append(int(labels.max()))
            first, last = (np.where(row > 0, row + before, 0) for row in (labels[0], labels[-1]))
            if last_row is not None:
                touching.append(self._pairs(last_row, first))
            last_row = last
        first, second = np.concatenate(touching, axis=1)
        number = number_components(1 + sum(n_labels), first, second)
        starts = np.cumsum([1, *n_labels])
        return int(number.max()) + 1, [
            np.append(number[:1], number[a:b]) for a, b in pairwise(starts)
        ]

    def _pairs(self, upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
        """(2, k): pairs of labels that touch each other in two adjacent rows (w,)."""
        pairs = [(upper, lower)]
        if self._connectivity == 8:
            pairs += [(upper[1:], lower[:-1]), (upper[:-1], lower[1:])]
        both = np.concatenate([np.stack(pair) for pair in pairs], axis=1)
        return np.unique(both[:, (both > 0).all(0)], axis=1)


def number_components(n: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(n,) int32: the component of each node of a graph, numbered from 0 in the order of the
    components' first nodes.

    Edges join ``first`` (k,) to ``second`` (k,). Each node points to lower and lower nodes of its
    component, until all of them point to the lowest. (SciPy has such a function, but loading it
    takes longer than finding the tissue of a small slide.)
    """
    lowest = np.arange(n)
    while (apart := lowest[first] != lowest[second]).any():
        ends = np.sort([lowest[first[apart]], lowest[second[apart]]], axis=0)
        np.minimum.at(lowest, ends[1], ends[0])
        while (lowest[lowest] != lowest).any():
            lowest = lowest[lowest]
    return np.unique(lowest, return_inverse=True)[1].astype(np.int32)

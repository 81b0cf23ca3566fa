"""Nearest nuclei by the cosine of their features: the same nucleus seen twice, or others like it in other patients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from muse_pipeline.core.files import complete_file
from muse_pipeline.probing.network import SEED

DECIMALS = 5  # cosines that differ by less are equal: a collapsed network's differ by rounding alone


def find_similar(features: Tensor, patient: Sequence[str], queries: Sequence[int], k: int) -> np.ndarray:
    """The k nuclei of other patients that are most alike, nearest first.

    Args:
        features: (P, D), of any length.
        patient: (P,) patient of each nucleus.
        queries: (Q,) indices of the queries.
        k: number of neighbours, no more than the nuclei of other patients.

    Returns:
        (Q, k) indices of nuclei.
    """
    unit, names = functional.normalize(features.float(), dim=1), np.asarray(patient)
    similarity = unit[list(queries)] @ unit.T
    similarity[torch.from_numpy(names[list(queries), None] == names[None])] = -torch.inf
    return similarity.topk(k, dim=1).indices.numpy()


def cosines(one: Tensor, other: Tensor) -> Tensor:
    """(n, m) cosines of features (n, D) and (m, D), rounded."""
    one, other = (functional.normalize(features.float(), dim=1) for features in (one, other))
    return (one @ other.T).round(decimals=DECIMALS)


def recognised(one: Tensor, other: Tensor) -> np.ndarray:
    """Rate at which each of n nuclei is found again: top-1, in percent, both ways; of k equally near ones 1 / k.

    Args:
        one: (n, D) features in one view.
        other: (n, D) features of the same nuclei in another view.

    Returns:
        (n,) 0 to 100; chance is 100 / n.
    """
    similarity = cosines(one, other)
    hits = []
    for table in (similarity, similarity.T):
        nearest = table == table.max(1, keepdim=True).values
        hits.append(nearest.diagonal() / nearest.sum(1))
    return 50 * sum(hits).numpy()


def stability(one: Tensor, other: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Percentage of other nuclei that are less like each of n nuclei than its own other view.

    Args:
        one: (n, D) features in one view.
        other: (n, D) features of the same nuclei in another view.

    Returns:
        (n,) percent, 50 by chance and for a network with constant output; (n,) cosine with itself; (n,) mean
        cosine with the others.
    """
    similarity = cosines(one, other)
    own = similarity.diagonal()
    n_others = len(own) - 1
    below = (similarity < own[:, None]).sum(1) + 0.5 * ((similarity == own[:, None]).sum(1) - 1)
    different = (similarity.sum(1) - own) / n_others
    return (100 * below / n_others).numpy(), own.numpy(), different.numpy()


QUERIES = 8
NEIGHBOURS = 5
COUNTED = 1000
CROP_UM = 32.0
_TILE_PX, _FRAME_PX, _GAP_PX, _WIDE_PX, _TOP_PX, _BELOW_PX = 84, 3, 4, 22, 26, 30
_PLAIN = (205, 203, 198)


@dataclass(frozen=True, eq=False)
class NucleusGallery:
    """The P nuclei of the comparison.

    Attributes:
        patient: (P,) patient of each nucleus.
        crop: function from the number of a nucleus to the pixels (s, s, 3) uint8 around it.
        queries: numbers of the nuclei that may be queries.
        label: (P,) class index; None where none is known.
        classes: names of the classes.
        colors: RGB of the classes.
    """

    patient: np.ndarray
    crop: Callable[[int], np.ndarray]
    queries: np.ndarray
    label: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    colors: tuple[tuple[int, int, int], ...] = ()


def draw_neighbours(gallery: NucleusGallery, before: Tensor, after: Tensor, output: Path) -> str | None:
    """Draw random nuclei, each with its nearest among other patients' before and after.

    Args:
        gallery: the P nuclei.
        before: (P, D) features of the one network.
        after: (P, D') features of the other network.
        output: PNG file.

    Returns:
        A caption; None, without a picture, if there are too few nuclei of other patients.
    """
    queries = _draw_queries(gallery)
    fewest = min((int((gallery.patient != gallery.patient[query]).sum()) for query in queries), default=0)
    if fewest < NEIGHBOURS:
        return None
    sides = [find_similar(features, gallery.patient, queries, NEIGHBOURS) for features in (before, after)]
    rows = [[[query], *(side[row].tolist() for side in sides)] for row, query in enumerate(queries)]
    _save(gallery, rows, output)
    caption = (
        f"{len(queries)} nuclei drawn by lot, each of another class or patient where that can be, with the "
        f"{NEIGHBOURS} most like it in other patients, most alike first; {CROP_UM:g} um a side."
    )
    if gallery.label is None:
        return caption
    shares = [f"{100 * _share_of_class(gallery, features):.0f} %" for features in (before, after)]
    return (
        f"{caption} A frame has the colour of the nucleus' class. Of the {NEIGHBOURS} most like each of up to "
        f"{COUNTED:,} nuclei, {shares[0]} are of its class before and {shares[1]} after."
    )


def _share_of_class(gallery: NucleusGallery, features: Tensor) -> float:
    some = np.random.default_rng(SEED).permutation(gallery.queries)[:COUNTED]
    found = find_similar(features, gallery.patient, some.tolist(), NEIGHBOURS)
    return float((gallery.label[found] == gallery.label[some, None]).mean())


def _draw_queries(gallery: NucleusGallery) -> list[int]:
    """Choose queries by lot, never by how well either network does; classes and patients take turns."""
    drawn = np.random.default_rng(SEED).permutation(gallery.queries).tolist()
    label = np.zeros(len(gallery.patient), int) if gallery.label is None else gallery.label
    chosen: list[int] = []
    while drawn and len(chosen) < QUERIES:
        taken = label[chosen], gallery.patient[chosen]
        rank = [((taken[0] == label[one]).sum(), (taken[1] == gallery.patient[one]).sum()) for one in drawn]
        chosen.append(drawn.pop(min(range(len(drawn)), key=rank.__getitem__)))
    return chosen


def _save(gallery: NucleusGallery, rows: Sequence[Sequence[Sequence[int]]], output: Path) -> None:
    """Draw rows of groups (query, before, after) of nuclei."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # not pyplot, whose state is the whole process's

    step = _TILE_PX + _GAP_PX
    lefts, left = [], _GAP_PX
    for group in rows[0]:
        lefts.append(left)
        left += len(group) * step - _GAP_PX + _WIDE_PX
    width, height = left - _WIDE_PX + _GAP_PX, _TOP_PX + len(rows) * step + (_BELOW_PX if gallery.classes else 0)
    canvas = np.full((height, width, 3), 255, np.uint8)
    for row, groups in enumerate(rows):
        for start, group in zip(lefts, groups, strict=True):
            for column, nucleus in enumerate(group):
                x, y = start + column * step, _TOP_PX + row * step
                canvas[y : y + _TILE_PX, x : x + _TILE_PX] = _framed(gallery, nucleus)
    dpi = 100
    figure = Figure(figsize=(width / dpi, height / dpi), dpi=dpi)
    FigureCanvasAgg(figure)
    figure.figimage(canvas)
    for start, text in zip(lefts, ("nucleus", "most alike before", "most alike after"), strict=True):
        figure.text(start / width, 1 - _TOP_PX / 2 / height, text, fontsize=8.5, va="center")
    left = lefts[0]
    for name, color in zip(gallery.classes, gallery.colors, strict=True):
        ink = [channel / 255 for channel in color]
        text = figure.text(left / width, 0.5 * _BELOW_PX / height, name, fontsize=8.5, va="center", color=ink)
        left += text.get_window_extent().width + _WIDE_PX
    with complete_file(output) as partial:
        figure.savefig(partial, format="png", dpi=dpi, metadata={"Software": None})


def _framed(gallery: NucleusGallery, nucleus: int) -> np.ndarray:
    """(T, T, 3) uint8 picture of a nucleus in a frame."""
    known = gallery.label is not None and gallery.label[nucleus] >= 0
    tile = np.full((_TILE_PX, _TILE_PX, 3), gallery.colors[gallery.label[nucleus]] if known else _PLAIN, np.uint8)
    inner = _TILE_PX - 2 * _FRAME_PX
    crop = cv2.resize(gallery.crop(nucleus), (inner, inner), interpolation=cv2.INTER_CUBIC)
    tile[_FRAME_PX:-_FRAME_PX, _FRAME_PX:-_FRAME_PX] = crop
    return tile

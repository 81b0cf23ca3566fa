"""A check that an exported graph and its network find the same nuclei, classes and outlines."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy import ndarray
from scipy.spatial import cKDTree

from muse_pipeline.core.coords import CELL_PX
from muse_pipeline.core.errors import ModelError
from muse_pipeline.export.onnx import load_detector
from muse_pipeline.export.quantise import read_window
from muse_pipeline.inference.predictor import Predictor, nuclei_of_windows
from muse_pipeline.nuclei.table import Nuclei

MAX_PICTURES = 6
# maximum distance between two equally good cells, one of which becomes the peak by rounding
TIED_PX = 2.0 * CELL_PX
MAX_TIED = 0.02  # accepted share of nuclei whose peak is tied
# Neither symmetric nor the identity, so that a graph that ignores or transposes its map finds
# different nuclei.
COLOUR = np.array(
    [[1.05, -0.03, 0.02, 0.01], [0.04, 0.95, -0.02, 0.02], [-0.01, 0.03, 1.02, -0.01]], np.float32
)


@dataclass(frozen=True)
class Tolerance:
    """Largest differences allowed between two runtimes."""

    # share of nuclei that only one runtime finds, except for those near the threshold
    unmatched: float
    xy_px: float  # distance below which two positions belong to one nucleus
    # share of nuclei with different classes, except for those with nearly equal probabilities
    label: float
    score: float
    prob: float
    rays_um: float
    cosine: float  # smallest cosine similarity of embeddings
    embedding: float  # in standard deviations


# Half precision rounds to three digits, so the peak may move between two equally good cells. With
# int8 this happens for about 1 % of the nuclei, which get the outlines of the other cells; the
# class probabilities of one nucleus in two thousand change by up to a quarter. In full precision,
# embeddings reveal errors that hardly change nuclei: if GELU is approximated by tanh, embeddings
# change by 1e-3 standard deviations.
TOLERANCES = {
    "fp32": Tolerance(0.0, 0.05, 0.001, 1e-3, 1e-3, 0.01, 0.99999, 3e-4),
    "fp16": Tolerance(0.005, 0.05, 0.001, 0.01, 0.02, 0.05, 0.999, math.inf),
    "int8": Tolerance(0.05, 1.0, 0.01, 0.05, 0.3, 2.0, 0.98, math.inf),
}


@dataclass(frozen=True)
class Parity:
    """Largest differences between the nuclei that two runtimes found on the same windows."""

    n_windows: int
    n_nuclei: int  # that torch found
    # found by only one runtime, above the threshold by more than the tolerance of scores
    n_unmatched: int
    n_other_class: int  # with different classes, except for those with nearly equal probabilities
    xy_px: float
    score: float
    prob: float
    rays_um: float
    cosine: float  # smallest cosine similarity of embeddings; 1 without embeddings
    embedding: float  # in standard deviations; 0 without embeddings

    def is_within(self, tolerance: Tolerance) -> bool:
        """True if all differences are within their limits."""
        return (
            self.n_unmatched <= tolerance.unmatched * self.n_nuclei
            and self.n_other_class <= tolerance.label * self.n_nuclei
            and self.score <= tolerance.score
            and self.prob <= tolerance.prob
            and self.rays_um <= tolerance.rays_um
            and self.cosine >= tolerance.cosine
            and self.embedding <= tolerance.embedding
        )

    def __str__(self) -> str:
        return (
            f"{self.n_nuclei} nuclei on {self.n_windows} windows, {self.n_unmatched} found by only"
            f" one, {self.n_other_class} of a different class; largest differences: position"
            f" {self.xy_px:.2g} px, score {self.score:.2g}, probability {self.prob:.2g}, rays"
            f" {self.rays_um:.2g} um, embedding (if any) {max(1 - self.cosine, 0):.1g} (1 - cosine)"
            f" and {self.embedding:.1g} of its deviation"
        )


def check_parity(checkpoint: Path, model: Path, images: Path) -> Parity:
    """Compare a checkpoint, run in torch in float32, with the model exported from it, on the
    pictures in a folder.

    The pictures are PNG at the model's mpp; the upper left windows of the first six are compared.
    """
    predictor = Predictor(model)
    card = predictor.card
    # Windows, slots and outputs as in the model, but in float32.
    as_exported = {
        name: getattr(card, name) for name in ("input_px", "halo_px", "capacity", "threshold")
    }
    as_exported |= {"embedding": bool(card.embedding_dim), "any_window": True, "precision": "fp32"}
    graph, _ = load_detector(checkpoint, **as_exported)
    windows = [
        read_window(path, card.input_px)[1] for path in sorted(images.glob("*.png"))[:MAX_PICTURES]
    ]
    if not windows:
        raise ModelError(
            f"{images}: no PNG pictures to check the export on; give a folder that has some"
        )
    tolerance = TOLERANCES[card.precision]
    pairs = []
    for window in windows:
        batch = np.repeat(window[None], card.batch, 0)
        exported = nuclei_of_windows(predictor.run(predictor.outputs, batch, COLOUR))[0]
        pixels = torch.from_numpy(window).permute(2, 0, 1)[None]
        with torch.no_grad():
            expected = [part.numpy() for part in graph(pixels, torch.from_numpy(COLOUR))]
        pairs.append((nuclei_of_windows(expected)[0], exported))
    parity = compare(pairs, card.threshold, tolerance)
    if not parity.n_nuclei:
        raise ModelError(
            f"{images}: the network finds no nucleus on these pictures, so nothing can be compared;"
            " check on tissue at its own mpp (--check-images), lower its `threshold`, or train it"
            " longer"
        )
    if not parity.is_within(tolerance):
        is_full = all(len(exported) >= card.capacity for _, exported in pairs)
        hint = (
            "; every window is full of nuclei: train it longer, or raise its `threshold`"
            if is_full
            else ""
        )
        raise ModelError(
            f"{checkpoint}: the exported graph differs from its checkpoint ({parity}); do not use"
            f" it{hint}"
        )
    return parity


def compare(pairs: list[tuple[Nuclei, Nuclei]], threshold: float, tolerance: Tolerance) -> Parity:
    """Compare pairs of expected nuclei and those of the exported model, one pair per window.

    Nuclei are matched by position, because the order of nearly equal scores may differ. Nuclei may
    differ if they are within the tolerance of a decision: at the threshold, between two classes or,
    for a few nuclei, between two neighbouring cells.
    """
    alone, both = [], []
    for expected, exported in pairs:
        first, second = _matches(expected.xy, exported.xy, tolerance.xy_px)
        alone.append((_without(expected, first), _without(exported, second)))
        both.append((expected[first], exported[second]))
    untied = [_without_ties(*pair, tolerance.score) for pair in alone]
    n_tied = sum(len(here[0]) - len(there[0]) for here, there in zip(alone, untied, strict=True))
    if n_tied <= MAX_TIED * sum(len(expected) for expected, _ in pairs):
        alone = untied
    n_unmatched = sum(
        int((nuclei.score >= threshold + tolerance.score).sum())
        for pair in alone
        for nuclei in pair
    )
    expected, exported = (Nuclei.concatenate(list(side)) for side in zip(*both, strict=True))
    deviation = float(expected.embedding.std()) if expected.embedding.size else 1.0
    return Parity(
        n_windows=len(pairs),
        n_nuclei=sum(len(expected) for expected, _ in pairs),
        n_unmatched=n_unmatched,
        # The probabilities of the two likeliest classes may each differ by the tolerance.
        n_other_class=int(
            (
                (expected.label != exported.label) & (_margin(expected.prob) > 2 * tolerance.prob)
            ).sum()
        ),
        xy_px=float(np.hypot(*(expected.xy - exported.xy).T).max(initial=0.0)),
        score=_largest_difference(expected.score, exported.score),
        prob=_largest_difference(expected.prob, exported.prob),
        rays_um=_largest_difference(expected.rays, exported.rays),
        cosine=_smallest_cosine(expected.embedding, exported.embedding),
        embedding=_largest_difference(expected.embedding, exported.embedding)
        / max(deviation, 1e-12),
    )


def _without_ties(expected: Nuclei, exported: Nuclei, score: float) -> tuple[Nuclei, Nuclei]:
    """Remove from both sets the nuclei that have their peaks at different cells with equal
    scores.
    """
    first, second = _matches(expected.xy, exported.xy, TIED_PX)
    tied = np.abs(expected.score[first] - exported.score[second]) <= score
    return _without(expected, first[tied]), _without(exported, second[tied])


def _without(nuclei: Nuclei, index: ndarray) -> Nuclei:
    return nuclei[np.delete(np.arange(len(nuclei)), index)]


def _matches(first: ndarray, second: ndarray, within_px: float) -> tuple[ndarray, ndarray]:
    """Indices of the mutually nearest positions in the two sets that are less than ``within_px``
    apart.
    """
    if not len(first) or not len(second):
        return np.zeros(0, int), np.zeros(0, int)
    distance, nearest = cKDTree(second).query(first)
    _, back = cKDTree(first).query(second)
    mutual = (distance < within_px) & (back[nearest] == np.arange(len(first)))
    return np.flatnonzero(mutual), nearest[mutual]


def _margin(prob: ndarray) -> ndarray:
    """(N,) lead of the most probable class over the second most probable."""
    if prob.shape[1] < 2:
        return np.ones(len(prob))
    second, first = np.sort(prob, axis=1)[:, -2:].T
    return first - second


def _largest_difference(expected: ndarray, exported: ndarray) -> float:
    return float(np.abs(expected - exported).max(initial=0.0))


def _smallest_cosine(expected: ndarray, exported: ndarray) -> float:
    """Smallest cosine of non-zero vectors; zero vectors, of nuclei outside the window, must be zero
    in both sets.
    """
    lengths = np.linalg.norm(expected, axis=1) * np.linalg.norm(exported, axis=1)
    cosine = (expected * exported).sum(1) / np.where(lengths > 0, lengths, 1)
    return float(np.where(lengths > 0, cosine, (expected == exported).all(1)).min(initial=1.0))

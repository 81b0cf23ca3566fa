"""Does the exported graph find the same nuclei as the network it was made from?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from scipy.spatial import cKDTree

from muse_pipeline.errors import ModelError
from muse_pipeline.export.onnx import load_detector
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.types import Frame

XY_TOLERANCE_PX = 0.01
SCORE_TOLERANCE = 1e-3
PROB_TOLERANCE = 1e-3
RAY_TOLERANCE_UM = 0.01
MAX_PICTURES = 4
# Not the identity, and no two rows or columns alike: a graph that lost or transposed its map finds other nuclei.
COLOUR = np.array([[1.05, -0.03, 0.02, 0.01], [0.04, 0.95, -0.02, 0.02], [-0.01, 0.03, 1.02, -0.01]], np.float32)


@dataclass(frozen=True)
class Parity:
    """Largest differences between the two, over nuclei that both found, and how many only one found."""

    n_nuclei: int
    n_unmatched: int
    xy_px: float
    score: float
    prob: float
    rays_um: float

    @property
    def is_close(self) -> bool:
        """Whether every difference is within its tolerance and at most one nucleus in a thousand is without partner."""
        return (
            self.n_unmatched <= 0.001 * self.n_nuclei
            and self.xy_px <= XY_TOLERANCE_PX
            and self.score <= SCORE_TOLERANCE
            and self.prob <= PROB_TOLERANCE
            and self.rays_um <= RAY_TOLERANCE_UM
        )

    def __str__(self) -> str:
        return (
            f"{self.n_nuclei} nuclei, {self.n_unmatched} found by one only; largest differences: position "
            f"{self.xy_px:.2g} px, score {self.score:.2g}, probability {self.prob:.2g}, rays {self.rays_um:.2g} um"
        )


def check_parity(checkpoint: Path, model: Path, images: Path) -> Parity:
    """Run both on the pictures of a folder.

    Raises:
        ModelError: there is no picture, no nucleus on them, or the two differ by more than the tolerances.
    """
    graph, card = load_detector(checkpoint)
    predictor = Predictor(model)
    windows = [_window(path, card.input_px) for path in sorted(images.glob("*.png"))[:MAX_PICTURES]]
    if not windows:
        raise ModelError(f"{images}: no PNG pictures to check the export on; give a folder that has some")
    parity = _compare(
        Nuclei.concatenate([_run_torch(graph, window) for window in windows]),
        Nuclei.concatenate([predictor(_batch(window, card.batch), COLOUR)[0] for window in windows]),
    )
    if not parity.n_nuclei:
        raise ModelError(f"{images}: the network finds no nucleus on these pictures; check on tissue at its own mpp")
    if not parity.is_close:
        raise ModelError(f"{model}: the exported graph differs from its checkpoint ({parity}); do not use it")
    return parity


def _window(path: Path, input_px: int) -> np.ndarray:
    window = np.full((input_px, input_px, 3), 255, np.uint8)
    pixels = cv2.imread(str(path))[:input_px, :input_px, ::-1]
    window[: pixels.shape[0], : pixels.shape[1]] = pixels
    return window


def _batch(window: np.ndarray, batch: int) -> np.ndarray:
    return np.repeat(window[None], batch, 0)


@torch.no_grad()
def _run_torch(graph: torch.nn.Module, window: np.ndarray) -> Nuclei:
    pixels = torch.from_numpy(window).permute(2, 0, 1)[None]
    xy, score, prob, rays = (values[0].numpy() for values in graph(pixels, torch.from_numpy(COLOUR)))
    n = int((score > 0).sum())
    return Nuclei(xy[:n], Frame.WINDOW, rays=rays[:n], score=score[:n], prob=prob[:n])


def _compare(expected: Nuclei, found: Nuclei) -> Parity:
    """Slots are sorted by score and near-equal scores may change places: match by position and score together."""
    n_nuclei = len(expected)
    if not len(expected) or not len(found):
        return Parity(n_nuclei, len(expected) + len(found), 0.0, 0.0, 0.0, 0.0)
    key = [np.column_stack([n.xy, 100 * n.score]) for n in (expected, found)]
    distance, nearest = cKDTree(key[1]).query(key[0])
    both = distance < 1.0
    n_unmatched = int((~both).sum()) + len(found) - len(np.unique(nearest[both]))
    expected, found = expected[both], found[nearest[both]]
    return Parity(
        n_nuclei,
        n_unmatched,
        _largest_difference(expected.xy, found.xy),
        _largest_difference(expected.score, found.score),
        _largest_difference(expected.prob, found.prob),
        _largest_difference(expected.rays, found.rays),
    )


def _largest_difference(expected: np.ndarray, found: np.ndarray) -> float:
    return float(np.abs(expected - found).max(initial=0.0))

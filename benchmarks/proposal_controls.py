"""Each way to find nuclei without labels behind one function, for ``proposals``.

``fit(pixels, mpp)`` gives a finder, and ``finder(pixels)`` an instance image (h, w) int32. A mask comes twice: its
pieces as they are, and cut into nuclei by one rule for all.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from muse_pipeline.evaluation.segmentation import rings_to_labels
from muse_pipeline.inference.colour import colour_for_slide
from muse_pipeline.inference.image import detect_image
from muse_pipeline.inference.predictor import Predictor, find_model
from muse_pipeline.nuclei.rays import rays_to_rings
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.proposals.cut import cut_mask
from muse_pipeline.proposals.haematoxylin_density import blend_stains, haematoxylin
from muse_pipeline.proposals.otsu import fit_otsu
from muse_pipeline.tissue.macenko import fit_macenko

Find = Callable[[np.ndarray], np.ndarray]
Fit = Callable[[np.ndarray, float], Find]


def make_controls(activation: Path | None, model: str | None) -> dict[str, Fit]:
    """Every control by name, those that need a file only with it."""
    masks: dict[str, Fit] = {"c Otsu on haematoxylin": lambda pixels, mpp: fit_otsu([pixels], mpp)}
    controls = {}
    for name, fit in masks.items():
        controls |= {name: in_pieces(fit), f"{name}, cut": in_nuclei(fit)}
    if model:
        controls["g label-free network"] = network(model)
    return controls


def in_pieces(fit: Fit) -> Fit:
    """Connected pieces of a mask."""

    def fit_pieces(pixels: np.ndarray, mpp: float) -> Find:
        mask = fit(pixels, mpp)
        return lambda pixels: cv2.connectedComponents(mask(pixels).astype(np.uint8))[1]

    return fit_pieces


def in_nuclei(fit: Fit) -> Fit:
    """A mask cut by its depth and the haematoxylin in it."""

    def fit_nuclei(pixels: np.ndarray, mpp: float) -> Find:
        mask, stains = fit(pixels, mpp), own_stains(pixels)
        return lambda pixels: cut_mask(mask(pixels), haematoxylin(pixels, stains), mpp)

    return fit_nuclei


def own_stains(pixels: np.ndarray) -> np.ndarray:
    """(2, 3) stains of a picture, held near textbook."""
    own = fit_macenko(pixels.reshape(-1, 3))
    return blend_stains(own and own.stains)


def network(model: str) -> Fit:
    """A model file as ``muse detect`` runs it, its outlines painted, the surest on top."""
    predictor = Predictor(find_model(model))
    card = predictor.card

    def fit(pixels: np.ndarray, mpp: float) -> Find:
        own = fit_macenko(pixels.reshape(-1, 3))
        statistics = {"macenko": own and {"stains": own.stains, "strong": own.strong}}
        colour = colour_for_slide(card.colour, statistics)

        def find(pixels: np.ndarray) -> np.ndarray:
            size = tuple(round(side * mpp / card.mpp) for side in pixels.shape[1::-1])
            scaled = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
            return paint(detect_image(predictor, scaled, colour), card.mpp, pixels.shape[:2], mpp)

        return find

    return fit


def paint(nuclei: Nuclei, nuclei_mpp: float, shape: tuple[int, int], mpp: float) -> np.ndarray:
    """(h, w) int32: outlines of nuclei at ``nuclei_mpp`` in a picture of ``mpp``, the surest on top."""
    nuclei = nuclei[np.argsort(nuclei.score, kind="stable")]
    return rings_to_labels(rays_to_rings(nuclei.xy * (nuclei_mpp / mpp), nuclei.rays, (mpp, mpp)), shape)

"""Every way to find nuclei without labels that the table compares."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch

from experiments.common.proposals import BACKBONE, Find, Fit, Mask, as_instances, psm
from muse_pipeline.inference.colour_input import colour_of_fit
from muse_pipeline.inference.detect import detect_image
from muse_pipeline.inference.model import find_model
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.models.activation import ActivationNetwork, find_stages, load_activation
from muse_pipeline.nuclei.masks import rings_to_labels
from muse_pipeline.nuclei.rays import rays_to_rings
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.proposals.activation_map import PRESETS, ClusterSettings
from muse_pipeline.proposals.otsu import fit_otsu
from muse_pipeline.tissue.stain import fit_macenko


def make_controls(activation: Path, model: str | None) -> dict[str, Fit]:
    """Every control by name.

    Args:
        activation: checkpoint of an activation network.
        model: a model file or a built-in model's name; without it there is no (f).
    """
    trained = load_activation(activation)
    torch.manual_seed(0)
    untrained = ActivationNetwork(BACKBONE, 1).eval()
    stain, colour = ClusterSettings(), ClusterSettings(features="colour", n_clusters=3, foreground="dark")
    masks: dict[str, Mask] = {
        "a PSM and clusters": psm(trained, stain),
        "a PSM and clusters, preset rel2022": psm(trained, PRESETS["rel2022"]),
        "a PSM and clusters, preset rel2023": psm(trained, PRESETS["rel2023"]),
        "b k-means of colour": psm(None, colour),
        "b k-means of both stains": psm(None, replace(stain, map_weight=0)),
        "c Otsu on haematoxylin": lambda pixels, mpp: fit_otsu([pixels], mpp),
        "d PSM of an untrained network": psm(untrained, stain),
        "e PSM of the deepest stage": psm(DeepestStage(trained), stain),
    }
    controls = {name: as_instances(mask) for name, mask in masks.items()}
    if model:
        controls["f label-free network"] = network(model)
    return controls


class DeepestStage:
    """An activation network whose map is read from its last stage; for one thread."""

    def __init__(self, network: ActivationNetwork):
        self.network, self.backbone = network, network.backbone

    def read_activations(self, pixels: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """See ``ActivationNetwork``."""
        seen: list[torch.Tensor] = []
        blocks = find_stages(self.backbone, "of the trained network")[-1]
        hooks = [block.register_forward_hook(lambda *call: seen.append(call[-1])) for block in blocks]
        try:
            return self.network(pixels).mean(1), seen
        finally:
            for hook in hooks:
                hook.remove()


def network(model: str) -> Fit:
    """A model file as ``muse detect`` runs it, its outlines painted, the surest on top."""
    predictor = Predictor(find_model(model))
    card = predictor.card

    def fit(pixels: np.ndarray, mpp: float) -> Find:
        colour = colour_of_fit(card.colour, fit_macenko(pixels.reshape(-1, 3)))

        def find(pixels: np.ndarray) -> dict[str, np.ndarray]:
            size = tuple(round(side * mpp / card.mpp) for side in pixels.shape[1::-1])
            scaled = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
            return {"": paint(detect_image(predictor, scaled, colour), card.mpp, pixels.shape[:2], mpp)}

        return find

    return fit


def paint(nuclei: Nuclei, nuclei_mpp: float, shape: tuple[int, int], mpp: float) -> np.ndarray:
    """(h, w) int32: outlines of nuclei at ``nuclei_mpp`` in a picture of ``mpp``, the surest on top."""
    nuclei = nuclei[np.argsort(nuclei.score, kind="stable")]
    return rings_to_labels(rays_to_rings(nuclei.xy * (nuclei_mpp / mpp), nuclei.rays, (mpp, mpp)), shape)

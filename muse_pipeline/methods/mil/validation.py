"""Scores of a network on images that it is not trained on: by the labels of images, and by masks if there are any."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch

from muse_pipeline.core.coords import CELL_PX
from muse_pipeline.evaluation.bootstrap import area_under_curve
from muse_pipeline.labels.tissue import UNKNOWN, TissueImage
from muse_pipeline.losses.gm_mil import EXPONENT
from muse_pipeline.models.region import RegionNetwork

SCORES = {"labels": "validation AUC of images", "masks": "validation F1 of pixels, by masks"}
THRESHOLD = 0.5


class RegionScorer:
    """Maps images window by window, as in training, and scores the maps.

    Args:
        network: network that is scored, with its weights at the time of a call.
        images: images to score, all with labels of the image or of pixels.
        colours: (N, 3, 4) colour map of each image.
        window_px: side of a window.
    """

    def __init__(self, network: RegionNetwork, images: Sequence[TissueImage], colours: np.ndarray, window_px: int):
        self.network, self.images, self.colours, self.window_px = network, images, colours, window_px

    @torch.no_grad()
    def maps(self) -> list[np.ndarray]:
        """(K, rows, columns) fused map of each image on cells of 4 px, as far as whole windows cover it."""
        was_training = self.network.training
        self.network.eval()
        found = [self._map(image.pixels, colour) for image, colour in zip(self.images, self.colours, strict=True)]
        self.network.train(was_training)
        return found

    def _map(self, pixels: np.ndarray, colour: np.ndarray) -> np.ndarray:
        device, side = next(self.network.parameters()).device, self.window_px
        height, width = (-(-length // side) * side for length in pixels.shape[:2])
        borders = 0, height - pixels.shape[0], 0, width - pixels.shape[1]
        padded = torch.from_numpy(cv2.copyMakeBorder(pixels, *borders, cv2.BORDER_REFLECT)).to(device)
        windows = padded.permute(2, 0, 1).unfold(1, side, side).unfold(2, side, side)  # (3, rows, columns, S, S)
        rows, columns = windows.shape[1:3]
        windows = windows.permute(1, 2, 0, 3, 4).reshape(-1, 3, side, side).float()
        fused = torch.cat(
            [self.network(some, torch.as_tensor(colour, device=device)).fused.float() for some in windows.split(16)]
        )
        cells = side // CELL_PX
        whole = (
            fused.view(rows, columns, -1, cells, cells)
            .permute(2, 0, 3, 1, 4)
            .reshape(-1, rows * cells, columns * cells)
        )
        height, width = (max(length // CELL_PX, 1) for length in pixels.shape[:2])
        return whole[:, :height, :width].cpu().numpy()

    def score(self) -> dict[str, float]:
        """Scores by their names in ``SCORES``; that of masks only if there are some."""
        maps = self.maps()
        scores = {SCORES["labels"]: image_auc(maps, self.images)}
        if any(image.mask is not None for image in self.images):
            scores[SCORES["masks"]] = pixel_f1(maps, self.images)
        return {name: round(value, 5) for name, value in scores.items()}


def image_probability(fused: np.ndarray) -> np.ndarray:
    """(K,) generalised mean of the maps (K, h, w) of an image."""
    return np.mean(fused.astype(np.float64) ** EXPONENT, (1, 2)) ** (1 / EXPONENT)


def image_auc(maps: Sequence[np.ndarray], images: Sequence[TissueImage]) -> float:
    """Area under the ROC curve of the images' probabilities, mean over the classes but the first."""
    labelled = [index for index, image in enumerate(images) if image.label >= 0]
    labels = np.array([images[index].label for index in labelled])
    scores = np.stack([image_probability(maps[index]) for index in labelled])
    areas = [area_under_curve(scores[:, k], labels == k + 1) for k in range(scores.shape[1])]
    return float(np.nanmean(areas))


def pixel_f1(maps: Sequence[np.ndarray], images: Sequence[TissueImage]) -> float:
    """F1 of the cells of the classes but the first, over the images of any of them that have a mask."""
    hits = wrong = 0
    for fused, image in zip(maps, images, strict=True):
        if image.mask is None or image.label == 0:
            continue
        size = fused.shape[2], fused.shape[1]
        truth = cv2.resize(image.mask, size, interpolation=cv2.INTER_NEAREST_EXACT)
        found = np.where(fused.max(0) >= THRESHOLD, fused.argmax(0) + 1, 0)
        for label in range(1, len(fused) + 1):
            one, other = found[truth != UNKNOWN] == label, truth[truth != UNKNOWN] == label
            hits, wrong = hits + int((one & other).sum()), wrong + int((one ^ other).sum())
    return 2 * hits / max(2 * hits + wrong, 1)

"""Data for a stage: labelled images for training and validation, their colours, and validation
scores.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy import ndarray

from muse_pipeline.core.coords import CELL_PX
from muse_pipeline.core.text import count_noun
from muse_pipeline.evaluation.bootstrap import area_under_curve
from muse_pipeline.inference.card import DICE, DICE_OF_PAINTING, ColourReference
from muse_pipeline.inference.stains import colour_of_fit, reference_stains
from muse_pipeline.labels.statistics import check_leaks, mean_stains
from muse_pipeline.methods.mil.attention import LABELS, TRAINING, VALIDATION
from muse_pipeline.methods.mil.config import StageConfig
from muse_pipeline.methods.mil.method import EXPONENT, THRESHOLD
from muse_pipeline.methods.mil.tissue import (
    UNKNOWN,
    TissueImage,
    TissueSource,
    read_tissue_images,
    require_all_classes,
)
from muse_pipeline.methods.mil.windows import RegionWindows
from muse_pipeline.models.region import RegionNetwork


@dataclass(frozen=True, eq=False)
class RegionData:
    """Labelled images at the config's mpp."""

    config: StageConfig  # settings of the stage
    images: list[TissueImage]  # images to train on
    held: list[TissueImage]  # validation images of other patients; may be empty
    reference: ColourReference  # colour reference that slides are normalised to

    def make_windows(self, device: torch.device) -> RegionWindows:
        """Batches of training windows on ``device``."""
        colours = self._colours(self.images)
        stains = reference_stains(self.reference)
        return RegionWindows(
            self.images, colours, stains, len(self.config.classes), self.config, device
        )

    def make_scorer(self, network: RegionNetwork) -> RegionScorer:
        """Scorer of ``network`` on the validation images."""
        return RegionScorer(network, self.held, self._colours(self.held), self.config.window_px)

    def describe(self) -> str:
        """Describe the number of images in each class and the number of patients, for each
        split.
        """
        lines = []
        for split, images in (("training", self.images), ("validation", self.held)):
            counts = Counter(image.label for image in images)
            named = [
                f"{counts[index]} {name}" for index, name in enumerate(self.config.class_names)
            ]
            drawn = [f"{counts[-1]} with labelled pixels"] if counts[-1] else []
            patients = count_noun(len({image.patient for image in images}), "patient")
            lines += [f"{split}: {', '.join([*named, *drawn])}; {patients}"] if images else []
        return "\n".join(lines)

    def _colours(self, images: Sequence[TissueImage]) -> ndarray:
        return np.stack([colour_of_fit(self.reference, image.stain) for image in images])


def all_sources(config: StageConfig) -> tuple[tuple[TissueSource, ...], tuple[TissueSource, ...]]:
    """Sources for training and for validation, including the tiles chosen by attention."""
    if config.tiles is None:
        return config.sources, config.validation
    folders = config.tiles / TRAINING, config.tiles / VALIDATION
    tiles, held_tiles = (
        TissueSource(images=path / "images", table=path / LABELS, mpp=config.mpp)
        for path in folders
    )
    return (*config.sources, tiles), (*config.validation, held_tiles)


def read_region_data(config: StageConfig) -> RegionData:
    """Read all images of the config."""
    sources, validation = all_sources(config)
    images, held = (
        read_tissue_images(some, config.class_names, config.mpp, config.window_px)
        for some in (sources, validation)
    )
    require_all_classes(images, config.class_names, "training")
    if held:
        check_leaks(images, held)
        require_all_classes(
            [image for image in held if image.label >= 0], config.class_names, "validation"
        )
    return RegionData(
        config, images, held, mean_stains([image.stain for image in images], config.colour)
    )


AUC = "validation AUC of images"


@dataclass(eq=False)
class RegionScorer:
    """Maps images window by window, as in training, with the network's current weights, and scores
    the maps.

    ``colours`` (N, 3, 4) are the images' colour maps.
    """

    network: RegionNetwork
    images: Sequence[TissueImage]
    colours: ndarray
    window_px: int

    @torch.no_grad()
    def maps(self) -> list[ndarray]:
        """(K, rows, columns) fused map of each image, on the cells of 4 px that fit into it."""
        was_training = self.network.training
        self.network.eval()
        maps = [
            self._map(image.pixels, colour)
            for image, colour in zip(self.images, self.colours, strict=True)
        ]
        self.network.train(was_training)
        return maps

    def _map(self, pixels: ndarray, colour: ndarray) -> ndarray:
        device = next(self.network.parameters()).device
        side = self.window_px
        height, width = (-(-length // side) * side for length in pixels.shape[:2])
        borders = 0, height - pixels.shape[0], 0, width - pixels.shape[1]
        padded = torch.from_numpy(cv2.copyMakeBorder(pixels, *borders, cv2.BORDER_REFLECT)).to(
            device
        )
        # (3, rows, columns, S, S)
        windows = padded.permute(2, 0, 1).unfold(1, side, side).unfold(2, side, side)
        rows, columns = windows.shape[1:3]
        windows = windows.permute(1, 2, 0, 3, 4).reshape(-1, 3, side, side).float()
        colour = torch.as_tensor(colour, device=device)
        cells = side // CELL_PX
        fused = torch.cat([self.network(part, colour).fused.float() for part in windows.split(16)])
        fused = fused.view(rows, columns, -1, cells, cells).permute(2, 0, 3, 1, 4)
        whole = fused.reshape(-1, rows * cells, columns * cells)
        height, width = (max(length // CELL_PX, 1) for length in pixels.shape[:2])
        return whole[:, :height, :width].cpu().numpy()

    def score(self) -> dict[str, float]:
        """``AUC`` and, with masks, the Dice of the maps and that of painting everything."""
        maps = self.maps()
        scores = {AUC: image_auc(maps, self.images)}
        if any(image.mask is not None for image in self.images):
            scores[DICE] = pixel_dice(maps, self.images)
            scores[DICE_OF_PAINTING] = dice_of_painting(maps, self.images)
        return {name: round(value, 5) for name, value in scores.items()}


def image_auc(maps: Sequence[ndarray], images: Sequence[TissueImage]) -> float:
    """Area under the ROC curve of generalised means of the images' maps, averaged over all classes
    but the first.
    """
    labelled = [index for index, image in enumerate(images) if image.label >= 0]
    labels = np.array([images[index].label for index in labelled])
    of_images = (np.mean(maps[index].astype(np.float64) ** EXPONENT, (1, 2)) for index in labelled)
    scores = np.stack([mean ** (1 / EXPONENT) for mean in of_images])
    areas = [area_under_curve(scores[:, k], labels == k + 1) for k in range(scores.shape[1])]
    return float(np.nanmean(areas))


def dice_of_painting(maps: Sequence[ndarray], images: Sequence[TissueImage]) -> float:
    """The largest ``pixel_dice`` of maps, as large as ``maps``, that have the same class
    everywhere.
    """
    classes = np.eye(len(maps[0]))[..., None, None]
    shapes = [fused.shape for fused in maps]
    return max(
        pixel_dice([np.broadcast_to(flat, shape) for shape in shapes], images) for flat in classes
    )


def pixel_dice(maps: Sequence[ndarray], images: Sequence[TissueImage]) -> float:
    """Dice of cells over all classes but the first, on images with a mask, except images of the
    first class.
    """
    hits = wrong = 0
    for fused, image in zip(maps, images, strict=True):
        if image.mask is None or image.label == 0:
            continue
        size = fused.shape[2], fused.shape[1]
        truth = cv2.resize(image.mask, size, interpolation=cv2.INTER_NEAREST_EXACT)
        predicted = np.where(fused.max(0) >= THRESHOLD, fused.argmax(0) + 1, 0)[truth != UNKNOWN]
        for label in range(1, len(fused) + 1):
            inside = predicted == label
            true = truth[truth != UNKNOWN] == label
            hits += int((inside & true).sum())
            wrong += int((inside ^ true).sum())
    return 2 * hits / max(2 * hits + wrong, 1)

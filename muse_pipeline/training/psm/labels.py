"""PSM's labels stage: masks become instances and points, as label files that ``muse finetune`` reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from muse_pipeline.core.errors import LabelError
from muse_pipeline.labels.formats import IMAGES, INSTANCES, POINTS, write_instances
from muse_pipeline.labels.sources import LabelSource
from muse_pipeline.proposals.otsu_mask import blend_stains, cut_mask, drop_small_labels, haematoxylin
from muse_pipeline.proposals.points import find_points, split_mask
from muse_pipeline.tissue.stain import fit_macenko
from muse_pipeline.training.psm.config import PsmConfig
from muse_pipeline.training.psm.mask_network import TrainedMask
from muse_pipeline.training.psm.masks import read_pictures_and_masks

CLASS = "Nucleus"
BLUR_UM = 0.25  # of the density that a mask is cut by, as in ``proposals.otsu_mask``
MOST = 65535  # instances of a picture in 16 bits


def write_labels(
    config: PsmConfig, masks: Path, network: Path | None, folder: Path, say: Callable[[str], None]
) -> None:
    """Write images, instances (16-bit PNG, 0 background) and points (x, y, class; at the instances' centroids).

    Args:
        config: of the run.
        masks: folder of the masks stage.
        network: checkpoint of the mask network; None: its masks are used as they are.
        folder: that exists.
        say: called with a sentence on what was written.

    Raises:
        CheckpointError: the network cannot be read.
        LabelError: the masks stage is damaged.
    """
    teacher = TrainedMask.load(network) if network else None
    n_nuclei = n_pictures = 0
    for name, pixels, mask in read_pictures_and_masks(masks):
        probability = teacher(pixels) if teacher else mask.astype(np.float32)
        n_here = write_found(folder, name, pixels, split_instances(probability, pixels, config), config.mpp)
        n_nuclei, n_pictures = n_nuclei + n_here, n_pictures + bool(n_here)
    say(f"labels: {n_nuclei:,} instances in {n_pictures} pictures")


def label_source(folder: Path, mpp: float) -> LabelSource:
    """What ``write_found`` left in ``folder``, as labels to train on."""
    return LabelSource(
        folder / INSTANCES, "instances", images=folder / IMAGES, mpp=mpp, points=folder / POINTS, allow_empty=True
    )


def write_found(folder: Path, name: str, pixels: np.ndarray, instances: np.ndarray, mpp: float) -> int:
    """Write one picture (h, w, 3) with its instances (h, w), 1..N, and say how many; nothing where there are none.

    Raises:
        LabelError: there are more than a label image holds.
    """
    n_instances = int(instances.max(initial=0))
    if n_instances > MOST:
        raise LabelError(f"{name}: {n_instances:,} nuclei are more than the {MOST:,} a picture may hold; cut it up")
    if not n_instances:
        return 0
    write_instances(folder, name, pixels, instances, [CLASS] * n_instances, mpp)
    return n_instances


def split_instances(probability: np.ndarray, pixels: np.ndarray, config: PsmConfig) -> np.ndarray:
    """(h, w) int32: 1..N, 0 background, of a probability (h, w) and its picture (h, w, 3)."""
    settings, mpp = config.labels, config.mpp
    mask = probability >= settings.threshold
    if settings.split == "voronoi":
        instances = split_mask(mask, find_points(probability, mpp, settings.points))
    else:
        fit = fit_macenko(pixels.reshape(-1, 3))
        density = haematoxylin(pixels, blend_stains(fit and fit.stains))
        instances = cut_mask(mask, cv2.GaussianBlur(density, (0, 0), BLUR_UM / mpp), mpp)
    return drop_small_labels(instances, settings.min_area_um2 / mpp**2)

"""Instances for points: a foreground split by them, a watershed where there is none, else a disc."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from muse_pipeline.data.labelled_image import LabelledImage
from muse_pipeline.data.outlines import PLAUSIBLE_AREA_UM2
from muse_pipeline.inference.image import detect_picture
from muse_pipeline.inference.model_file import find_model
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.nuclei.label_image import rings_to_labels
from muse_pipeline.nuclei.rays import rays_to_rings
from muse_pipeline.proposals.otsu_mask import fit_otsu
from muse_pipeline.proposals.voronoi import keep_connected, place_points, split_mask

DISC_UM = 2.5  # radius where nothing is known: a small lymphocyte, so that little ground is claimed
KINDS = ("mask", "watershed", "disc")
FindMask = Callable[[LabelledImage, float], np.ndarray]


def instances_of_points(image: LabelledImage, mask: np.ndarray, mpp: float) -> tuple[np.ndarray, np.ndarray]:
    """Give every point exactly one instance.

    Args:
        image: its nuclei are points; their rays are those of a watershed, NaN where that failed.
        mask: (h, w) bool foreground of the picture.
        mpp: um per pixel.

    Returns:
        (h, w) int32, number i + 1 is nucleus i; and (N,) index in ``KINDS`` of where its instance is from.
    """
    nuclei, shape = image.nuclei, mask.shape
    split = split_mask(mask, nuclei.xy)
    area_um2 = np.bincount(split.ravel(), minlength=len(nuclei) + 1)[1:] * mpp**2
    from_mask = (area_um2 >= PLAUSIBLE_AREA_UM2[0]) & (area_um2 <= PLAUSIBLE_AREA_UM2[1])
    from_watershed = ~from_mask & np.isfinite(nuclei.rays).all(1)
    kind = np.where(from_mask, 0, np.where(from_watershed, 1, 2))

    rays = np.where(from_watershed[:, None], nuclei.rays, np.float32(DISC_UM))
    others = np.flatnonzero(~from_mask)
    painted = rings_to_labels(rays_to_rings(nuclei.xy[others], rays[others], (mpp, mpp)), shape)
    instances = np.concatenate([[0], others + 1])[painted].astype(np.int32)
    kept = np.isin(split, np.flatnonzero(from_mask) + 1)
    instances[kept] = split[kept]
    seeds = place_points(nuclei.xy, shape)
    instances[seeds > 0] = seeds[seeds > 0]
    return keep_connected(instances, seeds), kind


def mask_finder(name: str) -> FindMask:
    """What finds the foreground: "otsu", a built-in model or an .onnx file; "watershed" leaves all to the watershed.

    Raises:
        ModelError: there is no such model.
    """
    if name == "watershed":
        return lambda image, mpp: np.zeros(image.pixels.shape[:2], bool)
    if name == "otsu":
        return lambda image, mpp: fit_otsu([image.pixels], mpp, image.stain and image.stain.stains)(image.pixels)
    predictor = Predictor(find_model(name))
    return lambda image, mpp: _model_mask(predictor, image, mpp)


def _model_mask(predictor: Predictor, image: LabelledImage, mpp: float) -> np.ndarray:
    """(h, w) bool: the nuclei that a model finds, filled."""
    found = detect_picture(predictor, image.pixels, mpp, image.stain)
    return rings_to_labels(rays_to_rings(found.xy, found.rays, (mpp, mpp)), image.pixels.shape[:2]) > 0

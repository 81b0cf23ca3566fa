"""Nuclei from masks of instances, with classes from points beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from muse_pipeline.data.annotations import Annotations
from muse_pipeline.data.pictures import write_png
from muse_pipeline.errors import LabelError
from muse_pipeline.nuclei.label_image import label_image_to_nuclei
from muse_pipeline.nuclei.mask_file import read_label_image

IMAGES, INSTANCES, POINTS = "images", "instances", "points"  # folders of what ``write_instances`` leaves
POINT_TO_INSTANCE_UM = 2.0  # a point names the class of the nearest instance centroid within this distance


def read_instances(path: Path, size_px: tuple[int, int], mpp: float, n_rays: int) -> Annotations:
    """Read a mask (PNG, TIFF or NPY): 0 is background, every other number is one nucleus; classes are unknown.

    Args:
        path: the mask.
        size_px: (width, height) of its picture.
        mpp: um per pixel.
        n_rays: rays per nucleus.

    Raises:
        LabelError: the file cannot be read, is no mask or has another size.
    """
    mask = read_label_image(path)
    if mask.shape[::-1] != size_px:
        raise LabelError(
            f"{path}: is {mask.shape[1]} x {mask.shape[0]} px and its picture {size_px[0]} x {size_px[1]} px; "
            "give masks of the pictures' size"
        )
    nuclei = label_image_to_nuclei(mask, (mpp, mpp), n_rays)
    numbers = np.unique(mask)
    return Annotations(path, nuclei, numbers[numbers > 0], "instance", np.zeros(0, object))


def median_diameter_px(path: Path) -> float:
    """Diameter of the circle as large as the median nucleus of a mask.

    Raises:
        LabelError: the file cannot be read, is no mask or has no nucleus.
    """
    numbers, areas = np.unique(read_label_image(path), return_counts=True)
    areas = areas[numbers > 0]
    if not len(areas):
        raise LabelError(f"{path}: has no nucleus that diameter_um could be the size of; exclude the picture")
    return float(np.sqrt(4 * np.median(areas) / np.pi))


def name_instances(instances: Annotations, points: Annotations, mpp: float) -> None:
    """Give instances, in place, the class of the nearest point within 2 um of their centroid.

    Raises:
        LabelError: there are points and not one lies on an instance.
    """
    nuclei = instances.nuclei
    if not len(nuclei) or not len(points.nuclei):
        return
    distance, nearest = cKDTree(points.nuclei.xy).query(nuclei.xy)
    close = distance * mpp <= POINT_TO_INSTANCE_UM
    if not close.any():
        raise LabelError(
            f"{points.path}: no point lies within {POINT_TO_INSTANCE_UM:g} um of a nucleus of {instances.path.name}; "
            "is it another picture's, or rows and columns in the wrong order?"
        )
    nuclei.label = np.where(close, points.nuclei.label[nearest], -1).astype(np.int32)


def write_instances(
    folder: Path, name: str, pixels: np.ndarray, instances: np.ndarray, words: Sequence[str], mpp: float
) -> None:
    """Write a picture, its instances (16-bit PNG) and points that name their classes, for a source of instances.

    Args:
        folder: of the source; ``IMAGES``, ``INSTANCES`` and ``POINTS`` inside are made.
        name: of the picture.
        pixels: (h, w, 3) uint8.
        instances: (h, w), 0 is background.
        words: class of each instance, by number; written at its centroid, where it is found again.
        mpp: um per pixel.
    """
    for kind in (IMAGES, INSTANCES, POINTS):
        (folder / kind).mkdir(exist_ok=True)
    centres = label_image_to_nuclei(instances, (mpp, mpp), 3).xy - 0.5  # the file counts pixels from 0
    lines = ["x\ty\tclass", *(f"{x:.3f}\t{y:.3f}\t{word}" for (x, y), word in zip(centres, words, strict=True))]
    (folder / POINTS / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_png(folder / IMAGES / f"{name}.png", pixels)
    write_png(folder / INSTANCES / f"{name}.png", instances.astype(np.uint16))

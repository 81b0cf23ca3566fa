"""A source of points becomes one of instances: pictures, 16-bit masks, and points that name the classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from muse_pipeline.data.instance_labels import IMAGES, INSTANCES, POINTS, write_instances
from muse_pipeline.data.label_source import LabelSource
from muse_pipeline.data.labels import read_labelled_images
from muse_pipeline.errors import LabelError
from muse_pipeline.proposals.point_instances import KINDS, FindMask, instances_of_points

POINT_FORMATS = ("row column class", "x y class")
UNKNOWN = "unknown"


@dataclass(frozen=True)
class OutlineTask:
    """What outlines are for.

    Attributes:
        classes: of the model.
        mpp: um per pixel of what is written.
        n_rays: of the watershed's outlines.
        find_mask: see ``point_instances.mask_finder``.
    """

    classes: tuple[str, ...]
    mpp: float
    n_rays: int
    find_mask: FindMask


def is_outlined(source: LabelSource) -> bool:
    """Whether a source consists of points on pictures."""
    return source.format in POINT_FORMATS and source.images is not None


def outline_source(source: LabelSource, task: OutlineTask, folder: Path) -> tuple[LabelSource, dict[str, int]]:
    """Write one instance for every point of a source, and the source that reads them.

    Args:
        source: see ``is_outlined``.
        task: see there.
        folder: that is made.

    Returns:
        The new source, in which a picture is still its patient's; and how many instances are of which of ``KINDS``.

    Raises:
        LabelError: see ``data.labels.read_labelled_images``; or the source has regions.
    """
    if source.regions is not None:
        raise LabelError(f"{source.regions}: outlines are made for whole pictures; leave `regions` out, or this source")
    folder.mkdir(parents=True)
    kinds = np.zeros(len(KINDS), int)
    unknown = UNKNOWN if UNKNOWN not in task.classes else f"{max(task.classes, key=len)} {UNKNOWN}"
    for image in read_labelled_images((source,), task.classes, task.mpp, task.n_rays):
        instances, kind = instances_of_points(image, task.find_mask(image, task.mpp), task.mpp)
        words = [task.classes[label] if label >= 0 else unknown for label in image.nuclei.label]
        write_instances(folder, image.name, image.pixels, instances, words, task.mpp)
        kinds += np.bincount(kind, minlength=len(KINDS))
    class_map = {**{name: name for name in task.classes}, unknown: None}
    outlined = LabelSource(
        folder / INSTANCES,
        "instances",
        images=folder / IMAGES,
        mpp=task.mpp,
        class_map=class_map,
        points=folder / POINTS,
        allow_empty=source.allow_empty,
        weight=source.weight,
        patient=source.patient,
    )
    return outlined, dict(zip(KINDS, kinds.tolist(), strict=True))

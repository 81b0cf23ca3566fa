"""Conversion of a training config on points to one on instances.

Each source of points becomes pictures, 16-bit instance masks, and points with the classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from scipy import ndimage

from muse_pipeline.core.errors import LabelError
from muse_pipeline.core.files import complete_file, require_own_folder
from muse_pipeline.inference.detect import detect_picture
from muse_pipeline.inference.model import find_model
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.labels.outlines import PLAUSIBLE_AREA_UM2
from muse_pipeline.labels.pictures import LabelledImage
from muse_pipeline.labels.read import read_labelled_images
from muse_pipeline.labels.sources import LabelSource
from muse_pipeline.methods.detector.run import load_detector_config
from muse_pipeline.nuclei.masks import IMAGES, INSTANCES, POINTS, rings_to_labels, write_instances
from muse_pipeline.nuclei.rays import rays_to_rings
from muse_pipeline.proposals.otsu_mask import fit_otsu
from muse_pipeline.training.run import plain_settings

POINT_FORMATS = ("row column class", "x y class")
UNKNOWN = "unknown"


@dataclass(frozen=True)
class OutlineTask:
    """Classes, mpp and foreground for which outlines are made.

    Attributes:
        classes: names of the model's classes.
        mpp: um per pixel of the written pictures.
        n_rays: rays of the watershed's outlines.
        find_mask: function that finds the foreground, from ``mask_finder``.
    """

    classes: tuple[str, ...]
    mpp: float
    n_rays: int
    find_mask: FindMask


def is_outlined(source: LabelSource) -> bool:
    """True if a source consists of points on pictures."""
    return source.format in POINT_FORMATS and source.images is not None


def outline_source(source: LabelSource, task: OutlineTask, folder: Path) -> tuple[LabelSource, dict[str, int]]:
    """Write one instance for every point of a source, and the source that reads them.

    Args:
        source: source for which ``is_outlined`` is True.
        task: classes, mpp and foreground.
        folder: folder, which is made.

    Returns:
        The new source, in which patients are unchanged, and the number of instances of each of ``KINDS``.

    Raises:
        LabelError: the pictures or labels cannot be read, or the source has regions.
    """
    if source.regions is not None:
        raise LabelError(f"{source.regions}: outlines are made for whole pictures; leave `regions` out, or this source")
    folder.mkdir(parents=True)
    kinds = np.zeros(len(KINDS), int)
    unknown = UNKNOWN if UNKNOWN not in task.classes else f"{max(task.classes, key=len)} {UNKNOWN}"
    source = dataclasses.replace(source, grow_outlines=True)
    for image in read_labelled_images((source,), task.classes, task.mpp, task.n_rays):
        instances, kind = instances_of_points(image, task.find_mask(image, task.mpp), task.mpp)
        words = [task.classes[label] if label >= 0 else unknown for label in image.nuclei.label]
        write_instances(folder, image.name, image.pixels, instances, words)
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


DISC_UM = 2.5  # radius where nothing is known: a small lymphocyte, so that little ground is claimed
KINDS = ("mask", "watershed", "disc")
FindMask = Callable[[LabelledImage, float], np.ndarray]


def instances_of_points(image: LabelledImage, mask: np.ndarray, mpp: float) -> tuple[np.ndarray, np.ndarray]:
    """Give every point exactly one instance.

    Args:
        image: picture whose nuclei are points; their rays are those of a watershed, NaN where that failed.
        mask: (h, w) bool foreground of the picture.
        mpp: um per pixel.

    Returns:
        (h, w) int32, number i + 1 is nucleus i; and (N,) index in ``KINDS`` of the origin of its instance.
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
    seeds = paint_points(nuclei.xy, shape)
    instances[seeds > 0] = seeds[seeds > 0]
    return keep_connected(instances, seeds), kind


def paint_points(xy: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(h, w) int32: number 1..N in the one pixel of each point (N, 2); 0 elsewhere."""
    seeds = np.zeros(shape, np.int32)
    height, width = shape
    for number, (x, y) in enumerate(np.floor(xy).astype(int).tolist(), 1):
        row, column = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
        if seeds[row, column]:
            free = np.argwhere(seeds == 0)
            row, column = free[np.abs(free - (row, column)).sum(1).argmin()]
        seeds[row, column] = number
    return seeds


def split_mask(mask: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """Divide a foreground among the points that lie on it.

    Args:
        mask: (h, w) bool.
        xy: (N, 2) points in px.

    Returns:
        (h, w) int32: number i + 1 where the mask belongs to point i. Within each connected part of the mask a pixel
        goes to the nearest point on that part; fragments that are cut off from their own point are left out, and so
        is every part without a point. A point beside the mask gets nothing.
    """
    instances = np.zeros(mask.shape, np.int32)
    seeds = np.where(mask, paint_points(xy, mask.shape), 0)
    parts, _ = ndimage.label(mask)
    for part, box in enumerate(ndimage.find_objects(parts), 1):
        here, mine = parts[box] == part, np.where(parts[box] == part, seeds[box], 0)
        if not mine.any():
            continue
        rows, columns = ndimage.distance_transform_edt(mine == 0, return_distances=False, return_indices=True)
        instances[box][here] = mine[rows, columns][here]
    return keep_connected(instances, seeds)


def keep_connected(instances: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """The pixels of ``instances`` (h, w) connected to the pixel of their own number in ``seeds`` (h, w)."""
    kept = np.zeros_like(instances)
    for number, box in enumerate(ndimage.find_objects(instances), 1):
        if box is None:
            continue
        components, _ = ndimage.label(instances[box] == number)
        own = components[seeds[box] == number]
        kept[box][(components == own[0]) & (components > 0)] = number
    return kept


def mask_finder(name: str) -> FindMask:
    """Function that finds the foreground: by "otsu", a built-in model or an .onnx file; "watershed" has none.

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


def outline_config(
    path: Path,
    folder: Path,
    mask: str,
    data: Path | None = None,
    say: Callable[[str], None] = lambda sentence: None,
) -> Path:
    """Write one instance for every point of a config's sources, and a config that trains on them.

    Args:
        path: the config.
        folder: folder of the result, which must not exist; it is written complete or not at all.
        mask: method that finds the foreground around points, as in ``mask_finder``.
        data: folder that the config's paths start at; its own when not given.
        say: callback with a line about every source.

    Returns:
        The file of the new config.

    Raises:
        ConfigError: the config is wrong.
        LabelError: no source consists of points on pictures, a source has regions, or it cannot be read.
        ModelError: there is no model ``mask``.
        OutputError: the folder holds something, or cannot be written.
    """
    require_own_folder(folder)
    config = load_detector_config(path, data)
    if not any(map(is_outlined, config.sources)):
        raise LabelError(f"{path}: no source holds points on pictures; there is nothing to outline")
    task = OutlineTask(config.class_names, config.mpp, config.n_rays, mask_finder(mask))
    folder, sources = folder.resolve(), []
    with complete_file(folder) as partial:
        for number, source in enumerate(config.sources):
            if not is_outlined(source):
                sources.append(source)
                continue
            outlined, kinds = outline_source(source, task, partial / f"source-{number}")
            sources.append(_moved(outlined, partial, folder))
            counts = ", ".join(f"{n:,} by {kind}" for kind, n in kinds.items())
            say(f"{source.labels}: {sum(kinds.values()):,} points: {counts}")
        changed = dataclasses.replace(config, sources=tuple(sources))
        text = yaml.safe_dump(plain_settings(changed), sort_keys=False, allow_unicode=True)
        (partial / "config.yaml").write_text(text, encoding="utf-8")
    return folder / "config.yaml"


def _moved(source: LabelSource, here: Path, there: Path) -> LabelSource:
    """The source with paths in ``there`` instead of ``here``."""
    names = ("labels", "images", "points")
    return dataclasses.replace(source, **{name: there / getattr(source, name).relative_to(here) for name in names})

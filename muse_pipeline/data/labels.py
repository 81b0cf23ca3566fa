"""Labelled images: points or instance masks beside pictures, read into ``Nuclei`` at the model's mpp."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np

from muse_pipeline.coords import row_column_index_to_xy, xy_index_to_xy
from muse_pipeline.data.outlines import outline_points
from muse_pipeline.errors import LabelError
from muse_pipeline.nuclei.label_image import label_image_to_nuclei
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.tissue.macenko import MacenkoFit, fit_macenko
from muse_pipeline.types import Frame

POINT_TO_INSTANCE_UM = 2.0  # a point names the class of the nearest instance centroid within this distance


@dataclass(frozen=True)
class LabelSource:
    """One folder of labelled images, as a training config names it.

    Attributes:
        images: folder of pictures.
        labels: folder of label files; a file's stem begins with its picture's.
        format: "row column class" or "x y class" (text, one nucleus a line) or "instances" (label PNG).
        mpp: um per pixel of the pictures.
        class_map: word in the label file -> class name of the model, or null for a nucleus whose class is not used. A
            word that is missing is an error.
        points: for "instances", a folder of "x,y,class" CSV files that name the classes.
        split: text file naming the pictures to use; all when absent.
        exclude: pictures whose name contains one of these are left out (a patient, a site).
        weight: how often these pictures are drawn, per picture, relative to the others.
    """

    images: Path
    labels: Path
    format: str
    mpp: float
    class_map: dict[str, str | None] = field(default_factory=dict)
    points: Path | None = None
    split: Path | None = None
    exclude: tuple[str, ...] = ()
    weight: float = 1.0


@dataclass(frozen=True)
class LabelledImage:
    """One picture at the model's mpp with its nuclei (frame: window)."""

    name: str
    pixels: np.ndarray
    nuclei: Nuclei
    stain: MacenkoFit | None
    weight: float


def read_labelled_images(
    sources: tuple[LabelSource, ...], classes: tuple[str, ...], mpp: float, n_rays: int
) -> list[LabelledImage]:
    """Every picture of every source, resampled to ``mpp``, with rays measured from its masks or grown from its points.

    Raises:
        LabelError: a file is missing or broken, or a class is not in the map; the file and line are named.
    """
    images = [image for source in sources for image in _read_source(source, classes, mpp, n_rays)]
    if not images:
        raise LabelError("the label sources hold no image; check `images`, `split` and `exclude` of the config")
    return images


def _read_source(source: LabelSource, classes: tuple[str, ...], mpp: float, n_rays: int) -> Iterator[LabelledImage]:
    for path in image_paths(source):
        pixels = _read_rgb(path)
        stain = fit_macenko(pixels.reshape(-1, 3))
        if source.format == "instances":
            nuclei = _read_instances(source, path.stem, classes, n_rays)
        else:
            nuclei = _read_points(source, _label_file(source.labels, path.stem), classes)
        pixels, nuclei = _resample(pixels, nuclei, source.mpp / mpp)
        if source.format != "instances":
            nuclei = outline_points(pixels, nuclei, stain, mpp, n_rays)
        yield LabelledImage(path.stem, pixels, nuclei, stain, source.weight)


def image_paths(source: LabelSource) -> list[Path]:
    """The pictures of a source after ``split`` and ``exclude``, by name.

    Raises:
        LabelError: a folder or a picture that the split names is missing.
    """
    if not source.images.is_dir():
        raise LabelError(f"{source.images}: no such folder of images; correct `images` in the config")
    if source.split is not None:
        if not source.split.is_file():
            raise LabelError(f"{source.split}: no such split file; correct `split` in the config")
        paths = [source.images / line.strip() for line in source.split.read_text().splitlines() if line.strip()]
        missing = [path.name for path in paths if not path.is_file()]
        if missing:
            raise LabelError(
                f"{source.split}: {len(missing)} of its images are not in {source.images}, first {missing[0]}"
            )
    else:
        paths = [
            path
            for path in source.images.iterdir()
            if path.suffix.lower() in {".png", ".jpg", ".jpeg", ".tif", ".tiff"}
        ]
    return sorted(path for path in paths if not any(word in path.name for word in source.exclude))


def _read_rgb(path: Path) -> np.ndarray:
    pixels = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if pixels is None:
        raise LabelError(f"{path}: not readable as an image; remove it or replace it")
    return np.ascontiguousarray(pixels[..., ::-1])


def _label_file(folder: Path, stem: str) -> Path:
    found = sorted(folder.glob(f"{glob.escape(stem)}.*")) or sorted(folder.glob(f"{glob.escape(stem)}_*"))
    if not found:
        raise LabelError(f"{folder}: no label file for image '{stem}'; add it or exclude the image")
    return found[0]


def _read_points(source: LabelSource, path: Path, classes: tuple[str, ...]) -> Nuclei:
    convert = {"row column class": row_column_index_to_xy, "x y class": xy_index_to_xy}.get(source.format)
    if convert is None:
        raise LabelError(
            f"label format '{source.format}' is unknown; use 'row column class', 'x y class' or 'instances'"
        )
    indices, labels = [], []
    for number, line in enumerate(_read_lines(path), 1):
        words = line.replace(",", " ").split()
        if not words or (number == 1 and words[0].isalpha()):  # a header
            continue
        try:
            first, second, word = float(words[0]), float(words[1]), words[2]
        except (ValueError, IndexError) as error:
            raise LabelError(f"{path}, line {number}: expected {source.format}, found '{line[:80]}'") from error
        indices.append((first, second))
        labels.append(_class_index(word, source, classes, f"{path}, line {number}"))
    return Nuclei(convert(np.array(indices, float).reshape(-1, 2)), Frame.WINDOW, label=np.array(labels, np.int32))


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (UnicodeDecodeError, OSError) as error:
        raise LabelError(f"{path}: not readable as text; give one nucleus a line") from error


def _class_index(word: str, source: LabelSource, classes: tuple[str, ...], where: str) -> int:
    if word not in source.class_map:
        raise LabelError(f"{where}: class '{word}' is not in class_map ({', '.join(source.class_map)}); add it there")
    name = source.class_map[word]
    if name is None:
        return -1
    if name not in classes:
        raise LabelError(
            f"{where}: class_map sends '{word}' to '{name}', which is not a class of the model ({', '.join(classes)})"
        )
    return classes.index(name)


def _read_instances(source: LabelSource, stem: str, classes: tuple[str, ...], n_rays: int) -> Nuclei:
    path = _label_file(source.labels, stem)
    instances = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if instances is None or instances.ndim != 2:
        raise LabelError(f"{path}: expected a single-channel label image; convert it")
    nuclei = label_image_to_nuclei(instances, (source.mpp, source.mpp), n_rays)
    if source.points is None or not len(nuclei):
        return nuclei
    points = _read_points(replace(source, format="x y class"), _label_file(source.points, stem), classes)
    from scipy.spatial import cKDTree

    distance, nearest = cKDTree(points.xy).query(nuclei.xy)
    close = distance * source.mpp <= POINT_TO_INSTANCE_UM
    nuclei.label = np.where(close, points.label[np.where(close, nearest, 0)], -1).astype(np.int32)
    return nuclei


def _resample(pixels: np.ndarray, nuclei: Nuclei, factor: float) -> tuple[np.ndarray, Nuclei]:
    if abs(factor - 1) < 1e-6:
        return pixels, nuclei
    height, width = pixels.shape[:2]
    size = round(width * factor), round(height * factor)
    scale = np.array(size) / (width, height)
    resized = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
    return resized, replace(nuclei, xy=nuclei.xy * scale)

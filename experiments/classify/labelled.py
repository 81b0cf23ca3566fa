"""Nuclei of labelled pictures: what `compact` finds and measures, and the labels.

A nucleus has the class of the labelled one that is matched to it within 3 um, or, in EBHI-Seg, of
the area that contains it. Only accessions of EBHI-Seg that `compact` was not trained on are read.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

from experiments.common.areas import EBHI_MPP, ebhi_pictures, find_area
from experiments.common.features import CLASSES, MPP, measure_nuclei
from muse_pipeline.core.pictures import read_rgb, resize_picture
from muse_pipeline.evaluation.detection import RADIUS_UM, match_points
from muse_pipeline.inference.embed import Embedder
from muse_pipeline.inference.model import find_model
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.labels.label_sources import read_labelled_images
from muse_pipeline.labels.picture_source import PictureSource

PROBABILITIES = tuple(f"prob_{name}" for name in CLASSES)
MOST_OF_ACCESSION = {
    "normal": 9,
    "polyp": 1,
    "adenocarcinoma": 2,
}  # pictures of EBHI-Seg that are measured
BENIGN, MALIGNANT = 1, 2  # labels in EBHI-Seg; 0 is other nuclei

# Patient, pixels at ``MPP``, and a function that returns the labels of nuclei at positions (N, 2)
# with scores (N,)
Labelled = tuple[str, np.ndarray, Callable[[np.ndarray, np.ndarray], np.ndarray]]


def read_points(source: PictureSource, classes: tuple[str, ...]) -> Iterator[Labelled]:
    """Pictures with labelled nuclei."""
    for image in read_labelled_images([source], classes, MPP, n_rays=32):

        def find_labels(xy: np.ndarray, score: np.ndarray, true=image.nuclei) -> np.ndarray:
            taken = match_points(xy * MPP, score, true.xy * MPP, RADIUS_UM)
            return np.where(taken >= 0, true.label[taken], -1)

        yield image.patient, image.pixels, find_labels


def read_brca(data: Path) -> Iterator[Labelled]:
    """The pictures of BRCA-M2C."""
    folder, words = data / "brca-m2c", {str(number): name for number, name in enumerate(CLASSES, 1)}
    how = {"format": "row column class", "mpp": MPP, "class_map": words}
    return read_points(
        PictureSource(images=folder / "images", labels=folder / "labels", **how), CLASSES
    )


def read_nucls(data: Path) -> Iterator[Labelled]:
    """The pictures of NuCLS."""
    folder, words = (
        data / "nucls-cc0",
        {"0": "Epithelial", "1": "Stroma", "2": "Lymphocyte", "3": "Other"},
    )
    how = {"format": "instances", "points": folder / "points", "mpp": 0.25, "class_map": words}
    source = PictureSource(images=folder / "images", labels=folder / "instances", **how)
    return read_points(source, (*CLASSES, "Other"))


def read_ebhi(data: Path) -> Iterator[Labelled]:
    """Pictures of the accessions of EBHI-Seg that `compact` was not trained on."""
    with (data / "ebhi-seg-colon/manifest.csv").open(encoding="utf-8", newline="") as file:
        grade = {row["image"]: row["class"] for row in csv.DictReader(file)}
    taken = Counter()
    for picture, mask_path, patient in ebhi_pictures(data, odd=True):
        kind = grade[picture.stem]
        taken[kind, patient] += 1
        if taken[kind, patient] <= MOST_OF_ACCESSION.get(kind, 0):
            inside = MALIGNANT if kind == "adenocarcinoma" else BENIGN
            pixels, mask = read_rgb(picture), cv2.imread(str(mask_path), cv2.IMREAD_GRAYSCALE) > 0
            resized = resize_picture(pixels, EBHI_MPP / MPP)

            def find_labels(
                xy, _, mask=mask, inside=inside, factor=pixels.shape[0] / resized.shape[0]
            ):
                area = find_area(xy * factor, mask, EBHI_MPP)
                return np.where(area > 0, inside, area)

            yield patient, resized, find_labels


READERS = {"brca": read_brca, "nucls": read_nucls, "ebhi": read_ebhi}


def measure(name: str, data: Path, work: Path) -> dict[str, np.ndarray]:
    """Columns of the labelled nuclei of a set, their labels, patients and pictures; kept in
    ``work``.
    """
    path = work / f"{name}.npz"
    if not path.is_file():
        predictor, embedder, parts = (
            Predictor(find_model("compact")),
            Embedder(find_model("compact")),
            [],
        )
        for number, (patient, pixels, find_labels) in enumerate(READERS[name](data)):
            found, columns = measure_nuclei(pixels, predictor, embedder)
            columns |= dict(zip(PROBABILITIES, found.prob.T, strict=True)) | {
                "predicted": found.label
            }
            columns["label"] = find_labels(found.xy, found.score)
            columns |= {
                "patient": np.full(len(found), patient),
                "picture": np.full(len(found), number),
            }
            parts.append(
                {key: np.asarray(column)[columns["label"] >= 0] for key, column in columns.items()}
            )
        work.mkdir(parents=True, exist_ok=True)
        np.savez(path, **{key: np.concatenate([part[key] for part in parts]) for key in parts[0]})
    return dict(np.load(path))

"""Crops of TNBC, NuCLS and DSB-2018 with true instances, functions that find nuclei in them, and
scores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from muse_pipeline.core.pictures import read_rgb
from muse_pipeline.evaluation.detection import (
    RADIUS_UM,
    Overlaps,
    jaccard_areas,
    jaccard_ratio,
    match_points,
)
from muse_pipeline.inference.detect import detect_picture
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.nuclei.masks import label_image_to_nuclei, rings_to_labels
from muse_pipeline.nuclei.rays import rays_to_rings
from muse_pipeline.tissue.stain import fit_macenko

MPP, MIN_PX, RAYS = 0.25, 20, 32
BOWL_RADIUS_UM, BOWL_LEAST_PX = (
    3.6,
    20,
)  # radius of the median nucleus in DSB-2018, which states no um per pixel
Find = Callable[[np.ndarray], np.ndarray]  # (h, w, 3) uint8 -> (h, w) int32 instances
Crop = tuple[
    str, str, np.ndarray, np.ndarray, np.ndarray | None
]  # name, patient, pixels, instances, ignored pixels


def overlap_labels(found: np.ndarray, true: np.ndarray) -> Overlaps:
    """Overlaps of two label pictures (h, w), in pixels; 0 is background, and instances are in order
    of their labels.
    """
    _, first = np.unique(np.append(0, found.ravel()), return_inverse=True)
    _, second = np.unique(np.append(0, true.ravel()), return_inverse=True)
    first, second = (
        first[1:],
        second[1:],
    )  # the added 0 gives background the index 0, even in a picture without it
    n_found, n_true = int(first.max(initial=0)), int(second.max(initial=0))
    both = (first > 0) & (second > 0)
    pair, shared = np.unique(
        (first[both] - 1) * max(n_true, 1) + second[both] - 1, return_counts=True
    )
    return Overlaps(
        *np.divmod(pair, max(n_true, 1)),
        shared,
        np.bincount(first, minlength=n_found + 1)[1:],
        np.bincount(second, minlength=n_true + 1)[1:],
    )


def network_finder(predictor: Predictor, threshold: float = 0.0) -> Find:
    """A function that finds nuclei with a model and paints their outlines, the most certain ones on
    top.

    Args:
        predictor: the model.
        threshold: minimum score, if it is higher than the threshold of the model card.
    """

    def find(pixels: np.ndarray) -> np.ndarray:
        nuclei = detect_picture(predictor, pixels, MPP, fit_macenko(pixels.reshape(-1, 3)))
        nuclei = nuclei[nuclei.score >= threshold]
        nuclei = nuclei[np.argsort(nuclei.score, kind="stable")]
        return rings_to_labels(rays_to_rings(nuclei.xy, nuclei.rays, (MPP, MPP)), pixels.shape[:2])

    return find


def read_tnbc(data: Path) -> list[tuple[str, str, np.ndarray, np.ndarray]]:
    """Name, patient, pixels and instances of each crop of TNBC."""
    folder, crops = data / "tnbc-nuclei", []
    for path in sorted((folder / "images").glob("*.png")):
        mask = cv2.imread(str(folder / "masks" / path.name), cv2.IMREAD_GRAYSCALE)
        _, labels, facts, _ = cv2.connectedComponentsWithStats((mask > 127).astype(np.uint8))
        kept = facts[:, cv2.CC_STAT_AREA] >= MIN_PX
        kept[0] = False
        crops.append((path.stem, path.stem.split("_")[0], read_rgb(path), labels * kept[labels]))
    return crops


def read_nucls(data: Path) -> list[tuple[str, str, np.ndarray, np.ndarray]]:
    """Name, name in place of the unknown patient, pixels and instances of each crop of NuCLS."""
    folder = data / "nucls-cc0"
    return [
        (
            path.stem,
            path.stem,
            read_rgb(path),
            cv2.imread(str(folder / "instances" / path.name), -1).astype(np.int32),
        )
        for path in sorted((folder / "images").glob("*.png"))
    ]


def read_dsb2018(data: Path) -> list[tuple[str, str, np.ndarray, np.ndarray]]:
    """Name, name in place of the unknown patient, pixels and instances of each crop of DSB-2018."""
    folder = data / "dsb2018-brightfield"
    return [
        (
            path.stem,
            path.stem,
            read_rgb(path),
            cv2.imread(str(folder / "labels" / path.name), -1).astype(np.int32),
        )
        for path in sorted((folder / "images").glob("*.png"))
    ]


SETS = {"tnbc": read_tnbc, "nucls": read_nucls, "dsb2018": read_dsb2018}  # all at 0.25 um/px


def read_crops(data: Path, name: str) -> list[Crop]:
    """The crops of a set at 0.25 um/px."""
    if name != "nuinsseg":
        return [(*crop, None) for crop in SETS[name](data)]
    folder, crops = data / "nuinsseg-oesophagus", []
    for path in sorted((folder / "images").glob("*.jpg")):
        instances, ignored = (
            cv2.imread(str(folder / kind / f"{path.stem}.png"), cv2.IMREAD_UNCHANGED)
            for kind in ("instances", "ignore")
        )
        patient = path.stem.rstrip("abc")  # a letter numbers the pictures from one source
        if int(patient.partition("_")[2]) % 2 == 0:  # training pictures of `compact`
            continue
        crops.append((path.stem, patient, read_rgb(path), instances.astype(np.int32), ignored > 0))
    return crops


def score_crops(found: list[np.ndarray], crops: list[Crop]) -> dict:
    """The patients, and the counts of ``compare`` for each crop."""
    counts = []
    for labels, (_, _, _, true, ignored) in zip(found, crops, strict=True):
        counts.append(compare(labels if ignored is None else drop_ignored(labels, ignored), true))
    return {"patients": [crop[1] for crop in crops], "counts": counts}


def drop_ignored(labels: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    """The label image without the nuclei of which more than half lies in ``ignored``."""
    area = np.bincount(labels.ravel())
    inside = np.bincount(labels[ignored], minlength=len(area))
    return np.where((inside > 0.5 * area)[labels], 0, labels)


def compare(found: np.ndarray, true: np.ndarray) -> list[float]:
    """Numbers of matched, found and true nuclei, and the two areas whose ratio is the AJI."""
    found_xy, true_xy = (label_image_to_nuclei(one, (MPP, MPP), RAYS).xy for one in (found, true))
    matched = (match_points(found_xy, np.ones(len(found_xy)), true_xy, RADIUS_UM / MPP) >= 0).sum()
    return [
        int(matched),
        len(found_xy),
        len(true_xy),
        *map(float, jaccard_areas(overlap_labels(found, true))),
    ]


def score_outlines(
    predictor: Predictor, crops: Sequence[tuple[str, str, np.ndarray, np.ndarray]]
) -> dict:
    """Patients of the crops, and the counts of ``compare`` for a model in each crop."""
    find = network_finder(predictor)
    counts = [compare(find(pixels), true) for _, _, pixels, true in crops]
    return {"patients": [crop[1] for crop in crops], "counts": counts}


def detection_f1(sums: np.ndarray) -> np.ndarray:
    """Detection F1 (...) from summed counts (..., 5) of ``compare``."""
    return 2 * sums[..., 0] / (sums[..., 1] + sums[..., 2])


def aji(sums: np.ndarray) -> np.ndarray:
    """AJI (...) from summed counts (..., 5) of ``compare``."""
    return jaccard_ratio(sums[..., 3:])


def bowl_mpp(mask: np.ndarray) -> float:
    """The um per pixel at which the median nucleus of a label picture has a radius of
    ``BOWL_RADIUS_UM``.
    """
    area = np.bincount(mask.ravel())[1:]
    return BOWL_RADIUS_UM / float(np.sqrt(np.median(area[area > BOWL_LEAST_PX]) / np.pi))

"""Pictures whose epithelium is outlined, colon (EBHI-Seg) and mouth (OCDC), and networks that are
scored on them.
"""

from __future__ import annotations

import csv
import dataclasses
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from experiments.common.runs import TOP
from experiments.common.sites import split_sources
from experiments.common.training import finetune
from muse_pipeline.core.pictures import list_pictures, read_rgb
from muse_pipeline.evaluation.bootstrap import compare_scores
from muse_pipeline.evaluation.detection import DetectionCounts
from muse_pipeline.inference.detect import detect_picture
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.labels.base_source import LabelSource
from muse_pipeline.labels.picture_source import PictureSource
from muse_pipeline.methods.detector.config import DetectorConfig
from muse_pipeline.methods.detector.run import load_detector_config
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.tissue.stain import fit_macenko
from muse_pipeline.training.run import Options

EBHI_MPP, ORAL_MPP = 1.2, 0.5  # neither is stated: nuclei look like those of the breast at these
EPITHELIAL = 1  # index of the class
MARGIN_UM = 2.0
MOST_PICTURES = 130  # of EBHI-Seg that are scored
COMPACT, NARROW = TOP / "config/train/compact.yaml", "stage=narrow"
WITHOUT_UNREAD = "sources.2.exclude=['01_', '02_', '04_']"  # patients of TNBC


def ebhi_pictures(data: Path, odd: bool) -> list[tuple[Path, Path, str]]:
    """Picture, mask and accession of one half of EBHI-Seg, as wide as they were taken."""
    folder = data / "prepared/ebhi"
    with (data / "ebhi-seg-colon/manifest.csv").open(encoding="utf-8", newline="") as file:
        rows = [
            row for row in csv.DictReader(file) if zlib.crc32(row["patient"].encode()) % 2 == odd
        ]
    names = [(row["image"], row["patient"]) for row in rows]
    return [
        (folder / f"images/{name}.png", folder / f"regions/{name}.png", patient)
        for name, patient in names
    ]


def oral_pictures(data: Path) -> list[tuple[Path, Path, str]]:
    """Picture, mask and name of every tile of OCDC."""
    folder = data / "oral-scc"
    masks = {path.stem: path for path in list_pictures(folder / "regions")}
    return [(path, masks[path.stem], path.stem) for path in list_pictures(folder / "images")]


def nuclei_in_areas(
    predictor: Predictor, pictures: Sequence[tuple[Path, Path, str]], mpp: float
) -> Iterator[tuple[Nuclei, np.ndarray, str]]:
    """Nuclei of each picture farther than a margin from any edge, whether each is in an area (N,),
    and the patient.
    """
    for picture, mask_path, patient in pictures:
        pixels = read_rgb(picture)
        nuclei = detect_picture(predictor, pixels, mpp, fit_macenko(pixels.reshape(-1, 3)))
        area = find_area(nuclei.xy, cv2.imread(str(mask_path), cv2.IMREAD_GRAYSCALE) > 0, mpp)
        yield nuclei[area >= 0], area[area >= 0] == 1, patient


def find_area(xy: np.ndarray, mask: np.ndarray, mpp: float) -> np.ndarray:
    """For positions (N, 2) in px, 1 inside a mask (h, w) and 0 outside; -1 within a margin from any
    edge.
    """
    reach = 2 * int(np.ceil(MARGIN_UM / mpp)) + 1
    inside, outside = (
        cv2.erode(part.astype(np.uint8), np.ones((reach, reach), np.uint8), borderValue=1) > 0
        for part in (mask, ~mask)
    )
    column, row = np.floor(xy).astype(int).T
    return np.where(inside[row, column], 1, np.where(outside[row, column], 0, -1))


def score_areas(predictor: Predictor, pictures: list[tuple[Path, Path, str]], mpp: float) -> dict:
    """Nuclei found in the epithelium and elsewhere by class, (2, C), in each picture, and its
    patient.
    """
    chosen = np.unique(
        np.linspace(0, len(pictures) - 1, min(len(pictures), MOST_PICTURES)).round().astype(int)
    )
    counts, patients = [], []
    for nuclei, is_inside, patient in nuclei_in_areas(
        predictor, [pictures[index] for index in chosen], mpp
    ):
        parts = (nuclei.label[is_inside], nuclei.label[~is_inside])
        counts.append(
            [
                np.bincount(labels, minlength=len(predictor.card.classes)).tolist()
                for labels in parts
            ]
        )
        patients.append(patient)
    return {"patients": patients, "counts": counts}


def area_source(data: Path) -> LabelSource:
    """The half of EBHI-Seg's accessions that is trained on, every picture a quarter as often as the
    others.
    """
    folder = data / "prepared/ebhi"
    return PictureSource(
        labels=folder / "regions",
        format="areas",
        images=folder / "images",
        mpp=EBHI_MPP,
        class_map={"1": "Epithelial", "0": ["Lymphocyte", "Stroma"]},
        margin_um=MARGIN_UM,
        split=data / "prepared/ebhi_even.txt",
        allow_empty=True,
        weight=0.25,
    )


def balanced(counts: np.ndarray) -> np.ndarray:
    """Balanced accuracy in percent of epithelial against other nuclei, of counts (..., 2, C)."""
    share = counts[..., EPITHELIAL] / counts.sum(-1).clip(min=1)
    return 50 * (share[..., 0] + 1 - share[..., 1])


def narrow_config(site: str, seed: int, data: Path, changes: Sequence[str]) -> DetectorConfig:
    """The recipe of a narrow network without a site of BRCA-M2C and three patients of TNBC."""
    fixed = [
        WITHOUT_UNREAD,
        f"seed={seed}",
        "export.refine=false",
        "precision=32-true",
        "sources.2.weight=2",
    ]
    config = load_detector_config(COMPACT, data, [NARROW, *fixed, *changes])
    known, _ = split_sources(config, site)
    of_tnbc = (source for source in config.sources if source.format == "masks")
    return dataclasses.replace(config, sources=(*known, *of_tnbc))


def train_base(site: str, seed: int, data: Path, work: Path) -> Path:
    """The checkpoint of a network that has read neither the site nor colon, trained unless it
    exists.
    """
    config = narrow_config(site, seed, data, ["distillation=null", "schedule.steps=2500"])
    return finetune(config, work / f"base-{site}-{seed}", Options(accelerator="cpu", threads=1))


MEASURES = {
    "site: mean class F1": ("site", lambda counts: DetectionCounts(counts).mean_class_f1),
    "site: detection F1": ("site", lambda counts: DetectionCounts(counts).f1[..., 0]),
    "colon, other accessions: balanced accuracy": ("ebhi", balanced),
    "mouth, unread: balanced accuracy": ("oral", balanced),
}


def render_score(
    run: Mapping[str, dict], reference: Mapping[str, dict] | None, part: str, measure
) -> str:
    """A score, and its difference from that of the reference; empty where it was not measured."""
    if part not in run:
        return ""
    counts = np.array(run[part]["counts"], float)
    text = f"{float(measure(counts.sum(0))):.1f}"
    if reference is None:
        return text
    before = np.array(reference[part]["counts"], float)
    found = compare_scores(before, counts, run[part]["patients"], measure)
    low, high = found["interval"]
    return f"{text} ({found['difference']:+.1f}: {low:+.1f} to {high:+.1f})"

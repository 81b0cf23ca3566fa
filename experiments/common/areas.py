"""Pictures whose epithelium is outlined: colon (EBHI-Seg) and mouth (OCDC)."""

from __future__ import annotations

import csv
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from muse_pipeline.core.pictures import list_pictures, read_rgb
from muse_pipeline.inference.detect import detect_picture
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.tissue.stain import fit_macenko

EBHI_MPP, ORAL_MPP = 0.9, 0.5  # neither is stated: a normal crypt has 65 to 85 px; the nuclei of the mouth look alike
EPITHELIAL = 1  # index of the class
MARGIN_UM = 2.0


def ebhi_pictures(data: Path, odd: bool) -> list[tuple[Path, Path, str]]:
    """Picture, mask and accession of one half of EBHI-Seg."""
    folder = data / "ebhi-seg-colon"
    with (folder / "manifest.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if zlib.crc32(row["patient"].encode()) % 2 == odd]
    return [
        (folder / f"images/{row['image']}.jpg", folder / f"regions/{row['image']}.png", row["patient"]) for row in rows
    ]


def oral_pictures(data: Path) -> list[tuple[Path, Path, str]]:
    """Picture, mask and name of every tile of OCDC."""
    folder = data / "oral-scc"
    masks = {path.stem: path for path in list_pictures(folder / "regions")}
    return [(path, masks[path.stem], path.stem) for path in list_pictures(folder / "images")]


def nuclei_in_areas(
    predictor: Predictor, pictures: Sequence[tuple[Path, Path, str]], mpp: float
) -> Iterator[tuple[Nuclei, np.ndarray, str]]:
    """Nuclei of each picture farther than a margin from any edge, whether each is in an area (N,), and the patient."""
    reach = 2 * int(np.ceil(MARGIN_UM / mpp)) + 1
    kernel = np.ones((reach, reach), np.uint8)
    for picture, mask_path, patient in pictures:
        pixels = read_rgb(picture)
        mask = (cv2.imread(str(mask_path), cv2.IMREAD_GRAYSCALE) > 0).astype(np.uint8)
        nuclei = detect_picture(predictor, pixels, mpp, fit_macenko(pixels.reshape(-1, 3)))
        inside, outside = (cv2.erode(part, kernel, borderValue=1) > 0 for part in (mask, 1 - mask))
        column, row = np.floor(nuclei.xy).astype(int).T
        is_counted = (inside | outside)[row, column]
        yield nuclei[is_counted], inside[row, column][is_counted], patient

"""Pictures whose epithelium is outlined: colon (EBHI-Seg) and mouth (OCDC)."""

from __future__ import annotations

import csv
import zlib
from pathlib import Path

from muse_pipeline.core.pictures import list_pictures

EBHI_MPP, ORAL_MPP = 0.9, 0.5  # neither is stated: a normal crypt has 65 to 85 px; the nuclei of the mouth look alike


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

"""Synthetic inputs for TriDeNT: stores of slides with partners of every kind, pictures with
partners, and configs.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import shapely
from drawn_shapes import feature, write_features
from labelled import draw_labelled_folder
from pretraining import MPP, draw_slide, write_config

from muse_pipeline.core.pictures import list_pictures, read_rgb, write_png
from muse_pipeline.nuclei.parquet import read_nuclei

SETTINGS = {
    "method": "trident",
    "name": "tiny",
    "backbone": "muse_compact_16",
    "views": {"global_px": 64, "mpp": [0.5, 1.0]},
    "alignment": {"hidden": 32, "width": 16, "nucleus_weight": 1.0},
    "batch": 4,
    "min_nuclei": 5,
    "schedule": {"steps": 6, "log_every": 1, "save_every": 2, "learning_rate": 0.002},
}


def write_paired_config(folder: Path, sources: list[dict], **settings) -> Path:
    """Write ``tiny.yaml``, as ``pretraining.write_config`` does."""
    return write_config(folder / "tiny.yaml", sources, SETTINGS, **settings)


def draw_paired_slide(folder: Path) -> dict:
    """Write a slide's folder, with a partner's store and a GeoJSON file, and return it as a
    source.
    """
    draw_slide(folder)
    shutil.copytree(folder / "image-500nm.zarr", folder / "partner.zarr")
    xy = read_nuclei(folder / "proposals.parquet").xy
    write_features(folder / "nuclei.geojson", *map(feature, shapely.box(*(xy - 5).T, *(xy + 5).T)))
    return {
        "store": str(folder / "image-500nm.zarr"),
        "proposals": str(folder / "proposals.parquet"),
    }


def draw_paired_pictures(folder: Path) -> dict:
    """Write three pictures, two of which have a partner with a different stain, and return them as
    a source.
    """
    draw_labelled_folder(folder)
    (folder / "partners").mkdir()
    for path in list_pictures(folder / "images")[:2]:
        write_png(
            folder / f"partners/{path.stem}.png",
            np.ascontiguousarray(read_rgb(path)[..., ::-1]),
        )
    return {
        "images": str(folder / "images"),
        "mpp": MPP,
        "partner": {"images": str(folder / "partners")},
    }

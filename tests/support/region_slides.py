"""A synthetic slide with two kinds of tissue, a region model and regions, all made by the real
steps.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely
from drawn_regions import (
    GLASS_UM,
    MPP,
    SLIDE_MPP,
    draw_slide,
    draw_tumour,
    fit_network,
    save_drawn_model,
)
from exports import single_window_size
from inference_slides import tile_slide
from slide_files import write_pyramid

from muse_pipeline.cli.main import main
from muse_pipeline.core.files import read_json


@dataclass
class DrawnSlide:
    """A slide with two kinds of tissue after `tile`, and masks of its tumour and its tissue at 2
    um/px.
    """

    folder: Path
    tumour: np.ndarray
    tissue: np.ndarray

    @property
    def store(self) -> Path:
        return self.folder / "image-500nm.zarr"


TISSUE_UM = 2200, 1700


def open_drawn(folder: Path) -> DrawnSlide:
    """Open the slide that `take_to_store` drew in this folder."""
    inside, glass = draw_tumour(TISSUE_UM, seed=3), round(GLASS_UM / MPP)
    return DrawnSlide(folder, np.pad(inside, glass), np.pad(np.ones_like(inside), glass))


def take_to_store(folder: Path) -> None:
    """Draw a slide with islands of tumour in stroma, and run the steps up to `tile`."""
    inside = draw_tumour(TISSUE_UM, seed=3)
    write_pyramid(folder / "drawn.tif", draw_slide(inside, seed=4), factors=(4, 16), mpp=SLIDE_MPP)
    tile_slide(folder, folder / "drawn.tif")


def export_drawn_model(folder: Path) -> Path:
    """Fit a network, save its checkpoint and export it for a single window size, which takes half
    as long.
    """
    checkpoint = save_drawn_model(folder, fit_network())
    with single_window_size("region_models"):
        assert main(["export", str(checkpoint), "--output", str(folder / "model.onnx")]) == 0
    return folder / "model.onnx"


def regions(slide: DrawnSlide, model: Path, folder: Path, *more: str) -> int:
    """Run ``muse regions`` and return its exit status."""
    return main(
        ["regions", str(slide.store), "--model", str(model), "--output", str(folder), *more]
    )


FILES = ("regions.geojson", "regions.png", "regions.zarr", "regions.json")


def checksums(folder: Path) -> dict[str, str]:
    """Checksums of the files of regions in a folder."""
    files = [
        path
        for name in FILES
        for path in [folder / name, *(folder / name).rglob("*")]
        if path.is_file()
    ]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def read_region(folder: Path, class_name: str) -> shapely.Geometry:
    """The union of the outlines of a class."""
    return shapely.union_all([shape for name, shape in read_polygons(folder) if name == class_name])


def read_polygons(folder: Path) -> list[tuple[str, shapely.Geometry]]:
    """Class and outline in level-0 px of every feature of ``regions.geojson``."""
    features = read_json(folder / "regions.geojson")["features"]
    return [
        (each["properties"]["classification"]["name"], shapely.geometry.shape(each["geometry"]))
        for each in features
    ]

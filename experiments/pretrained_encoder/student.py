"""Nuclei that `accurate` finds in pictures without labels, as labels of `student.yaml`.

    python -m experiments.pretrained_encoder.student DATA    # writes DATA/prepared/unlabelled

Pictures are copied as PNG, each with the nuclei as annotations of QuPath.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import shapely

from experiments.areas.prepare import write_areas
from muse_pipeline import find_nuclei
from muse_pipeline.core.pictures import PICTURE_SUFFIXES, read_rgb, write_png

SETS = {  # folder of the data set, and um per pixel
    "oesophagus": ("oesophagus-tcga-unlabelled", 0.2485),
    "lymph": ("camelyon16-patches", 0.25),
    "bone": ("osteosarcoma-ut", 0.75),  # not stated; nuclei suggest 0.5 to 1
    "orion": ("orion-crc-tiles", 0.5),  # not stated
}


def write_picture(pixels: np.ndarray, mpp: float, folder: Path, name: str) -> None:
    """Write a picture and its nuclei, which are complete in all of it."""
    nuclei = find_nuclei(pixels, mpp=mpp, model="accurate")
    areas = [("Region*", shapely.box(0, 0, *pixels.shape[1::-1]))]
    areas += zip(nuclei["class"], nuclei.geometry, strict=True)
    write_areas(folder / f"labels/{name}.geojson", areas)
    (folder / "images").mkdir(exist_ok=True)
    write_png(folder / f"images/{name}.png", pixels)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    data = parser.parse_args().data
    for name, (source, mpp) in SETS.items():
        folder = data / "prepared/unlabelled" / name
        for path in sorted((data / source).rglob("*")):
            if path.suffix.lower() in PICTURE_SUFFIXES:
                write_picture(read_rgb(path), mpp, folder, path.stem)

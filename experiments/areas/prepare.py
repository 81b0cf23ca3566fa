"""Prepare data sets for the last stage of `compact`.

    python -m experiments.areas.prepare DATA     # writes DATA/prepared

`ebhi/` has the pictures and masks of EBHI-Seg with the camera's aspect ratio of 5 to 4; the
published ones are squeezed to squares, in which nuclei are 0.8 times as wide as high.
`ebhi_even.txt` lists the pictures of every second accession of EBHI-Seg (by CRC32 of the
accession). `oesophagus.txt` lists every second image of NuInsSeg (even numbers), and `oesophagus/`
has for each of these images the area where outlines are complete, which excludes merged nuclei.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import shapely

from experiments.common.areas import ebhi_pictures
from muse_pipeline.core.files import write_json
from muse_pipeline.core.pictures import read_rgb, write_png

MARGIN_PX = 5  # width of the margin around merged nuclei, at about 0.2 um per px
STRETCH = 1.25


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    data = parser.parse_args().data
    output, oesophagus = data / "prepared", data / "nuinsseg-oesophagus"
    output.mkdir(exist_ok=True)
    published = data / "ebhi-seg-colon"
    for picture, mask, _ in (*ebhi_pictures(data, odd=False), *ebhi_pictures(data, odd=True)):
        stretch(
            published / f"images/{picture.stem}.jpg",
            published / f"regions/{mask.name}",
            picture,
            mask,
        )
    write_names(
        output / "ebhi_even.txt", [path.name for path, _, _ in ebhi_pictures(data, odd=False)]
    )
    with (oesophagus / "manifest.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    names = [row["image"] for row in rows if int(row["number_in_nuinsseg_folder"]) % 2 == 0]
    write_names(output / "oesophagus.txt", [f"{name}.jpg" for name in names])
    for name in names:
        ignored = cv2.imread(str(oesophagus / f"ignore/{name}.png"), cv2.IMREAD_GRAYSCALE) > 0
        picture = shapely.box(0, 0, *ignored.shape[::-1])
        write_areas(
            output / f"oesophagus/{name}.geojson",
            [("Region", picture - trace(ignored).buffer(MARGIN_PX))],
        )
    print(f"{output}: {len(names)} pictures of the oesophagus")


def stretch(picture: Path, mask: Path, new_picture: Path, new_mask: Path) -> None:
    """Write a picture and its mask (0 and 1) with the width that they had before they were
    squeezed.
    """
    inside = (cv2.imread(str(mask), cv2.IMREAD_GRAYSCALE) > 0).astype(np.uint8)
    for path, pixels, method in (
        (new_picture, read_rgb(picture), cv2.INTER_CUBIC),
        (new_mask, inside, cv2.INTER_NEAREST),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_png(path, cv2.resize(pixels, None, fx=STRETCH, fy=1, interpolation=method))


def trace(mask: np.ndarray) -> shapely.Geometry:
    """The true pixels of a mask (H, W) as polygons in px."""
    rows, columns = np.nonzero(np.diff(np.pad(mask.astype(np.int8), ((0, 0), (1, 1))), axis=1))
    runs = shapely.box(columns[::2], rows[::2], columns[1::2], rows[1::2] + 1)
    return shapely.unary_union(runs)


def write_areas(path: Path, areas: Iterable[tuple[str, shapely.Geometry]]) -> None:
    """Write areas in px, each with its class, as annotations of QuPath."""
    features = [
        {
            "type": "Feature",
            "geometry": shapely.geometry.mapping(area),
            "properties": {"objectType": "annotation", "classification": {"name": name}},
        }
        for name, area in areas
        if not area.is_empty
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"type": "FeatureCollection", "features": features})


def write_names(path: Path, names: list[str]) -> None:
    """Write names, one per line."""
    path.write_text("".join(f"{name}\n" for name in sorted(names)), encoding="utf-8")


if __name__ == "__main__":
    main()

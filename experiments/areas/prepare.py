"""What the last stage of `compact` reads beside the data sets: their halves, and where outlines are not complete.

    python -m experiments.areas.prepare DATA     # writes DATA/prepared

`ebhi_even.txt` names the pictures of every second accession of EBHI-Seg, by the CRC32 of the accession. `oesophagus.txt`
names the pictures of every second image of NuInsSeg (even numbers), and `oesophagus/` has, for each of them, the part
of the picture where outlines are complete: all but the blobs of several nuclei that its masks have.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import cv2
import numpy as np
import shapely

from experiments.areas.run import ebhi_pictures
from muse_pipeline.core.files import write_json

MARGIN_PX = 5  # around a blob, at about 0.2 um per px


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    data = parser.parse_args().data
    output, oesophagus = data / "prepared", data / "nuinsseg-oesophagus"
    output.mkdir(exist_ok=True)
    write_names(output / "ebhi_even.txt", [path.name for path, _, _ in ebhi_pictures(data, odd=False)])
    with (oesophagus / "manifest.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    names = [row["image"] for row in rows if int(row["number_in_nuinsseg_folder"]) % 2 == 0]
    write_names(output / "oesophagus.txt", [f"{name}.jpg" for name in names])
    for name in names:
        ignored = cv2.imread(str(oesophagus / f"ignore/{name}.png"), cv2.IMREAD_GRAYSCALE) > 0
        geometry = shapely.geometry.mapping(complete_part(ignored))
        region = {"type": "Feature", "geometry": geometry, "properties": {"classification": {"name": "Region"}}}
        (output / "oesophagus").mkdir(exist_ok=True)
        write_json(
            output / f"oesophagus/{name}.geojson",
            {"type": "FeatureCollection", "features": [region]},
        )
    print(f"{output}: {len(names)} pictures of the oesophagus, and the halves")


def complete_part(ignored: np.ndarray) -> shapely.Geometry:
    """The picture as a polygon in px, without what is ignored (H, W)."""
    height, width = ignored.shape
    contours, _ = cv2.findContours(ignored.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    blobs = [shapely.Polygon(contour[:, 0]).buffer(MARGIN_PX) for contour in contours if len(contour) > 2]
    return shapely.box(0, 0, width, height).difference(shapely.unary_union(blobs))


def write_names(path: Path, names: list[str]) -> None:
    """Write names, one per line."""
    path.write_text("".join(f"{name}\n" for name in sorted(names)), encoding="utf-8")


if __name__ == "__main__":
    main()

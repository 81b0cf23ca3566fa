"""Area that outlines share, before and after they are cut apart.

    python benchmarks/shared_areas.py DATA/brca-m2c/images

Of pictures of 0.5 um per pixel, whose stain is fitted on themselves. A pair counts if it shares 0.001 um2.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import shapely

from muse_pipeline.core.pictures import list_pictures, read_rgb
from muse_pipeline.inference.colour_input import colour_of_fit
from muse_pipeline.inference.detect import detect_overlapping
from muse_pipeline.inference.model import find_model
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.nuclei.nms import cut_apart
from muse_pipeline.nuclei.rays import rays_to_rings
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.tissue.stain import fit_macenko

MPP, LEAST_UM2 = 0.5, 1e-3


def main() -> None:
    """Detect, cut, and print the table."""
    predictor = Predictor(find_model("compact-int8"))
    print(
        "| pictures | nuclei | with a shorter ray | pairs that overlap | of the area | pairs after the cut |\n"
        + "|---" * 6
        + "|"
    )
    paths = list_pictures(Path(sys.argv[1]))
    nuclei, cut, before, shared, area, after = np.sum([compare(detect(predictor, path)) for path in paths], axis=0)
    row = f"{nuclei:,.0f} | {cut:,.0f} | {before:,.0f} | {100 * shared / area:.2f} % | {after:,.0f}"
    print(f"| {len(paths)} | {row} |")


def detect(predictor: Predictor, path: Path) -> Nuclei:
    """Nuclei (frame: work) with outlines as the network draws them."""
    pixels = read_rgb(path)
    colour = colour_of_fit(predictor.card.colour, fit_macenko(pixels.reshape(-1, 3)))
    return detect_overlapping(predictor, pixels, colour)


def compare(nuclei: Nuclei) -> list[float]:
    """Nuclei, those that the cut changes, pairs that overlap, um2 shared and in all, and pairs left by the cut."""
    none = nuclei[:0]
    cut = replace(nuclei, rays=cut_apart(nuclei.xy * MPP, nuclei.rays, none.xy, none.rays))
    pairs, shared, area = measure(nuclei)
    return [len(nuclei), (cut.rays != nuclei.rays).any(1).sum(), pairs, shared, area, measure(cut)[0]]


def measure(nuclei: Nuclei) -> tuple[int, float, float]:
    """Pairs that overlap, and um2 that they share and that all nuclei have."""
    polygons = shapely.polygons(rays_to_rings(nuclei.xy * MPP, nuclei.rays, (1, 1)))
    first, second = shapely.STRtree(polygons).query(polygons, predicate="intersects")
    first, second = first[first < second], second[first < second]
    shared = shapely.area(shapely.intersection(polygons[first], polygons[second]))
    return int((shared > LEAST_UM2).sum()), shared.sum(), shapely.area(polygons).sum()


if __name__ == "__main__":
    main()

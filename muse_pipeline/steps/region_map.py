"""The step `regions`, which maps the tissue regions of a slide."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from muse_pipeline.core.process import print_load, show_progress
from muse_pipeline.inference.card import painting_warnings
from muse_pipeline.inference.nucleus_regions import map_nuclei
from muse_pipeline.inference.predictor import RegionPredictor
from muse_pipeline.inference.region_files import record_failure, write_regions
from muse_pipeline.inference.region_maps import map_slide
from muse_pipeline.inference.stains import colour_of_fit, read_colour
from muse_pipeline.slides.inspect import read_info
from muse_pipeline.store.store import open_store


def regions(
    store: Path,
    source: Callable[[], RegionPredictor] | Sequence[Path],
    info: Path,
    colour: Path,
    output: Path,
    threads: int,
    warnings: list[str],
) -> None:
    """Map the tissue regions of a slide, write them to the folder ``output``, and print their
    areas.

    The source is a function that loads a region model or, for regions from the classes of the
    nuclei, all shards. If this fails, ``regions.json`` states the reason, and the folder contains
    no other file of regions. Warnings about the model are appended to ``warnings``, even if mapping
    fails later.
    """
    header = read_info(info)
    with record_failure(output, header.slide_id):
        predictor = source() if callable(source) else None
        image = open_store(store)
        if predictor is None:
            region_map = map_nuclei(image, source, header, threads)
        else:
            warnings += painting_warnings(predictor.card.name, predictor.card.metrics)
            image.require_lossless()
            fitted = colour_of_fit(
                predictor.card.colour, read_colour(colour, image.fingerprint).macenko
            )
            with print_load("mapping regions", threads), show_progress("windows") as progress:
                region_map = map_slide(image, predictor, fitted, threads=threads, progress=progress)
        record = write_regions(region_map, image, header, output)
    for one in record["classes"]:
        print(f"{one['name']}: {one['area_mm2']:.3f} mm2 in {one['n_areas']} areas")

"""Find a slide's tissue, its outline for QuPath and its stains.

A slide without tissue is finished, not failed: the mask is empty and the warnings say so.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from muse_pipeline.cli.output import add_ledger_argument

WRITES = frozenset({"mask", "picture", "outline", "colour", "ledger"})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``muse tissue``."""
    parser.add_argument("slide", type=Path, metavar="SLIDE")
    parser.add_argument("--info", type=Path, required=True, metavar="JSON", help="slide.json of `muse inspect`")
    parser.add_argument("--roi", type=Path, metavar="GEOJSON", help="keep to these areas, drawn in QuPath")
    parser.add_argument("--mask", type=Path, required=True, metavar="NPZ", help="tissue.npz, for the steps to come")
    parser.add_argument("--picture", type=Path, required=True, metavar="PNG", help="the outline on the slide")
    parser.add_argument("--outline", type=Path, required=True, metavar="GEOJSON", help="the outline for QuPath")
    parser.add_argument("--colour", type=Path, required=True, metavar="JSON", help="how the slide is stained")
    add_ledger_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Find, measure, write."""
    from dataclasses import replace

    from muse_pipeline.core.files import write_json
    from muse_pipeline.core.process import return_large_arrays
    from muse_pipeline.qupath.regions import describe_roi, read_annotations, read_roi, write_outline
    from muse_pipeline.slides.base import open_slide
    from muse_pipeline.slides.inspect import read_info, require_unchanged
    from muse_pipeline.tissue.colour import measure_colour
    from muse_pipeline.tissue.find import find_tissue, is_fluorescence, measure_annotation
    from muse_pipeline.tissue.outline import read_thumbnail, write_picture

    return_large_arrays()
    info = read_info(args.info)
    roi = read_roi(args.roi, info) if args.roi else None
    with open_slide(args.slide, info.reader) as slide:
        require_unchanged(slide, info)
        found = find_tissue(slide, info, roi)
        tissue, warnings = found.tissue, found.warnings
        if roi is not None:
            parts = [measure_annotation(area, tissue, info) for area in read_annotations(args.roi, roi, info)]
            tissue = replace(tissue, roi_file=describe_roi(args.roi, roi, info), annotations=tuple(parts))
        dark_background = is_fluorescence(found.overview.pixels)
        write_picture(args.picture, read_thumbnail(slide, info, found.overview), tissue, info)
        del found  # the overview makes room for the pixels that the stains are measured in
        colour = measure_colour(slide, info, tissue, dark_background, warnings)
    write_outline(args.outline, tissue, info)
    write_json(args.colour, colour.to_dict())
    tissue.save(args.mask)

"""Join the shards of a slide into one table of nuclei.

Resolves the seams between windows, keeps what lies in tissue (and in the ROI, if there is one), draws the outlines and
measures them. With --regions every nucleus also has its tissue region and its distance to the border.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from muse_pipeline.cli.arguments import add_output_argument, add_threads_argument
from muse_pipeline.cli.output import add_ledger_argument

if TYPE_CHECKING:
    from muse_pipeline.core.types import SlideInfo
    from muse_pipeline.inference.region_lookup import FailedRegions, SlideRegions
    from muse_pipeline.tissue.mask import KeptArea


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``muse stitch``."""
    parser.add_argument("shards", type=Path, nargs="+", metavar="SHARD", help="all shards of the slide")
    parser.add_argument("--info", type=Path, required=True, metavar="JSON", help="slide.json of `muse inspect`")
    parser.add_argument("--tissue", type=Path, required=True, metavar="NPZ", help="mask of `muse tissue`")
    parser.add_argument(
        "--regions",
        type=Path,
        metavar="PATH",
        help="folder of `muse regions`, or a GeoJSON of areas with classes: adds the region of every nucleus",
    )
    add_threads_argument(parser)
    add_output_argument(parser, "PARQUET")
    parser.add_argument("--csv", type=Path, metavar="CSV.GZ", help="also write the table as CSV")
    add_ledger_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Stitch one slide."""
    import pyarrow as pa

    from muse_pipeline.core.process import return_large_arrays
    from muse_pipeline.inference.stitch import stitch_shards
    from muse_pipeline.slides.inspect import read_info
    from muse_pipeline.tissue.mask import TissueMask

    return_large_arrays()
    pa.set_memory_pool(pa.system_memory_pool())  # Arrow's own keeps what is freed
    info = read_info(args.info)
    kept = TissueMask.load(args.tissue, info).kept  # and not the mask, which takes eight times as much
    regions = _load_regions(args, info, kept) if args.regions else None
    provenance = stitch_shards(args.shards, info, kept, args.output, args.threads, regions)
    if doubt := provenance.get("nuclear_size", {}).get("doubt"):
        args.warnings.append(doubt)
    if args.output.suffix == ".parquet":  # of an earlier table, where it is not written anew
        args.output.with_suffix(".csv.gz").unlink(missing_ok=True)
    if args.csv:
        from muse_pipeline.nuclei.parquet import write_csv

        write_csv(args.output, args.csv)


def _load_regions(args: argparse.Namespace, info: SlideInfo, kept: KeptArea) -> SlideRegions | FailedRegions:
    """The regions of the slide; a model that failed is a warning, for nuclei do without."""
    from muse_pipeline.inference.region_lookup import FailedRegions, load_regions

    regions = load_regions(args.regions, info, kept)
    if isinstance(regions, FailedRegions):
        args.warnings.append(f"no tissue regions: {regions.reason}")
    return regions

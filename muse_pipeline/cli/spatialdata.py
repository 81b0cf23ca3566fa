"""Write a slide for SpatialData: its image, outlines and nuclei.

    cd results/slide; muse spatialdata nuclei.parquet --store image-500nm.zarr -o slide.spatialdata.zarr

The image is a link to the store, not a copy, so the two folders must keep their relative location. The coordinate
system "global" is in um.
"""

import argparse
from pathlib import Path

from muse_pipeline.cli.arguments import add_output_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("nuclei", type=Path, metavar="NUCLEI", help="table of nuclei (nuclei.parquet)")
    parser.add_argument("--store", type=Path, required=True, metavar="STORE", help="image of the slide")
    parser.add_argument("--patient", help="patient of the slide (default: from the name of the slide)")
    parser.add_argument("--embeddings", type=Path, metavar="PARQUET", help="vectors of the nuclei, from `muse embed`")
    add_output_argument(parser, "ZARR")


def run(args: argparse.Namespace) -> None:
    """Write the folder."""
    from muse_pipeline.scverse.anndata import write_spatialdata

    write_spatialdata(args.nuclei, args.store, args.output, args.patient, args.embeddings)

"""Write a slide for SpatialData: its image, outlines and nuclei.

    cd results/slide; muse spatialdata nuclei.parquet --store image-500nm.zarr -o
        slide.spatialdata.zarr

The image is a link to the store, not a copy, so the two folders must keep their relative location.
The coordinate system "global" is in um.
"""

import argparse

from muse_pipeline.cli.arguments import Parser


def add_arguments(parser: Parser) -> None:
    parser.add_path("nuclei", "NUCLEI", "table of nuclei (nuclei.parquet)")
    parser.add_path("--store", "STORE", "image of the slide", required=True)
    parser.add_argument(
        "--patient", help="patient of the slide (default: from the name of the slide)"
    )
    parser.add_path("--embeddings", "PARQUET", "vectors of the nuclei, from `muse embed`")
    parser.add_output("ZARR")


def run(args: argparse.Namespace) -> None:
    from muse_pipeline.scverse.anndata import write_spatialdata

    write_spatialdata(args.nuclei, args.store, args.output, args.patient, args.embeddings)

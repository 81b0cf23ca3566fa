"""Write a slide's nuclei as AnnData, for scanpy and squidpy.

    muse anndata results/slide/nuclei.parquet -o results/slide/nuclei.h5ad

X has the features, obs the class, its probabilities and the slide, obsm the positions in um ("spatial") and in level-0
px. Needs the extra `anndata` (h5py).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from muse_pipeline.cli.arguments import add_output_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``muse anndata``."""
    parser.add_argument("nuclei", type=Path, metavar="NUCLEI", help="nuclei.parquet")
    parser.add_argument("--patient", help="of the slide (default: as its name has it)")
    parser.add_argument("--embeddings", type=Path, metavar="PARQUET", help="of these nuclei, by `muse embed`")
    add_output_argument(parser, "H5AD")


def run(args: argparse.Namespace) -> None:
    """Write the file."""
    from muse_pipeline.steps import anndata

    anndata(args.nuclei, args.output, args.patient, args.embeddings)

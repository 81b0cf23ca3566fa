"""Compute a network's features for the nuclei of a slide, whichever model found them.

    muse embed results/S --model compact       the features of a detector
    muse embed results/S --checkpoint run/checkpoint.pt --model muse.onnx  exports first (torch)
    muse embed results/T --model muse.onnx     does not need torch
    muse embed results/T --model encoder.onnx  a network of `muse import-model`

Reads the nuclei and the image of a finished slide, and writes `embeddings-<model>.parquet` next to
them: the id in QuPath, the position, and a vector of 16-bit floats of every nucleus. With --nuclei,
it reads the nuclei from another program's file instead: outlines or points as GeoJSON, points as
CSV in level-0 pixels, or a label image.
"""

import argparse

from muse_pipeline.cli.arguments import Parser

WRITES = frozenset({"ledger", "model"})  # the model is written if --checkpoint is given


def add_arguments(parser: Parser) -> None:
    parser.add_results("results", "RESULTS_SLIDE", "folder of one slide in the output of a run")
    parser.add_path(
        "--model", "ONNX", "feature model, encoder, or detector (file or built-in)", required=True
    )
    parser.add_path(
        "--checkpoint",
        "FILE",
        "first export the model from this: a checkpoint of `muse train`, a released MUSE file, or"
        " `compact`",
    )
    parser.add_path("--nuclei", "FILE", "another program's nuclei, instead of the run's")
    parser.add_flag("--features", "also measure shape, stains, texture and neighbours")
    parser.add_threads("windows run at the same time")
    parser.add_provider()
    parser.add_ledger()


def run(args: argparse.Namespace) -> None:
    """Export the checkpoint if one is given, and compute the features."""
    from muse_pipeline.cohort.layout import SlideFiles
    from muse_pipeline.inference.encoder import open_embedder
    from muse_pipeline.inference.model import choose_provider, find_model
    from muse_pipeline.slides.inspect import read_info
    from muse_pipeline.steps import embed, image_mpp

    if args.checkpoint:
        from muse_pipeline.export.onnx import export_embedder

        card = export_embedder(args.checkpoint, args.model, image_mpp(args.results))
        print(
            f"{args.model}: {card.embedding_dim} features of {card.source['backbone']} at"
            f" {card.mpp:g} um/px"
        )
    provider = choose_provider(args.provider)
    embedder, foreign = open_embedder(find_model(str(args.model), provider), provider), None
    if args.nuclei:
        from muse_pipeline.proposals.imported import read_nuclei_of_others

        foreign = (
            args.nuclei,
            read_nuclei_of_others(args.nuclei, read_info(SlideFiles(args.results).info)),
        )
    print(embed(args.results, embedder, args.features, args.threads, foreign))

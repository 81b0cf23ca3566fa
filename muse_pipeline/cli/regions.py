"""Map tissue regions of a slide, from the classes of its nuclei or with an ONNX region model.

    muse regions results/S1/image-500nm.zarr --nuclei results/S1/shards/*.parquet -o results/S1
    muse regions results/S1/image-500nm.zarr --model tumour.onnx -o results/S1

Reads the smaller levels of the store that `muse step tile` wrote, and slide.json and colour.json
next to it. Writes regions.geojson (annotations for QuPath), regions.png, regions.zarr and
regions.json into the folder. If this fails, regions.json states why, so that the slide's nuclei can
be written without regions.
"""

import argparse
from contextlib import nullcontext, suppress
from pathlib import Path

from muse_pipeline.cli.arguments import Parser

WRITES = frozenset({"output", "outcome"})


def add_arguments(parser: Parser) -> None:
    parser.add_argument(
        "store", type=Path, help="image store; the model's um/px must be a multiple of its um/px"
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--nuclei", type=Path, nargs="+", metavar="SHARD", help="all shards of the slide"
    )
    source.add_argument("--model", metavar="ONNX", help="region model")
    parser.add_path("--training", "JSON", "outcome of the workflow's training of the model")
    parser.add_path("--info", "JSON", "slide.json (default: next to the store)")
    parser.add_path("--colour", "JSON", "colour.json (default: next to the store)")
    parser.add_threads("windows run at the same time")
    parser.add_provider()
    parser.add_output("FOLDER", "folder for the files")
    parser.add_path("--outcome", "JSON", "ledger of the step, which then ends well if it fails")


def run(args: argparse.Namespace) -> None:
    """Map the regions; in the workflow, a slide whose regions fail gets its nuclei all the same."""
    from muse_pipeline.cohort.layout import SlideFiles
    from muse_pipeline.cohort.ledgers import record_step
    from muse_pipeline.steps import regions

    files = SlideFiles(args.store.parent)
    inputs = args.info or files.info, args.colour or files.colour
    source = args.nuclei or (lambda: _load_predictor(args))
    with (
        suppress(Exception) if args.outcome else nullcontext(),
        record_step(args.outcome, "regions") as warnings,
    ):
        regions(args.store, source, *inputs, args.output, args.threads, warnings)


def _load_predictor(args: argparse.Namespace):
    """Load the region model, unless the workflow trains it and its training failed."""
    from muse_pipeline.core.errors import ModelError
    from muse_pipeline.core.files import read_json
    from muse_pipeline.inference.model import choose_provider, find_region_model
    from muse_pipeline.inference.predictor import RegionPredictor

    if args.training and read_json(args.training)["status"] != "ok":
        raise ModelError(
            "the training of the region model failed; see"
            f" {args.training.parent / 'logs/train.log'}"
        )
    provider = choose_provider(args.provider)
    return RegionPredictor(find_region_model(args.model, provider), provider)

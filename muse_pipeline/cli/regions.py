"""Map tissue regions of a slide, such as tumour, with an ONNX region model.

    muse regions results/S1/image-500nm.zarr --model tumour.onnx -o results/S1

Reads the smaller levels of the store that `muse tile` wrote, and slide.json and colour.json beside it. Writes
regions.geojson (annotations for QuPath), regions.png, regions.zarr and regions.json into the folder. If it fails,
regions.json states why, so that the slide's nuclei can be written without regions.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from muse_pipeline.cli.arguments import add_output_argument, add_provider_argument, add_threads_argument, at_least_one
from muse_pipeline.cli.output import add_ledger_argument

if TYPE_CHECKING:
    from muse_pipeline.inference.region_maps import MapShard
    from muse_pipeline.store.grid import Shard

SHARDS = "regions.shards"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``muse regions``."""
    parser.add_argument("store", type=Path, help="image store whose um/px divides that of the model")
    parser.add_argument("--model", required=True, metavar="ONNX", help="region model")
    parser.add_argument("--training", type=Path, metavar="JSON", help="how the workflow's training of the model ended")
    parser.add_argument("--info", type=Path, metavar="JSON", help="slide.json (default: beside the store)")
    parser.add_argument("--colour", type=Path, metavar="JSON", help="colour.json (default: beside the store)")
    cut = parser.add_mutually_exclusive_group()
    cut.add_argument("--shard", metavar="I-OF-N", help=f"only map part I of N, into FOLDER/{SHARDS}")
    cut.add_argument("--join", type=at_least_one, metavar="N", help=f"write the files from N parts in FOLDER/{SHARDS}")
    add_threads_argument(parser, "windows run at the same time")
    add_provider_argument(parser)
    add_output_argument(parser, "FOLDER", "where the files go")
    add_ledger_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Map one slide, or a part of it."""
    from muse_pipeline.cohort.layout import SlideFiles
    from muse_pipeline.core.files import remove
    from muse_pipeline.inference.region_maps import MapShard
    from muse_pipeline.steps import join_regions
    from muse_pipeline.store.grid import Shard

    if args.shard:
        shard = Shard.parse(args.shard)
        _map(args, shard).save(args.output / SHARDS / f"{shard}.npz")
        return

    def find_shards() -> list[MapShard]:
        names = [Shard(index + 1, args.join) for index in range(args.join or 0)]
        return [MapShard.load(args.output / SHARDS / f"{name}.npz") for name in names] or [_map(args, Shard(1, 1))]

    join_regions(args.store, args.info or SlideFiles(args.store.parent).info, args.output, find_shards)
    remove(args.output / SHARDS)


def _map(args: argparse.Namespace, shard: Shard) -> MapShard:
    """Run the model on one shard."""
    from muse_pipeline.cohort.layout import SlideFiles
    from muse_pipeline.core.errors import ModelError
    from muse_pipeline.core.files import read_json
    from muse_pipeline.inference.model import choose_provider, find_region_model, precision_warnings
    from muse_pipeline.inference.predictor import RegionPredictor
    from muse_pipeline.steps import map_regions

    if args.training and read_json(args.training)["status"] != "ok":
        raise ModelError(f"the training of the region model failed; see {args.training.parent / 'logs/train.log'}")
    provider = choose_provider(args.provider)
    predictor = RegionPredictor(find_region_model(args.model, provider), provider)
    args.warnings += precision_warnings(predictor.card, provider)
    return map_regions(args.store, predictor, args.colour or SlideFiles(args.store.parent).colour, shard, args.threads)

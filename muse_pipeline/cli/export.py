"""Write a checkpoint as one ONNX file that contains its model card, and compare it with torch.

The nuclei, or the maps of a region model, are compared on the pictures that the training run wrote
next to its checkpoint, or on the pictures of `--check-images FOLDER`. The differences are printed,
and nothing is written if they are too large.
"""

import argparse
from pathlib import Path

from muse_pipeline.cli.arguments import Parser, at_least_one
from muse_pipeline.core.types import MODEL_PRECISIONS


def add_arguments(parser: Parser) -> None:
    parser.add_argument(
        "checkpoint",
        type=Path,
        help=(
            "checkpoint.pt of a detector or a region model, or the name of a built-in detector that"
            " has one"
        ),
    )
    parser.add_output("ONNX")
    parser.add_path(
        "--check-images", "FOLDER", "pictures to compare with PyTorch, at the model's mpp"
    )
    parser.add_path(
        "--calibration",
        "FOLDER",
        "pictures at the model's mpp for the ranges of int8, instead of those next to the"
        " checkpoint",
    )
    parser.add_argument("--name", help="name of the model (default: that in the training config)")
    settings = parser.add_argument_group("instead of the training config's `export` settings")
    settings.add_argument("--input-px", type=at_least_one, metavar="N", help="side of a window")
    settings.add_argument(
        "--halo-px", type=int, metavar="N", help="border whose nuclei belong to the next window"
    )
    settings.add_argument(
        "--precision", choices=MODEL_PRECISIONS, help="precision of weights and activations"
    )
    settings.add_argument(
        "--embedding",
        action="store_true",
        default=None,
        help="also return the feature vector of every nucleus",
    )
    settings.add_argument(
        "--any-window",
        action="store_true",
        default=None,
        help=(
            "export a network with aligned corners for windows of a different size than in training"
        ),
    )


def run(args: argparse.Namespace) -> None:
    from muse_pipeline.core.errors import CheckpointError
    from muse_pipeline.core.files import complete_file
    from muse_pipeline.export.onnx import export_onnx
    from muse_pipeline.export.parity import check_parity
    from muse_pipeline.export.region_models import check_region_parity, export_region_model
    from muse_pipeline.inference.card import REGIONS
    from muse_pipeline.inference.model import find_checkpoint, list_checkpoints
    from muse_pipeline.training.checkpoint import load_checkpoint
    from muse_pipeline.training.run import RunFolder

    checkpoint = find_checkpoint(args.checkpoint)
    if not checkpoint.is_file():
        built_in = ", ".join(list_checkpoints())
        raise CheckpointError(
            f"{checkpoint}: no such checkpoint; give a .pt file or a built-in name ({built_in})"
        )
    names = ("name", "input_px", "halo_px", "precision", "embedding", "any_window")
    changes = {name: value for name in names if (value := getattr(args, name)) is not None}
    kept = RunFolder(checkpoint.parent).pictures
    pictures = args.check_images or (kept if kept.is_dir() else None)
    of_regions = load_checkpoint(checkpoint).meta.get("kind") == REGIONS
    export, check = (
        (export_region_model, check_region_parity) if of_regions else (export_onnx, check_parity)
    )
    with complete_file(args.output) as partial:
        export(
            checkpoint,
            partial,
            calibration=args.calibration or (pictures if of_regions else None),
            **changes,
        )
        if pictures:
            parity = check(checkpoint, partial, pictures)
            print(f"checked against torch on {pictures}: {parity}")
        else:
            print(
                "not checked against torch: there are no pictures next to the checkpoint; give"
                " --check-images FOLDER"
            )

"""Write a checkpoint as one ONNX file with its model card inside, and check it against torch.

With `--check-images FOLDER` the agreement is measured on real pictures, down to the nuclei; the figures are printed and
the export fails if they are too far apart.
"""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``muse export``."""
    parser.add_argument("checkpoint", type=Path, help="checkpoint.pt of `muse finetune`")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="ONNX")
    parser.add_argument("--check-images", type=Path, metavar="FOLDER", help="pictures at the model's mpp to check on")


def run(args: argparse.Namespace) -> None:
    """Export one checkpoint."""
    from muse_pipeline.export.onnx import export_onnx
    from muse_pipeline.export.parity import check_parity

    export_onnx(args.checkpoint, args.output)
    if args.check_images:
        print(check_parity(args.checkpoint, args.output, args.check_images))

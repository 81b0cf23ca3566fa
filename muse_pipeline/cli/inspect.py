"""Show the properties of a slide: size, mpp and its source, levels, bounds, fingerprint, warnings.

With --output, it also writes slide.json, which every later step reads. If the file has no mpp, give
it with --mpp. The slide is opened in a separate process, so that a slide that crashes or hangs its
reader is rejected before any other step reads it.
"""

import argparse

from muse_pipeline.cli.arguments import Parser, positive


def add_arguments(parser: Parser) -> None:
    parser.add_path(
        "slide", "SLIDE", "a slide or a plain image, or a folder written by `muse step fetch`"
    )
    parser.add_argument(
        "--slide-id", metavar="ID", help="name in the cohort (default: the name of the file)"
    )
    parser.add_number("--mpp", positive, "UM", "um per level-0 pixel, instead of the file's")
    parser.add_argument(
        "--source", metavar="URL", help="URL from which SLIDE must have been fetched"
    )
    parser.add_output("JSON", "also write slide.json here", required=False)
    parser.add_ledger()


def run(args: argparse.Namespace) -> None:
    from muse_pipeline.steps import inspect

    inspect(args.slide, args.slide_id or args.slide.stem, args.mpp, args.source, args.output)

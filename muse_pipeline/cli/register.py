"""Register a second picture of the same tissue to its H&E slide, and check the result tile by tile.

The partner may be rotated, mirrored or stained differently, and may cover only a part of the slide.
Writes transform.json, but nothing for a partner that does not fit.
"""

import argparse

from muse_pipeline.cli.arguments import Parser, positive
from muse_pipeline.core.types import GEOJSON_FRAMES


def add_arguments(parser: Parser) -> None:
    parser.add_path("slide", "HE", "the H&E slide")
    parser.add_path("partner", "PARTNER", "a slide or picture of the same tissue")
    parser.add_argument(
        "--slide-id", metavar="ID", help="name of the H&E slide (default: that of its file)"
    )
    parser.add_number("--mpp", positive, "UM", "um per level-0 pixel of the H&E slide")
    parser.add_number("--partner-mpp", positive, "UM", "um per level-0 pixel of the partner")
    parser.add_path(
        "--start",
        "FILE",
        "initial transform, not a search: landmarks (.csv), a matrix or a transform.json",
    )
    parser.add_argument(
        "--frame",
        choices=GEOJSON_FRAMES,
        default=GEOJSON_FRAMES[0],
        help="origin of --start: the corner of the scanner's bounds, as in QuPath, or of level 0",
    )
    parser.add_number("--max-residual", positive, "UM", "largest residual of a tile (default: 5)")
    parser.add_threads()
    parser.add_output("FOLDER", "for transform.json")
    parser.add_ledger()


def run(args: argparse.Namespace) -> None:
    from muse_pipeline.core.errors import MisfitError, MppError
    from muse_pipeline.registration.partner import open_pair_of_files
    from muse_pipeline.registration.record import summary_text, write_registration
    from muse_pipeline.registration.register import LIMIT_UM, inspect_for_pair, register_partner
    from muse_pipeline.registration.transform import read_given
    from muse_pipeline.slides.isolation import call_isolated

    name, advice = args.slide_id or args.slide.stem, "give it with --partner-mpp"
    info = call_isolated(inspect_for_pair, args.slide, name, args.mpp, "give it with --mpp")
    partner_info = call_isolated(
        inspect_for_pair, args.partner, args.partner.stem, args.partner_mpp, advice
    )
    start = read_given(args.start, info, partner_info, args.frame) if args.start else None
    files = args.slide, info, args.partner, partner_info
    try:
        with open_pair_of_files(*files, args.threads) as pair:
            registration = register_partner(pair, start, args.max_residual or LIMIT_UM)
            print(summary_text(write_registration(registration, args.output)))
    except MppError as error:
        what = str(error).partition("; ")[0]
        raise MppError(f"{what}; correct --mpp or --partner-mpp") from error
    except MisfitError as error:
        raise MisfitError(
            f"{error}; correct --mpp or --partner-mpp, give an initial transform with --start, or"
            " accept larger residuals with --max-residual"
        ) from error

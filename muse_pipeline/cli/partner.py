"""Register a slide's partner as `muse register` does, and write it as a store in the slide's frame.

This is the job `partner` of the workflow. A partner that cannot be used is recorded in partner.json
and does not fail the job.
"""

import argparse

from muse_pipeline.cli.arguments import Parser, fraction, positive


def add_arguments(parser: Parser) -> None:
    parser.add_path("slide", "HE", "the H&E slide")
    parser.add_path("partner", "PARTNER", "a slide or picture of the same tissue")
    parser.add_path("--info", "JSON", "slide.json of the H&E slide", required=True)
    parser.add_path("--tissue", "NPZ", "tissue.npz of the H&E slide", required=True)
    parser.add_path("--start", "FILE", "see `muse register`")
    parser.add_number("--mpp", positive, "UM", "um per pixel of the store", default=0.5)
    parser.add_threads()
    parser.add_number(
        "--max-corrupt",
        fraction,
        "F",
        "fraction of the tissue that may be undecodable",
        default=0.01,
    )
    parser.add_output("ZARR", "store to write, in the folder RESULTS/<slide_id>/partner")


def run(args: argparse.Namespace) -> None:
    """Register the partner, write its store, and record the result."""
    from muse_pipeline.registration.partner import open_pair_of_files, write_partner_store
    from muse_pipeline.registration.record import (
        TRANSFORM,
        read_outcome,
        read_registered,
        record_outcome,
        summary_text,
        write_registration,
    )
    from muse_pipeline.registration.register import inspect_for_pair, register_partner
    from muse_pipeline.registration.transform import read_given
    from muse_pipeline.slides.inspect import read_info
    from muse_pipeline.slides.isolation import call_isolated
    from muse_pipeline.tissue.mask import TissueMask

    info, folder = read_info(args.info), args.output.parent
    with record_outcome(args.partner, args.output, info.slide_id) as facts:
        is_known = args.start is not None and args.start.suffix.lower() == ".json"
        partner_mpp = read_registered(args.start).partner["mpp"][0] if is_known else None
        advice = (
            "run `muse register` with --partner-mpp, and name its transform.json in the sheet's"
            " partner_transform"
        )
        partner_info = call_isolated(
            inspect_for_pair, args.partner, args.partner.stem, partner_mpp, advice
        )
        with open_pair_of_files(args.slide, info, args.partner, partner_info, args.threads) as pair:
            start = read_given(args.start, info, partner_info) if args.start else None
            content = write_registration(register_partner(pair, start), folder)
            print(summary_text(content))
            registered, tissue = (
                read_registered(folder / TRANSFORM),
                TissueMask.load(args.tissue, info),
            )
            write_partner_store(
                pair, registered, tissue, args.output, mpp=args.mpp, max_corrupt=args.max_corrupt
            )
        facts["residuals"] = content["residuals"]
    if "residuals" not in facts:
        print(f"cannot be used: {read_outcome(folder)['reason']}")

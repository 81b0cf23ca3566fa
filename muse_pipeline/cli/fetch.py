"""Download a slide from its URL, for the steps that read it.

    muse fetch https://host/slide.svs --output copy    or s3://bucket/slide.svs, and so on
    muse fetch slides.tsv --slide-id S1 --output copy  the slide of one row of a sheet

Writes a folder that contains the slide; `muse inspect`, `tissue` and `tile` accept the folder as
the slide. Credentials in a URL (user:password@, a signed query) are neither written nor printed.
Needs the extra `remote`.
"""

import argparse

from muse_pipeline.cli.arguments import Parser


def add_arguments(parser: Parser) -> None:
    parser.add_argument("url", metavar="URL", help="URL of the slide, or a sheet that contains it")
    parser.add_argument("--slide-id", metavar="ID", help="slide_id of the slide in the sheet")
    parser.add_output("FOLDER", "the copy")
    parser.add_ledger()


def run(args: argparse.Namespace) -> None:
    """Find the URL, in the row of ``slide_id`` if a sheet is given, and download the slide."""
    from muse_pipeline.cohort.sheet import read_row
    from muse_pipeline.core.errors import SlideError
    from muse_pipeline.slides.remote import SlideUrl, is_url
    from muse_pipeline.steps import fetch

    url = SlideUrl(args.url)
    if not is_url(args.url):
        if args.slide_id is None:
            raise SlideError(f"{args.url}: is not a URL; give a URL, or a sheet and --slide-id")
        url = read_row(args.url, args.slide_id).path
        if not is_url(url):
            raise SlideError(
                f"{url}: is a local file, so there is nothing to fetch for '{args.slide_id}'"
            )
    fetch(url, args.output)

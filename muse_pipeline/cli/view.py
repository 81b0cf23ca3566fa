"""Show results in the browser, from a local server (127.0.0.1) that runs until it is interrupted.

    muse view results            the report of a run, with the viewer of every slide
    muse view results/S          the viewer of one slide, which is written if it does not exist

The pages can also be opened by a double click, without a server.
"""

import argparse

from muse_pipeline.cli.arguments import Parser, zero_or_more

MOST_LISTED = 10


def add_arguments(parser: Parser) -> None:
    parser.add_results("results", "RESULTS", "output folder of a run, or a slide's folder in it")
    parser.add_argument("--port", type=zero_or_more, default=8080, help="0: any free port")


def run(args: argparse.Namespace) -> None:
    """Print the addresses of the pages, and serve the pages."""
    from contextlib import suppress

    from muse_pipeline.viewer.page import ADDRESS, find_pages, start_server

    pages = find_pages(args.results)
    with start_server(args.results, args.port) as server:
        for page in pages[:MOST_LISTED]:
            print(f"http://{ADDRESS}:{server.server_port}/{page}")
        if len(pages) > MOST_LISTED:
            print(f"and {len(pages) - MOST_LISTED} more")
        print("press Ctrl+C to stop", flush=True)
        with suppress(KeyboardInterrupt):
            server.serve_forever()

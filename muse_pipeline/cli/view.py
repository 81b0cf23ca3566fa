"""Show results in the browser, from a local server (127.0.0.1) that runs until it is interrupted.

    muse view results            the report of a run, with the viewer of every slide
    muse view results/S          the viewer of one slide, which is written if it does not exist

The pages can also be opened by a double click, without a server.
"""

from __future__ import annotations

from muse_pipeline.cli.signature import Results, ZeroOrMore

MOST_LISTED = 10


def run(results: Results, port: ZeroOrMore = 8080) -> None:
    """Print the addresses of the pages, and serve the pages.

    Args:
        results: output folder of a run, or a slide's folder in it
        port: 0: any free port
    """
    from contextlib import suppress

    from muse_pipeline.viewer.page import ADDRESS, find_pages, start_server

    pages = find_pages(results)
    with start_server(results, port) as server:
        for page in pages[:MOST_LISTED]:
            print(f"http://{ADDRESS}:{server.server_port}/{page}")
        if len(pages) > MOST_LISTED:
            print(f"and {len(pages) - MOST_LISTED} more")
        print("press Ctrl+C to stop", flush=True)
        with suppress(KeyboardInterrupt):
            server.serve_forever()

"""A web server for results, which answers only browsers on this machine."""

from __future__ import annotations

from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, urlsplit

from muse_pipeline.cohort.layout import CohortFiles, SlideFiles
from muse_pipeline.core.errors import NucleiError, OutputError
from muse_pipeline.viewer.page import write_viewer

ADDRESS = "127.0.0.1"


class ResultsHandler(SimpleHTTPRequestHandler):
    """Answers requests for the files of one folder, if they are addressed to this machine."""

    def do_GET(self) -> None:
        """Send a file, but not to a page from elsewhere whose host name resolves to this machine (DNS rebinding)."""
        host = urlsplit(f"//{self.headers.get('Host', '')}").hostname
        if host not in {ADDRESS, "localhost"}:
            self.send_error(HTTPStatus.FORBIDDEN, "this server only answers this machine")
        else:
            super().do_GET()

    do_HEAD = do_GET

    def end_headers(self) -> None:
        """Disable caching, since results may be replaced while they are viewed."""
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, *args: object) -> None:
        """Print nothing, since a page requests thousands of tiles."""


def start_server(folder: Path, port: int = 0) -> ThreadingHTTPServer:
    """Create a server of ``folder`` on 127.0.0.1; port 0 means any free port. ``serve_forever`` runs the server."""
    try:
        return ThreadingHTTPServer((ADDRESS, port), partial(ResultsHandler, directory=str(folder)))
    except (OSError, OverflowError) as error:
        raise OutputError(f"port {port} cannot be used ({error}); give another --port") from error


def find_pages(results: Path) -> list[str]:
    """The report and viewers of a folder, relative to it; for the folder of a slide its viewer, updated if needed."""
    if SlideFiles(results).nuclei.is_file():
        return [write_viewer(results).relative_to(results).as_posix()]
    report = CohortFiles(results).report
    pages = [*([report] if report.is_file() else []), *sorted(results.glob("*/viewer/index.html"))]
    if not pages:
        raise NucleiError(f"{results}: has no report.html and no slide with nuclei; give the output folder of a run")
    return [quote(page.relative_to(results).as_posix()) for page in pages]

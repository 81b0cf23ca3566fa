"""A web server on this machine that serves parts of files, and fails as configured."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Served:
    """A file, how it is served, and the requests for it.

    Attributes:
        content: bytes of the file.
        status: HTTP status of every answer; with any status but 200, the file is not served.
        ranges: True to serve parts of the file on request.
        cut_after: number of bytes after which an answer breaks off; None for complete answers.
        n_cuts: number of answers that break off.
        grows: bytes that are appended to the file after every answer.
        states_size: True to send a Content-Length header.
        secret: the query string without which access is denied; None if none is needed.
        asked: method and range of every request so far.
    """

    content: bytes
    status: int = 200
    ranges: bool = True
    cut_after: int | None = None
    n_cuts: int = 1 << 30
    grows: bytes = b""
    states_size: bool = True
    secret: str | None = None
    asked: list[str] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        path, _, query = self.path.partition("?")
        served = self.server.files.get(path, Served(b"", status=404))
        served.asked.append(f"{self.command} {self.headers.get('Range', '')}")
        allowed = served.secret in {None, query}
        status = served.status if allowed else 403
        content = served.content if status == 200 else b"no"
        first, last = 0, len(content) - 1
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if asked and served.ranges and status == 200:
            status, first, last = 206, int(asked[1]), min(int(asked[2]), last)
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        if served.states_size:
            self.send_header("Content-Length", str(last + 1 - first))
        self.send_header("ETag", f'"{len(content)}"')
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        if with_body:
            self._send(served, content[first : last + 1])

    def _send(self, served: Served, body: bytes) -> None:
        if served.cut_after is not None and served.n_cuts > 0 and len(body) > served.cut_after:
            served.n_cuts -= 1
            body = body[: served.cut_after]
        with suppress(ConnectionError):  # clients close the connection if the headers suffice
            self.wfile.write(body)
        served.content += served.grows

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serve(files: dict[str, Served]) -> Iterator[str]:
    """Serve ``files`` by their paths, and yield the server's address, "http://127.0.0.1:PORT"."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.files, server.daemon_threads = files, True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

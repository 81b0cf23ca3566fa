"""Chromium and Firefox for the tests; a missing browser is installed from Debian's packages if
tests run as root.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from debian import install


def require(package: str, *programs: str) -> str:
    """Path of the first of these programs of a package, which is installed if needed; the test is
    skipped if that fails.
    """
    reason = "" if any(map(shutil.which, programs)) else install(package)
    if reason:
        pytest.skip(f"no {package}; {reason}")
    return next(filter(None, map(shutil.which, programs)))


@contextmanager
def launched_chromium() -> Iterator:
    """A headless Chromium, driven by Playwright."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed (extra `dev`)"
    )
    program = require("chromium", "chromium", "chromium-browser", "google-chrome")
    with playwright.sync_playwright() as started:
        # root cannot use the sandbox
        browser = started.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


class Firefox:
    """A headless Firefox, driven by Marionette: JSON over a socket, each message preceded by its
    length.
    """

    def __init__(self, folder: Path):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        (folder / "user.js").write_text(f'user_pref("marionette.port", {port});\n')
        command = f"firefox-esr --headless --no-remote --marionette --profile {folder}"
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(
            f"{command} --width 1400 --height 900".split(),
            env={**os.environ, "HOME": str(folder)},
            **quiet,
        )
        self._socket = _connect(port)
        self._receive()
        self.call("WebDriver:NewSession")

    def call(self, name: str, **parameters):
        """Send a WebDriver command and return its result."""
        text = json.dumps([0, 1, name, parameters]).encode()
        self._socket.sendall(f"{len(text)}:".encode() + text)
        _, _, error, result = self._receive()
        assert error is None, error
        return result

    def close(self) -> None:
        """Close the browser."""
        self._socket.close()
        self._process.terminate()
        self._process.wait(timeout=30)

    def _receive(self):
        length = b""
        while not length.endswith(b":"):
            length += self._socket.recv(1)
        text = b""
        while len(text) < int(length[:-1]):
            text += self._socket.recv(1 << 20)
        return json.loads(text)


def _connect(port: int) -> socket.socket:
    for _ in range(600):
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=120)
        except ConnectionRefusedError:
            time.sleep(0.1)
    raise TimeoutError("Firefox did not start")


@contextmanager
def launched_firefox() -> Iterator[Firefox]:
    """A headless Firefox."""
    require("firefox-esr", "firefox-esr")
    with tempfile.TemporaryDirectory() as folder:
        browser = Firefox(Path(folder))
        try:
            yield browser
        finally:
            browser.close()

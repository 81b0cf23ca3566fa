"""Chromium for the tests: as root, Debian's package is installed where it is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


def find_chromium() -> str | None:
    """The browser's program."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def require_chromium() -> str:
    """The browser's program, installed if need be; the test is skipped where it cannot be had."""
    if find_chromium() is None:
        _install("chromium")
    return find_chromium()


def _install(package: str) -> None:
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip(f"no {package}; as root: apt-get install {package}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update"], ["apt-get", "install", "-y", "--no-install-recommends", package]):
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if run.returncode:
            pytest.skip(f"no {package}: {' '.join(command)}: {(run.stderr or run.stdout).strip()[-300:]}")


@contextmanager
def launched_chromium() -> Iterator:
    """A headless Chromium of Playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra `dev`)")
    program = require_chromium()
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program, args=["--no-sandbox"])  # root has no sandbox
        yield browser
        browser.close()

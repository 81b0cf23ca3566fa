"""The page ``web/muse.html`` in Chromium: it is built if Node.js is installed, and driven as a user
would.
"""

from __future__ import annotations

import csv
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.spatial import cKDTree
from viewer_tab import Window

WEB = Path(__file__).parents[2] / "web"
SAME_PX = 1.0  # distance up to which two positions are those of one nucleus


def build_page() -> Path:
    """The page, built anew; the test is skipped if Node.js or the packages from its registry are
    missing.
    """
    if shutil.which("npm") is None:
        pytest.skip("no Node.js: apt-get install nodejs npm")
    install = [] if (WEB / "node_modules").is_dir() else [["npm", "ci", "--no-audit", "--no-fund"]]
    for command in (*install, ["npm", "run", "build"]):
        done = subprocess.run(command, cwd=WEB, capture_output=True, text=True, check=False)
        if done.returncode and command[1] == "ci":
            pytest.skip(f"npm ci: {done.stderr.strip()[-300:]}")
        assert done.returncode == 0, done.stderr
    return WEB / "muse.html"


class Page(Window):
    """The page in a tab; ``workers`` limits the number of its workers."""

    def __init__(self, browser, html: Path, workers: int = 2):
        cores = f"navigator, 'hardwareConcurrency', {{ get: () => {workers} }}"
        super().__init__(browser, html.as_uri(), script=f"Object.defineProperty({cores})")

    def open(self, path: Path, mpp: float | None = None) -> str:
        """Open a file; returns what the page says instead of showing it, "" if it shows it."""
        self.page.set_input_files("#file", str(path))
        said = f"document.getElementById('said').textContent.startsWith('{path.name}:')"
        self.until(
            f"(document.querySelector('#setup h1')?.textContent === '{path.name}') || {said}"
        )
        if self.page.evaluate(said):
            return self.page.inner_text("#said")
        if mpp:
            self.page.select_option("#mpp", f"{mpp:g}")
        return ""

    def find(self) -> str:
        """Find the nuclei; returns what the page says afterwards."""
        self.page.click("#find")
        self.until("document.getElementById('cancel').hidden")
        return self.page.inner_text("#state")

    def save(self, kind: str, path: Path) -> Path:
        """Download the result as "geojson", "csv" or "png"."""
        with self.page.expect_download() as download:
            self.page.click(f"#save-{kind}")
        download.value.save_as(path)
        return path


def count_same(csv_path: Path, nuclei_path: Path) -> tuple[int, int, int, int]:
    """Nuclei of a table of the page and of ``nuclei.parquet``, and those of each that the other has
    with the class.
    """
    with csv_path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    theirs = pq.read_table(nuclei_path, columns=["x", "y", "class"]).to_pydict()
    own_xy = np.array([[float(row["x"]), float(row["y"])] for row in rows])
    own, other = (
        (own_xy, [row["class"] for row in rows]),
        np.column_stack([theirs["x"], theirs["y"]]),
    )
    tables = [own, (other, theirs["class"])]
    same = []
    for (xy, classes), (other_xy, other_classes) in (tables, tables[::-1]):
        distance, nearest = cKDTree(other_xy).query(xy)
        pairs = zip(distance, nearest, classes, strict=True)
        same.append(sum(far <= SAME_PX and name == other_classes[at] for far, at, name in pairs))
    return len(rows), len(theirs["x"]), same[0], same[1]

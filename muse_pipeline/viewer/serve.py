"""A server of results for the browsers of this machine alone, and pages that compare two results.

A comparison is ``compare/index.html`` in the folder of the first result: it shows the viewer of the first and, in
``compare/other``, the nuclei of the second on the same image.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from html import escape
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np

from muse_pipeline.cohort.layout import CohortFiles, SlideFiles
from muse_pipeline.core.errors import NucleiError, OutputError
from muse_pipeline.core.files import complete_file
from muse_pipeline.core.provenance import Provenance
from muse_pipeline.evaluation.detection import RADIUS_UM, match_points
from muse_pipeline.nuclei.parquet import read_provenance
from muse_pipeline.slides.inspect import read_info
from muse_pipeline.viewer.nuclei import NO_CLASS, iterate_batches
from muse_pipeline.viewer.page import read_image, write_slide_page, write_viewer

NO_NAME = "no class"


@dataclass(frozen=True, eq=False)
class Found:
    """The nuclei of a result.

    Attributes:
        xy_um: (n, 2) positions from the corner of level 0.
        name: (n,) str name of the class.
        score: (n,) scores.
    """

    xy_um: np.ndarray
    name: np.ndarray
    score: np.ndarray


def write_comparison(folder: Path, other: Path, threads: int = 1) -> Path:
    """Write the page that compares the slide in ``folder`` with another result of it; returns the page.

    Args:
        folder: results of the slide, in which the page is written.
        other: results of the same slide.
        threads: number of threads that make the tiles of the viewer, if it does not exist.

    Raises:
        NucleiError: either result has no nuclei, or they are of different slides.
    """
    provenances = [read_provenance(SlideFiles(each).nuclei) for each in (folder, other)]
    if provenances[0].fingerprint != provenances[1].fingerprint:
        raise NucleiError(f"{folder} and {other} are results of different slides; give two results of one slide")
    image = read_image(write_viewer(folder, threads).parent)
    with complete_file(SlideFiles(folder).comparison.parent) as partial:
        (partial / "other").mkdir(parents=True)
        shared = image and {**image, "folder": "../../viewer/tiles"}
        write_slide_page(partial / "other", other, shared)
        sides = [_describe(each, provenance) for each, provenance in zip((folder, other), provenances, strict=True)]
        kinds = list(find_differences(*(_read_found(each) for each in (folder, other)), sides))
        slide_id = provenances[0].slide_id
        content = json.dumps({"slide_id": slide_id, "sides": sides, "kinds": kinds})
        (partial / "differences.js").write_text(f"window.differences = {content};\n", encoding="ascii")
        own = files("muse_pipeline.viewer").joinpath("page")
        for name in ("compare.js", "compare.css"):
            (partial / name).write_bytes(own.joinpath(name).read_bytes())
        page = own.joinpath("compare.html").read_text(encoding="utf-8")
        title = escape(f"{slide_id}: two results", quote=True)
        (partial / "index.html").write_text(page.replace("<!-- title -->", title), encoding="utf-8")
    return SlideFiles(folder).comparison


def _describe(folder: Path, provenance: Provenance) -> dict[str, Any]:
    """The folder of the run, the model and the number of nuclei."""
    run = folder.resolve().parent.name
    return {"folder": run, "model": provenance.model.name, "n_nuclei": provenance.n_nuclei}


def _read_found(folder: Path) -> Found:
    files = SlideFiles(folder)
    provenance, mpp = read_provenance(files.nuclei), read_info(files.info).mpp
    names = np.array([*provenance.class_names, NO_NAME], object)
    batches = list(iterate_batches(files.nuclei, by_stain=False))
    label = np.concatenate([batch.label for batch in batches]) if batches else np.zeros(0, np.uint8)
    return Found(
        np.concatenate([batch.xy for batch in batches]) * mpp if batches else np.zeros((0, 2)),
        names[np.where(label == NO_CLASS, len(names) - 1, label)],
        np.concatenate([batch.score for batch in batches]) if batches else np.zeros(0),
    )


def find_differences(first: Found, second: Found, sides: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Nuclei that differ, by kind: found by one only, or of another class; those of the largest score come first.

    Two nuclei are the same if their centres lie within ``evaluation.detection.RADIUS_UM`` of each other.

    Yields:
        The kind in words, the number of nuclei, and their positions in um.
    """
    taken = match_points(second.xy_um, second.score, first.xy_um, RADIUS_UM)
    both = np.flatnonzero(taken >= 0)
    alone = np.delete(np.arange(len(first.score)), taken[both])
    kinds: dict[str, list[tuple[float, float, float]]] = {}

    def note(text: str, score: float, xy: np.ndarray) -> None:
        kinds.setdefault(text, []).append((-score, *xy.round(1).tolist()))

    for i in both[first.name[taken[both]] != second.name[both]]:
        note(f"{first.name[taken[i]]} / {second.name[i]}", min(first.score[taken[i]], second.score[i]), second.xy_um[i])
    for found, own, side in ((first, alone, "left"), (second, np.flatnonzero(taken < 0), "right")):
        for i in own:
            note(f"{found.name[i]}, {side} only", found.score[i], found.xy_um[i])
    for text, nuclei in sorted(kinds.items(), key=lambda item: (-len(item[1]), item[0])):
        yield {"text": text, "n": len(nuclei), "at": [[x, y] for _, x, y in sorted(nuclei)]}


ADDRESS = "127.0.0.1"


class ResultsHandler(SimpleHTTPRequestHandler):
    """Answers requests for files of one folder, if they were meant for this machine."""

    def do_GET(self) -> None:
        """Send a file; a page from elsewhere whose name resolves to this machine (DNS rebinding) gets nothing."""
        host = urlsplit(f"//{self.headers.get('Host', '')}").hostname
        if host not in {ADDRESS, "localhost"}:
            self.send_error(HTTPStatus.FORBIDDEN, "this server is for this machine alone")
        else:
            super().do_GET()

    do_HEAD = do_GET

    def end_headers(self) -> None:
        """Disable caching, since results may be replaced while they are viewed."""
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, *args: object) -> None:
        """Print no line per tile."""


def start_server(folder: Path, port: int = 0) -> ThreadingHTTPServer:
    """A server of ``folder`` on 127.0.0.1, at any free port for 0; ``serve_forever`` runs it.

    Raises:
        OutputError: the port is taken.
    """
    try:
        return ThreadingHTTPServer((ADDRESS, port), partial(ResultsHandler, directory=str(folder)))
    except (OSError, OverflowError) as error:
        raise OutputError(f"port {port} cannot be used ({error}); give another --port") from error


def compare_pages(results: Path, other: Path) -> list[str]:
    """Write the pages that compare slides of two runs, or of one slide's folders; their paths relative to ``results``.

    Raises:
        NucleiError: the runs have no slide in common, or as in ``write_comparison``.
    """
    if SlideFiles(results).nuclei.is_file():
        return [write_comparison(results, other).relative_to(results).as_posix()]
    shared = [name for name in CohortFiles(results).tables() if SlideFiles(other / name).nuclei.is_file()]
    if not shared:
        raise NucleiError(f"{results} and {other} have no slide with nuclei in common; give the outputs of two runs")
    pages = (write_comparison(results / name, other / name) for name in shared)
    return [quote(page.relative_to(results).as_posix()) for page in pages]


def find_pages(results: Path) -> list[str]:
    """The pages of a folder, relative to it: report and viewers, or the viewer of one slide, made if absent.

    Raises:
        NucleiError: there are no pages.
    """
    if SlideFiles(results).nuclei.is_file():
        return [write_viewer(results).relative_to(results).as_posix()]
    report = CohortFiles(results).report
    pages = [*([report] if report.is_file() else []), *sorted(results.glob("*/viewer/index.html"))]
    if not pages:
        raise NucleiError(f"{results}: has no report.html and no slide with nuclei; give the output folder of a run")
    return [quote(page.relative_to(results).as_posix()) for page in pages]

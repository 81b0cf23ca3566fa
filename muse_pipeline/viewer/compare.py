"""Two results of one slide beside each other in the browser: ``compare/index.html`` in the folder of the first.

The page shows the viewer of the first and, in ``compare/other``, the nuclei of the second on the same image.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from muse_pipeline.cohort.layout import SlideFiles
from muse_pipeline.core.errors import NucleiError
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

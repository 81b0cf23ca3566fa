"""The fields that `muse suggest` chose, on the page: each links to its position in the slide's viewer."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence

from muse_pipeline.core.text import count_noun
from muse_pipeline.nuclei.parquet import footer_checksum
from muse_pipeline.report.cohort import SlideResult
from muse_pipeline.report.html import Markup, element
from muse_pipeline.report.pictures import Album

FILE = "suggest.tsv"
UM_PER_PX = 0.35  # at which a field fills the window


def suggested_fields(album: Album, slides: Sequence[SlideResult]) -> Iterator[Markup]:
    """A list of the fields; those of nuclei that were replaced since are left out, and so is an empty list."""
    table = album.folder / FILE
    if not table.is_file():
        return
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, dialect="excel-tab"))
    current = {slide.slide_id: footer_checksum(slide.folder / "nuclei.parquet") for slide in slides if slide.summary}
    entries = [_entry(album, row) for row in rows if row["checksum"] == current.get(row["slide_id"])]
    if entries:
        yield element("h2", "Fields to check next")
        yield element("ol", *entries)


def _entry(album: Album, row: dict[str, str]) -> Markup:
    text = f"{row['slide_id']} at {row['x']}, {row['y']}"
    page = album.folder / row["slide_id"] / "viewer/index.html"
    link = f"{album.link(page)}#at={row['x']},{row['y']},{UM_PER_PX}"
    name = element("a", element("bdi", text), href=link) if page.is_file() else element("bdi", text)
    return element("li", name, f": {count_noun(int(row['nuclei']), 'nucleus', 'nuclei')}, {row['why']}")

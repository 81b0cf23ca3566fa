"""What a slide's folder of results holds, for whoever withdraws it: by name, so that a user's own files there stay."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

_TABLE = ("parquet", "csv.gz", "geojson", "geojson.gz", "part-[0-9][0-9][0-9]*.geojson*", "provenance.json")
NUCLEI = tuple(f"nuclei.{kind}" for kind in _TABLE)
PROPOSALS = tuple(f"proposals.{kind}" for kind in _TABLE)
PICTURES = ("summary.json", "density.png", "overlays/*.png")
GLASS = ("slide.json", "tissue.npz", "tissue.png", "tissue.geojson", "colour.json")
LEDGER = ("ledger/*.json",)


def results_in(folder: Path, *kinds: Iterable[str]) -> Iterator[Path]:
    """The files of these kinds, as ``NUCLEI``, that lie in a slide's ``folder``."""
    for kind in kinds:
        for pattern in kind:
            yield from folder.glob(pattern)

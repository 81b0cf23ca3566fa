"""The results of an undisturbed run of a small cohort, and the comparison of other runs with
them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SLIDE = "S"
# in folders that Snakemake wrote, unless it was killed meanwhile
TIMESTAMP = ".snakemake_timestamp"
# All results of a slide except logs and ledgers, which contain times.
RESULTS = [
    "slide.json",
    "tissue.npz",
    "tissue.geojson",
    "colour.json",
    "shards/1-of-2.parquet",
    "shards/2-of-2.parquet",
    "nuclei.parquet",
    "nuclei.geojson.gz",
    "nuclei.provenance.json",
    "summary.json",
    "density.png",
]


@dataclass(frozen=True)
class Undisturbed:
    """A finished cohort in ``folder``, the seconds that it took, and the bytes of its results."""

    folder: Path
    seconds: float
    results: dict[str, bytes]


def read_results(folder: Path) -> dict[str, bytes]:
    """Result name -> its bytes, including all files of the image; raises FileNotFoundError if a
    result is missing.
    """
    results = folder / "results" / SLIDE
    image = [path for path in results.glob("image-*.zarr/**/*") if path.is_file()]
    files = [*(results / name for name in RESULTS), *image]
    files = [path for path in files if path.name != TIMESTAMP]
    return {str(path.relative_to(results)): path.read_bytes() for path in files}


def assert_as_undisturbed(folder: Path, undisturbed: Undisturbed) -> None:
    """Assert that every result has the same bytes, and that the report exists and lists the slide
    as ok.
    """
    found = read_results(folder)
    assert found.keys() == undisturbed.results.keys()
    assert [name for name, content in found.items() if content != undisturbed.results[name]] == []
    assert (folder / "results/report.html").is_file()
    assert f"\n{SLIDE}\tok\t" in (folder / "results/cohort.tsv").read_text("utf-8")

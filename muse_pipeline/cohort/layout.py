"""Names of the result files of slides and of the cohort."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from muse_pipeline.core.text import slug

# Suffixes of the files of a table of nuclei or proposals; other files, such as a QuPath project,
# belong to the user.
TABLE_FILES = (
    "parquet",
    "csv.gz",
    "geojson.gz",
    "part-[0-9][0-9][0-9].geojson.gz",
    "provenance.json",
)
# Names of files and folders next to the folders of the slides.
BESIDE_SLIDES = frozenset(
    {
        "cohort.tsv",
        "cohort.h5ad",
        "roi.tsv",
        "statistics.tsv",
        "statistics.patients.tsv",
        "report.html",
    }
    | {"sheet.json", "model.json", "run_config.yaml", "pretraining.json", "region_model.json"}
    | {"logs", "training", "pretraining", "region_training", "qupath"}
)
# files made from the nuclei of all slides
OF_COHORT = ("cohort.h5ad", "statistics.tsv", "statistics.patients.tsv")


def store_name(mpp: float) -> str:
    """Name of the store at ``mpp``: ``image-500nm.zarr`` for 0.5 um/px."""
    return f"image-{round(mpp * 1000)}nm.zarr"


def shard_names(n_shards: int) -> list[str]:
    """Names of all shards, ``1-of-n`` to ``n-of-n``."""
    return [f"{number}-of-{n_shards}" for number in range(1, n_shards + 1)]


class _Path:
    """Descriptor of a file or folder: of an instance its path inside ``folder``, of the class its
    name.
    """

    def __init__(self, name: str):
        self._name = name

    @overload
    def __get__(self, files: None, owner: type) -> str: ...
    @overload
    def __get__(self, files: SlideFiles | CohortFiles, owner: type) -> Path: ...
    def __get__(self, files: SlideFiles | CohortFiles | None, owner: type) -> Path | str:
        return self._name if files is None else files.folder / self._name


@dataclass(frozen=True)
class SlideFiles:
    """Paths of the results of one slide."""

    folder: Path  # folder of the slide's results, RESULTS/<slide_id>

    # folder of the downloaded slide, which is removed when its images have been written
    fetched = _Path("fetched")
    info = _Path("slide.json")  # header of the slide
    mask = _Path("tissue.npz")  # the tissue mask
    picture = _Path("tissue.png")  # picture of the tissue's outline on the slide
    outline = _Path("tissue.geojson")  # outline of the tissue for QuPath
    colour = _Path("colour.json")  # stain vectors of the slide
    nuclei = _Path("nuclei.parquet")  # the table of nuclei
    csv = _Path("nuclei.csv.gz")  # the table as CSV
    geojson = _Path("nuclei.geojson.gz")  # the nuclei for QuPath
    provenance = _Path("nuclei.provenance.json")  # the provenance of the nuclei
    proposals = _Path("proposals.parquet")  # the table of proposals
    proposals_geojson = _Path("proposals.geojson.gz")  # the proposals for QuPath
    proposals_provenance = _Path("proposals.provenance.json")  # the provenance of the proposals
    summary = _Path("summary.json")  # summary of the slide for the report
    density = _Path("density.png")  # picture of the density of the nuclei
    viewer = _Path("viewer/index.html")  # the page that shows the slide and its nuclei
    anndata = _Path("nuclei.h5ad")  # the nuclei as AnnData
    bins = _Path("bins.h5ad")  # gene counts of the nuclei, written by `muse bins`
    # record of the tissue regions, or the reason why there are none
    regions = _Path("regions.json")
    region_outlines = _Path("regions.geojson")  # tissue regions for QuPath
    region_picture = _Path("regions.png")  # picture of the tissue regions
    region_map = _Path("regions.zarr")  # probabilities of the tissue classes
    artefacts = _Path("artefacts.geojson")  # areas of artefacts, for QuPath
    tma = _Path("tma.geojson")  # cores of a tissue microarray, for QuPath
    # the folder of the registered partner: its transform, pictures and stores
    partner = _Path("partner")

    def store(self, mpp: float) -> Path:
        """Path of the store at ``mpp``."""
        return self.folder / store_name(mpp)

    def shard(self, name: str) -> Path:
        """Path of the file of nuclei from one shard of the windows."""
        return self.folder / f"shards/{name}.parquet"

    def embeddings(self, model: str, nuclei: str = "") -> Path:
        """Path of a model's features for the slide's nuclei, or for nuclei in a file called
        ``nuclei``.
        """
        return (
            self.folder / f"embeddings-{'-'.join(map(slug, filter(None, [model, nuclei])))}.parquet"
        )

    def request(self, job: str) -> Path:
        """Path of the settings with which a job was last requested."""
        return self.folder / f"logs/requests/{job}.json"

    def ledger(self, step: str) -> Path:
        """Path of the ledger of a step."""
        return self.folder / f"ledger/{step}.json"

    def log(self, name: str) -> Path:
        """Path of a log, such as that of a step."""
        return self.folder / f"logs/{name}.log"


@dataclass(frozen=True)
class CohortFiles:
    """Paths of the results of a cohort."""

    folder: Path  # output folder of the run

    sheet = _Path("sheet.json")  # the resolved sheet
    model = _Path("model.json")  # the description of the model
    report = _Path("report.html")  # the report
    table = _Path("cohort.tsv")  # the table of all slides
    anndata = _Path("cohort.h5ad")  # the slides as AnnData
    roi = _Path("roi.tsv")  # the table of annotations

    def slide(self, slide_id: str) -> SlideFiles:
        """Paths of the results of one slide."""
        return SlideFiles(self.folder / slide_id)

    def tables(self) -> dict[str, Path]:
        """Paths of the existing tables of nuclei, keyed by slide_id."""
        return {path.parent.name: path for path in sorted(self.folder.glob("*/nuclei.parquet"))}


def remove_cohort_files(
    results: Path, slides: Collection[str], unrequested: Collection[str] = ()
) -> None:
    """Remove each file in ``OF_COHORT`` that is older than one of its sources, or of which a source
    is missing.

    The sources are the tables of nuclei of ``slides`` and, for files in ``unrequested``, the
    resolved sheet.
    """
    tables = [SlideFiles(results / slide).nuclei for slide in slides]
    for path in (results / name for name in OF_COHORT):
        sources = [*tables, CohortFiles(results).sheet] if path.name in unrequested else tables
        if path.exists() and not all(
            source.exists() and source.stat().st_mtime <= path.stat().st_mtime for source in sources
        ):
            path.unlink()

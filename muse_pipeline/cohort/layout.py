"""The results of a run: the names of a slide's files, and of those of the cohort."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from muse_pipeline.core.text import slug

# The files of a table of nuclei or proposals; others in the folder, such as a QuPath project, are the user's.
TABLE_FILES = ("parquet", "csv.gz", "geojson.gz", "part-[0-9][0-9][0-9].geojson.gz", "provenance.json")
# Names that stand beside the folders of the slides.
BESIDE_SLIDES = frozenset(
    {
        "cohort.tsv",
        "cohort.h5ad",
        "roi.tsv",
        "statistics.tsv",
        "statistics.patients.tsv",
        "report.html",
        "sheet.json",
        "model.json",
        "run_config.yaml",
        "preflight.json",
        "pretraining.json",
        "region_model.json",
        "logs",
        "benchmarks",
        "training",
        "pretraining",
        "region_training",
        "qupath",
    }
)
OF_COHORT = "cohort.h5ad", "statistics.tsv", "statistics.patients.tsv"  # from the nuclei of every slide


def store_name(mpp: float) -> str:
    """Name of the store at ``mpp``: ``image-500nm.zarr`` for 0.5 um/px."""
    return f"image-{round(mpp * 1000)}nm.zarr"


def shard_names(n_shards: int) -> list[str]:
    """Names of all shards, ``1-of-n`` to ``n-of-n``."""
    return [f"{number}-of-{n_shards}" for number in range(1, n_shards + 1)]


@dataclass(frozen=True)
class SlideFiles:
    """The files of one slide's results.

    Attributes:
        folder: folder of the slide's results, RESULTS/<slide_id>.
    """

    folder: Path

    @property
    def fetched(self) -> Path:
        """Folder of the copy of a slide at a URL, which is removed when its images are written."""
        return self.folder / "fetched"

    @property
    def info(self) -> Path:
        """Header of the slide, ``slide.json``."""
        return self.folder / "slide.json"

    @property
    def mask(self) -> Path:
        """The tissue mask."""
        return self.folder / "tissue.npz"

    @property
    def picture(self) -> Path:
        """Picture of the tissue's outline on the slide."""
        return self.folder / "tissue.png"

    @property
    def outline(self) -> Path:
        """Outline of the tissue for QuPath."""
        return self.folder / "tissue.geojson"

    @property
    def colour(self) -> Path:
        """Stains of the slide."""
        return self.folder / "colour.json"

    def store(self, mpp: float) -> Path:
        """The image at ``mpp``."""
        return self.folder / store_name(mpp)

    def shard(self, name: str) -> Path:
        """The nuclei of one shard of the windows."""
        return self.folder / f"shards/{name}.parquet"

    @property
    def nuclei(self) -> Path:
        """The table of nuclei."""
        return self.folder / "nuclei.parquet"

    @property
    def csv(self) -> Path:
        """The table as CSV."""
        return self.folder / "nuclei.csv.gz"

    @property
    def geojson(self) -> Path:
        """The nuclei for QuPath."""
        return self.folder / "nuclei.geojson.gz"

    @property
    def proposals(self) -> Path:
        """The table of proposals."""
        return self.folder / "proposals.parquet"

    @property
    def proposals_geojson(self) -> Path:
        """The proposals for QuPath."""
        return self.folder / "proposals.geojson.gz"

    @property
    def summary(self) -> Path:
        """Summary of the slide for the report."""
        return self.folder / "summary.json"

    @property
    def density(self) -> Path:
        """Picture of the density of the nuclei."""
        return self.folder / "density.png"

    @property
    def viewer(self) -> Path:
        """The page that shows the slide and its nuclei."""
        return self.folder / "viewer/index.html"

    def embeddings(self, model: str, nuclei: str = "") -> Path:
        """The features of a model for the nuclei, or for those in the file ``nuclei`` of another program."""
        return self.folder / f"embeddings-{'-'.join(map(slug, filter(None, [model, nuclei])))}.parquet"

    @property
    def anndata(self) -> Path:
        """The nuclei as AnnData."""
        return self.folder / "nuclei.h5ad"

    @property
    def bins(self) -> Path:
        """Counts of genes in the nuclei, by `muse bins`."""
        return self.folder / "bins.h5ad"

    @property
    def regions(self) -> Path:
        """Record of the tissue regions, or of why there are none."""
        return self.folder / "regions.json"

    @property
    def region_outlines(self) -> Path:
        """Tissue regions for QuPath."""
        return self.folder / "regions.geojson"

    @property
    def region_picture(self) -> Path:
        """Picture of the tissue regions."""
        return self.folder / "regions.png"

    @property
    def region_map(self) -> Path:
        """Probabilities of the classes of tissue."""
        return self.folder / "regions.zarr"

    @property
    def artefacts(self) -> Path:
        """Areas of artefacts, for QuPath."""
        return self.folder / "artefacts.geojson"

    @property
    def tma(self) -> Path:
        """Cores of a tissue microarray, for QuPath."""
        return self.folder / "tma.geojson"

    @property
    def partner(self) -> Path:
        """The folder of the registered partner: its transform, pictures and stores."""
        return self.folder / "partner"

    def record(self, job: str) -> Path:
        """The settings that a job was run with."""
        return self.folder / f"logs/settings/{job}.json"

    def ledger(self, step: str) -> Path:
        """Ledger of a step."""
        return self.folder / f"ledger/{step}.json"

    def log(self, name: str) -> Path:
        """Log of the steps."""
        return self.folder / f"logs/{name}.log"


@dataclass(frozen=True)
class CohortFiles:
    """The files of the results of a cohort.

    Attributes:
        folder: output folder of the run.
    """

    folder: Path

    def slide(self, slide_id: str) -> SlideFiles:
        """The results of one slide."""
        return SlideFiles(self.folder / slide_id)

    def tables(self) -> dict[str, Path]:
        """The table of nuclei of every slide that has one, by slide_id."""
        return {path.parent.name: path for path in sorted(self.folder.glob("*/nuclei.parquet"))}

    @property
    def sheet(self) -> Path:
        """The resolved sheet."""
        return self.folder / "sheet.json"

    @property
    def report(self) -> Path:
        """The report."""
        return self.folder / "report.html"

    @property
    def table(self) -> Path:
        """The table of all slides."""
        return self.folder / "cohort.tsv"

    @property
    def anndata(self) -> Path:
        """The slides as AnnData."""
        return self.folder / "cohort.h5ad"


def withdraw_of_cohort(results: Path, slides: Collection[str], unrequested: Collection[str] = ()) -> None:
    """Remove files of the cohort that are older than what they were made from, or of which that is missing.

    Args:
        results: output folder of the run.
        slides: slides whose nuclei are compared with the files.
        unrequested: names of the files that the run does not write; they are compared with the sheet too.
    """
    tables = [SlideFiles(results / slide).nuclei for slide in slides]
    for path in (results / name for name in OF_COHORT):
        sources = [*tables, CohortFiles(results).sheet] if path.name in unrequested else tables
        if path.exists() and not all(
            each.exists() and each.stat().st_mtime <= path.stat().st_mtime for each in sources
        ):
            path.unlink()

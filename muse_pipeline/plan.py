"""The jobs of every slide, derived from the sheet and the config, for `muse run` and the workflow.

Each cell of a row is a setting of the jobs that need it, but the sheet is not an input of any job,
so editing one row reruns only its slide.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from muse_pipeline.cohort.layout import TABLE_FILES, SlideFiles, shard_names, store_name
from muse_pipeline.cohort.records import UNFINISHED, Job, Records
from muse_pipeline.core.errors import SheetError
from muse_pipeline.core.files import sha256_of
from muse_pipeline.core.setting import Setting
from muse_pipeline.core.specimen import UNKNOWN
from muse_pipeline.core.types import FROM_NUCLEI
from muse_pipeline.outputs.base import Output, file_patterns, list_outputs
from muse_pipeline.settings import list_settings

NUCLEI = SlideFiles.nuclei
REGIONS = (
    SlideFiles.regions,
    SlideFiles.region_outlines,
    SlideFiles.region_picture,
    SlideFiles.region_map,
)
# names of images and shards begin like this
INTERMEDIATE = ("image-", "shards/", "proposals/", "partner/image-")

SMALL_BYTES = 8 << 20
# formats whose main file does not contain all pixels
PIXELS_ELSEWHERE = {".mrxs", ".vms", ".vmu", ".dcm"}


@dataclass(frozen=True)
class Plan:
    """The slides and settings of one run of the workflow; its methods take a slide_id as
    ``slide``.
    """

    config: Mapping[str, Any]  # the completed config
    # rows of the resolved sheet, with ``shards``, keyed by slide_id
    rows: Mapping[str, Mapping[str, Any]]
    # description of the model from `muse step model`
    model: Mapping[str, Any] = field(default_factory=dict)
    # settings of the pretraining run that the model starts from, or {}
    pretraining: Mapping[str, Any] = field(default_factory=dict)
    is_trained: bool = False  # True if the model is trained by this run
    # inputs of the pretraining run: ``mpp`` and ``codec`` of its images, ``slides`` and
    # ``partners``; {} without a pretraining run
    pretraining_data: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def settings(self) -> dict[str, Setting]:
        """Definitions of all settings, keyed by name."""
        return list_settings()

    @property
    def slides(self) -> list[str]:
        """The slide_id of every slide, in the order of the sheet."""
        return list(self.rows)

    @property
    def store(self) -> str:
        """Name of the store in which nuclei are found."""
        return store_name(self.config["mpp"])

    def folder(self, slide: str) -> str:
        """Folder of the slide's results."""
        return f"{self.config['output']}/{slide}"

    def row(self, slide: str) -> Mapping[str, Any]:
        """The slide's row of the sheet."""
        if slide not in self.rows:
            raise SheetError(f"{slide}: no such slide in {self.config['slides']}")
        return self.rows[slide]

    def is_remote(self, slide: str) -> bool:
        """True for a slide at a URL."""
        return slide in self.rows and "://" in self.rows[slide]["path"]

    def is_small(self, slide: str) -> bool:
        """True if the slide is a small file on this machine."""
        path = Path(self.row(slide)["path"])
        return (
            path.suffix.lower() not in PIXELS_ELSEWHERE
            and path.is_file()
            and path.stat().st_size < SMALL_BYTES
        )

    def state(self, slide: str, column: str) -> str:
        """``state_of_files`` of the file named in ``column`` of the slide's row and, for MIRAX, of
        its pixel files.
        """
        path = Path(self.row(slide).get(column) or "")
        pixels = sorted(path.with_suffix("").glob("*")) if path.suffix.lower() == ".mrxs" else []
        return state_of_files([path, *pixels])

    def image_settings(self, slide: str) -> dict[str, Any]:
        """All settings that affect the image of a slide."""
        row = self.row(slide)
        return {
            "slide": row["path"],
            "slide files": self.state(slide, "path"),
            "mpp": row.get("mpp") or "of the file",
            "roi": version_of_file(row.get("roi")),
            "image mpp": self.config["mpp"],
            "max_corrupt": self.config["max_corrupt"],
            "third_stain": self.config["third_stain"],
        }

    def detection_settings(self, slide: str) -> dict[str, Any]:
        """All settings that detection depends on, apart from those of the image."""
        return {
            "model": name_version(self.model["name"], self.model.get("sha256")),
            "provider": self.model["provider"],
            "training": self.config["model"] if self.is_trained else None,
            "pretraining": self.pretraining if self.is_trained and self.pretraining else None,
            "stain": self.row(slide).get("stain") or UNKNOWN,
        }

    @property
    def maps_nuclei(self) -> bool:
        """True if tissue regions come from the classes of the nuclei."""
        return self.config["regions"] == FROM_NUCLEI

    def nuclei_settings(self, slide: str) -> dict[str, Any]:
        """All settings that a slide's nuclei and its pictures depend on, including those of earlier
        jobs.

        Earlier jobs are included because a killed run with changed settings leaves old nuclei but
        no shards, and Snakemake does not recreate missing inputs of a file that it considers up to
        date.
        """
        row = self.row(slide)
        columns = {column for output in self.outputs for column in output.columns}
        return {
            **self.image_settings(slide),
            **self.detection_settings(slide),
            "shards": row["shards"],
            "regions": version_of_file(row.get("regions") or self.config["regions"]),
            **{column: row.get(column) for column in sorted(columns)},
            **{
                name: self.config[name]
                for name, setting in self.settings.items()
                if setting.job == "nuclei"
            },
        }

    def proposals_settings(self, slide: str) -> dict[str, Any]:
        """All settings that the proposals of a slide depend on, including those of earlier jobs."""
        return {
            **self.image_settings(slide),
            "shards": self.row(slide)["shards"],
            "proposals": self.config["proposals"],
            "files of proposals": state_of_files(self.proposer_inputs(slide)),
        }

    def proposer_inputs(self, slide: str) -> list[str]:
        """Detections of a different program, from which the slide's proposals are made.

        A missing file is left out, so that only the jobs of its slide fail.
        """
        path = str(self.config["proposals"].get("file", "")).replace("{slide}", slide)
        return [path] if Path(path).is_file() and without_patterns([path]) else []

    def partner_settings(self, slide: str) -> dict[str, Any]:
        """All settings that the registered partner of a slide depends on."""
        row, columns = self.row(slide), ("partner", "partner_transform")
        own = {column: [row.get(column), self.state(slide, column)] for column in columns}
        return {**self.image_settings(slide), **own, "partner mpp": self.pretraining_data["mpp"]}

    def records(self, slide: str) -> Records:
        """The requests and results of the slide's jobs."""
        return Records(Path(self.folder(slide)), self.jobs(slide))

    def jobs(self, slide: str) -> list[Job]:
        """The jobs of a slide that the config requests, each after those whose files it reads."""
        jobs = list(self._list_jobs(slide))
        if self.config["keep_stores"]:
            return jobs
        return [
            replace(job, temporary=[name for name in job.writes if name.startswith(INTERMEDIATE)])
            for job in jobs
        ]

    def _list_jobs(self, slide: str) -> Iterator[Job]:
        header = [SlideFiles.info, SlideFiles.mask]
        pixels = [self.store, SlideFiles.colour]
        shards = shard_names(self.row(slide)["shards"])
        steps = [
            *(["fetch"] if self.is_remote(slide) else []),
            "inspect",
            "tissue",
            f"tile-{self.store}",
        ]
        image = self.image_settings(slide)
        written = [*header, SlideFiles.picture, SlideFiles.outline, *pixels]
        yield Job(
            "image", image, writes=written, steps=steps, removes=[*written, SlideFiles.fetched]
        )
        for store, codec in self.other_stores(slide).items():
            settings = {**image, "codec": codec}
            yield Job("tile", settings, header, [store], wildcards={"store": store})
        if slide in self.pretraining_data.get("partners", ()):
            store = f"partner/{store_name(self.pretraining_data['mpp'])}"
            yield Job(
                "partner",
                self.partner_settings(slide),
                header,
                [f"{SlideFiles.partner}/partner.json", store],
            )
        if self.config["proposals"]:
            yield from self._proposals_jobs(slide, header, pixels, shards)
        for name in shards:
            yield Job(
                "detect",
                self.detection_settings(slide),
                pixels,
                [f"shards/{name}.parquet"],
                wildcards={"shard": name},
            )
        if self.is_mapped(slide):
            of_nuclei = [f"shards/{name}.parquet" for name in shards] if self.maps_nuclei else []
            settings = {
                "regions": version_of_file(self.config["regions"]),
                "provider": self.model["provider"],
            }
            yield Job(
                "regions",
                settings,
                [*header, *pixels, *of_nuclei],
                [SlideFiles.regions],
                removes=REGIONS,
                outcome=SlideFiles.regions,
            )
        yield self._nuclei_job(slide, header, pixels, shards)

    def is_mapped(self, slide: str) -> bool:
        """True if a job maps the tissue regions of a slide, for which the sheet names no areas."""
        return bool(self.config["regions"]) and not self.row(slide).get("regions")

    def _proposals_jobs(
        self, slide: str, header: list[str], pixels: list[str], shards: Iterable[str]
    ) -> Iterator[Job]:
        settings = self.proposals_settings(slide)
        files = [f"proposals/{name}.parquet" for name in shards]
        for name, file in zip(shards, files, strict=True):
            read = [*pixels, SlideFiles.info]
            yield Job("propose", settings, read, [file], wildcards={"shard": name})
        written = [
            SlideFiles.proposals,
            SlideFiles.proposals_geojson,
            SlideFiles.proposals_provenance,
        ]
        yield Job(
            "proposals",
            {**settings, "frame": self.config["frame"]},
            [*files, *header],
            written,
            steps=["stitch-proposals", "geojson-proposals"],
            removes=[f"proposals.{kind}" for kind in TABLE_FILES],
        )

    def _nuclei_job(
        self, slide: str, header: list[str], pixels: list[str], shards: Iterable[str]
    ) -> Job:
        read = [*header, *(f"shards/{name}.parquet" for name in shards)]
        read += pixels if self.reads_pixels else [self.store]
        read += [SlideFiles.regions] if self.is_mapped(slide) else []
        written = [NUCLEI, *(name.rstrip("/") for name in self.output_names)]
        steps = ["stitch", *(output.step for output in self.outputs)]
        removed = [*(f"nuclei.{kind}" for kind in TABLE_FILES), *file_patterns()]
        return Job(
            "nuclei", self.nuclei_settings(slide), read, written, steps=steps, removes=removed
        )

    def unrequested_jobs(self, slide: str) -> list[Job]:
        """Jobs that are not requested, with settings that differ from those of any request."""
        unmapped = Job("regions", {"regions": None}, removes=REGIONS)
        return [] if self.is_mapped(slide) else [unmapped]

    @cached_property
    def outputs(self) -> list[Output]:
        """The outputs that the config requests."""
        return list_outputs(self.config)

    @property
    def output_names(self) -> list[str]:
        """Names of the files of the outputs in a slide's folder; names of folders end in "/"."""
        model = self.model["name"]
        return [name for output in self.outputs for name in output.file_names(model)]

    @property
    def reads_pixels(self) -> bool:
        """True if the job `nuclei` measures the image."""
        return self.config["features"] != "none" or bool(self.config["quality"])

    def other_stores(self, slide: str) -> dict[str, str]:
        """The codec of every image of the slide in addition to ``store``, keyed by the image's
        name.
        """
        mpps = self.config["extra_mpps"] if self.config["keep_stores"] else []
        stores = {store_name(mpp): "zstd" for mpp in mpps}
        if slide in self.pretraining_data.get("slides", ()):
            stores[store_name(self.pretraining_data["mpp"])] = self.pretraining_data["codec"]
        return {store: codec for store, codec in stores.items() if store != self.store}


def find_replaced(records: Records) -> list[str]:
    """Phrases for what has changed since a slide's nuclei were found; empty if the run does not
    replace any, and ``UNFINISHED`` alone if the last run did not finish them.
    """
    job = next((job for job in records.outdated if job.name == "nuclei"), None)
    if job is None or not (records.folder / NUCLEI).exists():
        return []
    return [UNFINISHED] if records.is_unfinished(job) else records.changes()


def without_patterns(paths: Iterable[str]) -> list[str]:
    """Those paths that Snakemake would not expand as patterns; the others cannot be inputs of a
    rule.
    """
    return [path for path in paths if not re.search("[{}<>*?]", path)]


def state_of_files(paths: Iterable[str | Path]) -> str:
    """A checksum of the sizes and modification times of those files that exist.

    It also changes if an input is replaced by an older file, as by `cp -p` or `rsync -a`; Snakemake
    itself looks only for newer inputs.
    """
    states = [path.stat() for path in map(Path, paths) if path.is_file()]
    return hashlib.sha256(
        repr([(state.st_size, int(state.st_mtime)) for state in states]).encode()
    ).hexdigest()


def version_of_file(path: str | None) -> str:
    """The name of a file, with the beginning of its checksum if it exists; "none" if no path is
    given.
    """
    if not path or not Path(path).is_file():
        return Path(path).name if path else "none"
    return name_version(Path(path).name, _checksum(path, Path(path).stat().st_mtime_ns))


@cache
def _checksum(path: str, time_ns: int) -> str:
    """SHA-256 of a file, cached until the file is written again."""
    return sha256_of(path)


def name_version(name: str, sha256: str | None) -> str:
    """The name of a model or file with the beginning of its checksum, or with a note if it has none
    yet.
    """
    return f"{name} ({sha256[:8]})" if sha256 else f"{name} (still to be trained)"

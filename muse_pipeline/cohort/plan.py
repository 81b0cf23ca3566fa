"""Inputs and parameters of a slide's jobs, derived from the sheet and the config for the rules of the workflow.

Each cell of a row is a parameter of the rules that need it, but the sheet is not an input of any rule, so editing one
row reruns only its slide.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from muse_pipeline.cohort.changes import name_version, version_of_file
from muse_pipeline.cohort.layout import SlideFiles, shard_names, store_name
from muse_pipeline.core.errors import SheetError
from muse_pipeline.core.setting import Setting
from muse_pipeline.core.specimen import UNKNOWN

SMALL_BYTES = 8 << 20
PIXELS_ELSEWHERE = {".mrxs", ".vms", ".vmu", ".dcm"}  # formats whose main file does not contain all pixels
THREADS = 4


@dataclass(frozen=True)
class Plan:
    """The slides and settings of one run of the workflow; its methods take a slide_id as ``slide``.

    Attributes:
        config: the completed config.
        rows: rows of the resolved sheet, keyed by slide_id, each with its number of ``shards``.
        model: description of the model from `muse model`.
        pretraining: settings of the pretraining run that the model starts from, or {}.
        is_trained: True if the model is trained by this run.
        settings: definitions of the workflow's settings, keyed by name.
    """

    config: Mapping[str, Any]
    rows: Mapping[str, Mapping[str, Any]]
    model: Mapping[str, Any] = field(default_factory=dict)
    pretraining: Mapping[str, Any] = field(default_factory=dict)
    is_trained: bool = False
    settings: Mapping[str, Setting] = field(default_factory=dict)

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
        """The slide's row of the sheet.

        Raises:
            SheetError: there is no such row.
        """
        if slide not in self.rows:
            raise SheetError(f"{slide}: no such slide in {self.config['slides']}")
        return self.rows[slide]

    def option(self, slide: str, flag: str, column: str) -> list[Any]:
        """The flag with the slide's cell in ``column``, or nothing if the cell is empty."""
        return option(flag, self.row(slide).get(column))

    def is_remote(self, slide: str) -> bool:
        """True for a slide at a URL."""
        return slide in self.rows and "://" in self.rows[slide]["path"]

    def argument(self, slide: str) -> str:
        """The path that a step opens: that of the slide, or of the folder with its copy if the slide is at a URL."""
        path = self.row(slide)["path"]
        return f"{self.folder(slide)}/fetched" if self.is_remote(slide) else path

    def argument_and_source(self, slide: str) -> list[str]:
        """``argument``, and for a fetched slide ``--source`` with its URL, so that a changed URL reruns the slide."""
        source = ["--source", self.row(slide)["path"]] if self.is_remote(slide) else []
        return [self.argument(slide), *source]

    def input(self, slide: str) -> list[str]:
        """The slide's file, or the folder with its copy, as an input of a rule."""
        return [self.argument(slide)] if self.is_remote(slide) else self.file(slide, "path")

    def file(self, slide: str, column: str) -> list[str]:
        """The file that the slide's row names in ``column``, as an input of a rule; empty if there is none.

        Paths that Snakemake would read as patterns are left out, as are files dated in the future, since no result
        could be newer.
        """
        path = self.row(slide).get(column)
        return [path] if path and not re.search("[{}<>]", path) and not _is_dated_ahead(path) else []

    def state(self, slide: str, column: str) -> str:
        """``state_of_files`` of the file named in ``column`` of the slide's row and, for MIRAX, of its pixel files."""
        path = Path(self.row(slide).get(column) or "")
        pixels = sorted(path.with_suffix("").glob("*")) if path.suffix.lower() == ".mrxs" else []
        return state_of_files([path, *pixels])

    def regions(self, slide: str) -> list[str]:
        """The slide's tissue regions as an input of a rule: from the sheet, or else from the config's region model."""
        if self.row(slide).get("regions") or not self.config.get("regions"):
            return self.file(slide, "regions")
        return [f"{self.folder(slide)}/regions.json"]

    def regions_option(self, slide: str) -> list[Any]:
        """``regions`` as an option of `stitch`."""
        mapped = self.folder(slide) if self.config.get("regions") else None
        return option("--regions", self.row(slide).get("regions") or mapped)

    def options(self, job: str) -> list[str]:
        """The settings of a job as options of its command; settings with default values are left out."""
        read = [each for each in self.settings.values() if each.job == job]
        return [word for each in read for word in each.arguments(self.config[each.name])]

    def embeddings_file(self, slide: str) -> str:
        """Path of the model's features for the slide's nuclei."""
        return str(SlideFiles(Path(self.folder(slide))).embeddings(self.model["name"]))

    def embeddings(self, slide: str) -> list[str]:
        """``embeddings_file`` as an input of a rule; empty unless the config requests embeddings."""
        return [self.embeddings_file(slide)] if self.config.get("embedding") else []

    def embeddings_option(self, slide: str) -> list[Any]:
        """``embeddings`` as an option of `anndata`."""
        return option("--embeddings", *(self.embeddings(slide) or [None]))

    def threads(self, slide: str) -> int:
        """Number of threads for a job of the slide; 1 for a small file, which is read before more threads can start."""
        path = Path(self.row(slide)["path"])
        is_small = path.suffix.lower() not in PIXELS_ELSEWHERE and path.is_file() and path.stat().st_size < SMALL_BYTES
        return 1 if is_small else THREADS

    def shards(self, slide: str, folder: str = "shards") -> list[str]:
        """Paths of the slide's shards in ``folder``, which contains shards of nuclei or of proposals."""
        return [f"{self.folder(slide)}/{folder}/{name}.parquet" for name in shard_names(self.row(slide)["shards"])]

    def every_shard(self, slides: Iterable[str], folder: str = "shards") -> list[str]:
        """Paths of the shards of all ``slides``."""
        return [path for slide in slides for path in self.shards(slide, folder)]

    def files(self, *names: str, slides: Iterable[str] | None = None) -> list[str]:
        """Paths of the files called ``names`` of all slides, or of ``slides``."""
        return [f"{self.folder(slide)}/{name}" for slide in (self.rows if slides is None else slides) for name in names]

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
            "third_stain": self.config["third_stain"] or None,  # None, as in records of versions without this setting
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

    def regions_settings(self, slide: str) -> dict[str, Any]:
        """All settings that the regions of a slide depend on."""
        return {"regions": version_of_file(self.config["regions"]), "provider": self.model["provider"]}

    def nuclei_settings(self, slide: str) -> dict[str, Any]:
        """All settings that a slide's nuclei and its pictures depend on, including those of earlier jobs.

        Earlier jobs are included because a killed run with changed settings leaves old nuclei but no shards, and
        Snakemake does not recreate missing inputs of a file that it considers up to date.
        """
        drawn = self.row(slide).get("regions")
        return {
            **self.image_settings(slide),
            **self.detection_settings(slide),
            "shards": self.row(slide)["shards"],
            "regions": version_of_file(drawn or self.config["regions"]),
            **{name: self.config[name] for name, each in self.settings.items() if each.job == "nuclei"},
        }

    def job_settings(self, slide: str) -> dict[str, dict[str, Any]]:
        """The settings that every job of a slide depends on, keyed by the name of the job's record."""
        shards = shard_names(self.row(slide)["shards"])
        return {
            "image": self.image_settings(slide),
            **{f"detect-{name}": self.detection_settings(slide) for name in shards},
            **({"regions": self.regions_settings(slide)} if self.config["regions"] else {}),
            "nuclei": self.nuclei_settings(slide),
            "embed": self.detection_settings(slide),
            **dict.fromkeys(("anndata", "spatialdata"), self.scverse_settings(slide)),
        }

    def scverse_settings(self, slide: str) -> dict[str, Any]:
        """All settings that the files for scanpy and SpatialData depend on."""
        return {
            "patient": self.row(slide).get("patient"),
            "embeddings": [Path(path).name for path in self.embeddings(slide)],
        }

    def proposals_settings(self, slide: str) -> dict[str, Any]:
        """All settings that the proposals of a slide depend on, including those of earlier jobs."""
        return {
            **self.image_settings(slide),
            "shards": self.row(slide)["shards"],
            "proposals": self.config["proposals"],
        }


def option(flag: str, value: Any) -> list[Any]:
    """A flag with its value as arguments of a command; empty if the value is None."""
    return [] if value is None else [flag, value]


def without_patterns(paths: Iterable[str]) -> list[str]:
    """Those paths that Snakemake would not expand as patterns; the others cannot be inputs of a rule."""
    return [path for path in paths if not re.search("[{}<>*?]", path)]


def state_of_files(paths: Iterable[str | Path]) -> str:
    """A checksum of the sizes and modification times of those files that exist.

    It also changes if an input is replaced by an older file, as by `cp -p` or `rsync -a`; Snakemake itself looks only
    for newer inputs.
    """
    found = [path.stat() for path in map(Path, paths) if path.is_file()]
    return hashlib.sha256(repr([(one.st_size, int(one.st_mtime)) for one in found]).encode()).hexdigest()


def _is_dated_ahead(path: str) -> bool:
    """True if a file is dated in the future."""
    return Path(path).exists() and Path(path).stat().st_mtime > time.time()

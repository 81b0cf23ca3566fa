"""Files and options of the workflow's jobs, and the slides that are not finished."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from muse_pipeline.cohort.layout import CohortFiles, SlideFiles, shard_names
from muse_pipeline.cohort.ledgers import show_warnings
from muse_pipeline.cohort.records import Job, Records, describe_changes
from muse_pipeline.cohort.settings import (
    pretraining_run,
    require_columns,
    require_fitting_model,
    require_plain_output,
    training_file,
    write_if_changed,
)
from muse_pipeline.cohort.sheet import read_resolved, read_sheet
from muse_pipeline.core.environment import count_cores
from muse_pipeline.core.files import read_json, write_json
from muse_pipeline.inference.model import describe_model
from muse_pipeline.outputs.geojson import require_measurements
from muse_pipeline.plan import NUCLEI, Plan, find_replaced
from muse_pipeline.settings import require_available

# slides; a process starts in a second, and a job of a cluster in 15
LEAST_IN_BATCH, MOST_IN_BATCH = 10, 50
THREADS = 4


# Options of Snakemake with which no job is executed, so that nothing is written.
READING = {
    *("--lint", "--list-rules", "--list", "-l", "--list-target-rules", "--lt", "--report"),
    *("--dag", "--rulegraph", "--filegraph", "--d3dag", "--summary", "-S", "--unlock"),
    *("--detailed-summary", "-D", "--list-changes", "--archive", "--containerize"),
    *("--cleanup-metadata", "--delete-all-output", "--delete-temp-output"),
}


def only_reads(arguments: Iterable[str]) -> bool:
    """True if these arguments of Snakemake execute no job, apart from those of a dry run."""
    return not READING.isdisjoint(word.partition("=")[0] for word in arguments)


class WorkflowPlan(Plan):
    """The plan of a run of the workflow, with the inputs and options of its rules."""

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], model: Mapping[str, Any] | None = None
    ) -> WorkflowPlan:
        """Plan a run of the workflow, after checks of its sheet, its model and what is installed.

        Without a description of a model that is trained or run by a device, the model's file is
        read.
        """
        require_plain_output(config)
        require_available(config)
        if config["statistics"]:
            require_columns(config)
        with show_warnings("sheet", []):
            rows = {row.slide_id: row.to_dict() for row in read_sheet(config["slides"])}
        model = model or describe_model(config["model"], config["provider"])
        require_fitting_model(config, model)
        require_measurements(
            config["measurements"], config["features"], model["classes"], config["cells"]
        )
        rows = {
            slide: {**row, "shards": row.get("shards") or config["shards"]}
            for slide, row in rows.items()
        }
        return cls(config, rows, model, pretraining_run(config), bool(training_file(config)))

    @classmethod
    def from_records(cls, config: Mapping[str, Any]) -> WorkflowPlan:
        """The plan of a run whose main process has written the sheet and the model to the output
        folder.
        """
        files = CohortFiles(Path(config["output"]))
        rows = {row["slide_id"]: row for row in read_resolved(files.sheet)}
        return cls(
            config,
            rows,
            read_json(files.model),
            pretraining_run(config),
            bool(training_file(config)),
        )

    def option(self, slide: str, flag: str, column: str) -> list[Any]:
        """The flag with the slide's cell in ``column``, or nothing if the cell is empty."""
        return option(flag, self.row(slide).get(column))

    def argument(self, slide: str) -> str:
        """The path that a step opens: that of the slide, or of the folder with its copy if the
        slide is at a URL.
        """
        path = self.row(slide)["path"]
        return f"{self.folder(slide)}/fetched" if self.is_remote(slide) else path

    def argument_and_source(self, slide: str) -> list[str]:
        """``argument``, and for a fetched slide ``--source`` with its URL, which its results
        name.
        """
        source = ["--source", self.row(slide)["path"]] if self.is_remote(slide) else []
        return [self.argument(slide), *source]

    def input(self, slide: str) -> list[str]:
        """The slide's file, or the folder with its copy, as an input of a rule."""
        return [self.argument(slide)] if self.is_remote(slide) else self.file(slide, "path")

    def file(self, slide: str, column: str) -> list[str]:
        """The file that the slide's row names in ``column``, as an input of a rule; empty if there
        is none.

        Paths that Snakemake would read as patterns are left out, as are files dated in the future,
        since no result could be newer.
        """
        path = self.row(slide).get(column)
        is_ahead = path and Path(path).exists() and Path(path).stat().st_mtime > time.time()
        return [path] if path and not (is_ahead or re.search("[{}<>]", path)) else []

    def regions(self, slide: str) -> list[str]:
        """The slide's tissue regions as an input of a rule: from the sheet, or else from the
        config's region model.
        """
        if self.is_mapped(slide):
            return [f"{self.folder(slide)}/{SlideFiles.regions}"]
        return self.file(slide, "regions")

    def regions_option(self, slide: str) -> list[Any]:
        """``regions`` as an option of `stitch`."""
        mapped = self.folder(slide) if self.config["regions"] else None
        return option("--regions", self.row(slide).get("regions") or mapped)

    def threads(self, slide: str) -> int:
        """Number of threads for a job of the slide; 1 for a small file, which is read before more
        threads can start.
        """
        return 1 if self.is_small(slide) else THREADS

    def batches(self, slides: Iterable[str]) -> dict[str, list[str]]:
        """The small ones among ``slides``, in batches that one process runs each, keyed by the name
        of the batch.

        There are none if other jobs of the workflow need the files of single steps.
        """
        if self.is_trained or any(
            self.config[name] for name in ("proposals", "regions", "extra_mpps")
        ):
            return {}
        small = [slide for slide in slides if self.is_small(slide)]
        size = min(max(math.ceil(len(small) / count_cores()), LEAST_IN_BATCH), MOST_IN_BATCH)
        n = math.ceil(len(small) / size)
        return {f"{number + 1}-of-{n}": small[number::n] for number in range(n)}

    def shards(self, slide: str, folder: str = "shards") -> list[str]:
        """Paths of the slide's shards in ``folder``, which contains shards of nuclei or of
        proposals.
        """
        return [
            f"{self.folder(slide)}/{folder}/{name}.parquet"
            for name in shard_names(self.row(slide)["shards"])
        ]

    def files(self, *names: str, slides: Iterable[str]) -> list[str]:
        """Paths of the files called ``names`` of slides."""
        return [f"{self.folder(slide)}/{name}" for slide in slides for name in names]


class Unfinished:
    """The slides that are not finished, and the requests of jobs.

    The process of a job (``is_job``) writes no requests. A dry run has a ``placeholder``, a new
    file that stands for every request that a run would write.
    """

    def __init__(self, plan: WorkflowPlan, is_job: bool = False, placeholder: Path | None = None):
        self.plan = plan
        self._is_job = is_job
        self._placeholder = placeholder
        self.outdated: dict[str, list[Job]] = {}  # the jobs to run of every unfinished slide
        # phrases for the changes of slides whose nuclei the run replaces
        self.replaced: dict[str, list[str]] = {}
        self.with_nuclei: list[str] = []  # unfinished slides that have nuclei of an earlier run
        # unfinished slides that are run in batches, keyed by the batch
        self.batches: dict[str, list[str]] = {}
        self._batch_of: dict[str, str] = {}
        # paths of requests -> files that stand for them in a dry run
        self._in_place: dict[Path, Path] = {}

    def find(self, everything: bool) -> None:
        """Find the unfinished slides, or take all slides if ``everything`` is True, and write their
        requests.
        """
        for slide in self.plan.slides:
            records = self.plan.records(slide)
            if jobs := records.jobs if everything else records.outdated:
                self.outdated[slide] = jobs
                self.with_nuclei += [slide] if (records.folder / NUCLEI).exists() else []
                self.replaced |= {slide: changes} if (changes := find_replaced(records)) else {}
                self._write(records)
        self.batches = {} if everything else self.plan.batches(self.outdated)
        self._batch_of = {
            slide: batch for batch, slides in self.batches.items() for slide in slides
        }
        for batch, slides in {} if self._placeholder else self.batches.items():
            write_if_changed(
                self.rows_of_batch(batch), json.dumps([self.plan.row(slide) for slide in slides])
            )

    def describe(self) -> list[str]:
        """The model, and the results that the run replaces, in lines of text."""
        model = self.plan.model
        name = model.get("model", model["name"])
        return [f"model: {name}, provider {model['provider']}", *describe_changes(self.replaced)]

    def announce(self, file: Path) -> None:
        """Write what the logger plugin reads: the last job of every slide, and the batches."""
        last = {slide: jobs[-1] for slide, jobs in self.outdated.items()}
        plan = {
            "results": self.plan.config["output"],
            "last_jobs": {slide: [job.rule, job.wildcards] for slide, job in last.items()},
            "batches": self.batches,
        }
        write_json(file, plan)

    def _write(self, records: Records) -> None:
        if self._placeholder:
            for job in records.jobs:
                self._in_place[records.request(job)] = (
                    records.find_request(job) or self._placeholder
                )
        elif not self._is_job:
            records.write_requests()

    def request(self, slide: str, job: str) -> str:
        """Path of the request of a slide's job."""
        path = Path(self.plan.folder(slide), f"logs/requests/{job}.json")
        return str(self._in_place.get(path, path))

    def request_of_cohort(self, job: Job, folder: str) -> str:
        """Write the request of a job that is not of one slide and writes to ``folder``, and return
        its path.
        """
        records = Records(Path(folder), [job])
        self._write(records)
        return str(self._in_place.get(path := records.request(job), path))

    def rows_of_batch(self, batch: str) -> Path:
        """Path of the resolved sheet of a batch."""
        return self._placeholder or Path(self.plan.config["output"], f"logs/batches/{batch}.json")

    def end_of_batch(self, batch: str) -> str:
        """Path of a file that exists once a batch is done."""
        return f"{self.plan.config['output']}/logs/batches/{batch}.done"

    def inputs(
        self, names: Sequence[str], slides: Iterable[str], finished: Callable[[str], str]
    ) -> list[str]:
        """Paths of the files called ``names`` of slides, as inputs of a rule.

        The function ``finished`` marks a file of a finished slide, so that Snakemake plans no jobs
        for it. The files of a slide in a batch are replaced by the end of the batch.
        """
        paths = {}
        for slide in slides:
            if slide in self._batch_of:
                paths[self.end_of_batch(self._batch_of[slide])] = None
            else:
                files = self.plan.files(*names, slides=[slide])
                paths |= dict.fromkeys(files if slide in self.outdated else map(finished, files))
        return list(paths)

    def missing(self) -> Iterator[str]:
        """Yield paths of what the run has to make: the ends of batches, and the files of outdated
        jobs of other slides.

        Of a job that has written nothing, only the first file is needed.
        """
        yield from map(self.end_of_batch, self.batches)
        for slide in self.outdated:
            for job in [] if slide in self._batch_of else self.outdated[slide]:
                files = self.plan.files(*job.kept, slides=[slide])
                yield from files if files and Path(files[0]).exists() else files[:1]


def option(flag: str, value: Any) -> list[Any]:
    """A flag with its value as arguments of a command; empty if the value is None."""
    return [] if value is None else [flag, value]

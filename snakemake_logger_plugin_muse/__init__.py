"""A logger plugin of Snakemake (`logger: muse` in a profile): a line for every slide in place of
messages about jobs.

Snakemake's messages about jobs are in .snakemake/log, and the output of steps is in
<results>/<slide_id>/logs. With `--printshellcmds` or `--verbose`, Snakemake's messages are printed,
too. At the end of a run, the plugin prints the summary that the report has written to
<results>/logs/report.log.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

PROGRESS_S = (
    60  # a line about the progress of the run is printed if there was no other line for so long
)
ABOUT_JOBS = {
    *(LogEvent.JOB_INFO, LogEvent.JOB_STARTED, LogEvent.JOB_FINISHED, LogEvent.JOB_ERROR),
    *(LogEvent.GROUP_INFO, LogEvent.GROUP_ERROR, LogEvent.SHELLCMD, LogEvent.WORKFLOW_STARTED),
}


class Announced:
    """What the workflow announces before its jobs start."""

    results: Path | None = None  # folder of the results; None if no workflow of this package is run
    last_jobs: Mapping[
        str, str
    ] = {}  # the name of the last planned job of every slide, keyed by slide_id
    # the slides of every batch, keyed by its name; a job of the rule `small_slides` runs a batch
    batches: Mapping[str, Sequence[str]] = {}


class StartedJob(NamedTuple):
    """A job that has started: its name, as in ``muse_pipeline.plan``, and its slide; "" if it is
    not of one slide.
    """

    name: str
    slide: str


class LogHandler(LogHandlerBase):
    """Prints lines about slides, and those messages of Snakemake that are not about jobs."""

    writes_to_stream, writes_to_file = True, False
    has_filter = has_formatter = needs_rulegraph = False

    def __post_init__(self) -> None:
        """Note the time at which the run starts."""
        self.stream = sys.stdout if self.common_settings.stdout else sys.stderr
        self.shows_jobs = self.common_settings.printshellcmds or self.common_settings.verbose
        self.started = self.printed = time.time()
        self.jobs: dict[int, StartedJob] = {}
        self.ended: set[str] = set()
        self.has_planned = self.has_failed = False

    def emit(self, record: logging.LogRecord) -> None:
        """Print a message of Snakemake, or lines in its place, or nothing."""
        try:
            for line in self.lines(record):
                self.print(line)
            if self.shows_jobs or self.is_shown(record):
                self.print(self.format(record))
        except Exception:
            self.handleError(record)

    def print(self, text: str) -> None:
        """Print a line at once."""
        print(text, file=self.stream, flush=True)
        self.printed = time.time()

    def is_shown(self, record: Any) -> bool:
        """True for a message that is printed although jobs are not shown."""
        event = getattr(record, "event", None)
        if event == LogEvent.RUN_INFO:  # the table of jobs, which a dry run prints twice
            is_first, self.has_planned = not self.has_planned, True
            return is_first
        if event == LogEvent.PROGRESS:
            return time.time() - self.printed > PROGRESS_S
        if (
            event == LogEvent.ERROR
        ):  # every failure of a job raises a RuleException, and a WorkflowError ends the run
            return not ((self.jobs and record.exception == "RuleException") or self.has_failed)
        is_note = (
            event is None and record.levelno <= logging.INFO
        )  # such as "Select jobs to execute..."
        return event not in ABOUT_JOBS and not (
            is_note and self.has_planned and not self.common_settings.dryrun
        )

    def lines(self, record: Any) -> Iterator[str]:
        """Yield a line for every slide whose last job has finished, and for every failure."""
        event = getattr(record, "event", None)
        if event == LogEvent.JOB_INFO:
            others = [value for name, value in record.wildcards.items() if name != "slide"]
            name = "-".join([record.rule_name.replace("_", "-"), *others])
            self.jobs[record.jobid] = StartedJob(name, record.wildcards.get("slide", ""))
        elif event == LogEvent.JOB_FINISHED and (job := self.jobs.get(record.job_id)):
            if job.slide and Announced.last_jobs.get(job.slide) == job.name:
                yield self.count(job.slide, self.describe_end(job.slide, job.name))
            yield from self.describe_batch(job)
        elif event == LogEvent.JOB_ERROR and not record.indent:
            batch = list(self.describe_batch(self.jobs[record.jobid]))
            yield from batch or [self.describe_failure(record.jobid, record.log)]
            self.has_failed = True
        elif event == LogEvent.GROUP_ERROR:
            failed = {
                self.jobs[info["jobid"]].slide: info for info in reversed(record.job_error_info)
            }
            yield from (
                self.describe_failure(info["jobid"], info["log"]) for info in failed.values()
            )
            self.has_failed = True

    def count(self, slide: str, text: str) -> str:
        """A line about the end of a slide, with the number of slides that have ended."""
        self.ended.add(slide)
        return (
            f"{slide}: {text} ({len(self.ended)} of"
            f" {max(len(Announced.last_jobs), len(self.ended))})"
        )

    def describe_batch(self, job: StartedJob) -> Iterator[str]:
        """Yield a line for every slide of a batch that has ended; none if the job is of no
        batch.
        """
        for slide in Announced.batches.get(job.name.removeprefix("small-slides-"), ()):
            problem = find_problem(slide)
            yield self.count(slide, problem or self.describe_end(slide, job.name))

    def describe_end(self, slide: str, job: str) -> str:
        """The number of a slide's nuclei, and the time of the steps that this run has repeated."""
        from muse_pipeline.cohort.layout import SlideFiles
        from muse_pipeline.cohort.ledgers import describe_nuclei
        from muse_pipeline.core.files import read_json

        files = SlideFiles(Announced.results / slide)
        if job.startswith("tile-"):
            return "further images written"
        ledgers = [
            path
            for path in files.folder.glob("ledger/*.json")
            if path.stat().st_mtime >= self.started
        ]
        seconds = sum(read_json(path)["seconds"] for path in ledgers)
        return f"{describe_nuclei(read_json(files.summary))}, {seconds:.1f} s"

    def describe_failure(self, jobid: int, logs: Sequence[str]) -> str:
        """The step of a slide that has failed, with the reason in its ledger, or the last line of
        another job's log.
        """
        job = self.jobs[jobid]
        if job.slide and (problem := find_problem(job.slide)):
            return self.count(job.slide, problem)
        lines = (
            Path(logs[0]).read_text(encoding="utf-8").splitlines()
            if logs and Path(logs[0]).is_file()
            else []
        )
        text = (
            f"{job.name} failed: {lines[-1] if lines else 'no output'}; see"
            f" {logs[0] if logs else '.snakemake/log'}"
        )
        return self.count(job.slide, text) if job.slide else text

    def close(self) -> None:
        """Print the last lines of a run: those of its report, if it has written one."""
        log = Announced.results and Announced.results / "logs/report.log"
        if self.jobs and not self.common_settings.dryrun:
            if log and log.is_file() and log.stat().st_mtime >= self.started:
                self.print(log.read_text(encoding="utf-8").rstrip())
            elif not self.has_failed:
                self.print("The requested part is done.")
        self.jobs = {}  # Python closes handlers again when it exits
        super().close()


def find_problem(slide: str) -> str:
    """The step of a slide that has failed, with the reason in its ledger; "" if no step has
    recorded a failure.
    """
    from muse_pipeline.cohort.ledgers import first_problem, read_progress

    problem = first_problem(read_progress(Announced.results / slide))
    return (
        f"{problem.step} failed: {problem.reason}" if problem and problem.status == "failed" else ""
    )

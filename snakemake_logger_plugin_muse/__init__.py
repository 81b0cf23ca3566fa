"""A logger plugin of Snakemake (`logger: muse` in a profile): a line for every slide in place of
messages about jobs.

Snakemake's messages about jobs are in .snakemake/log, and the output of steps is in
<results>/<slide_id>/logs. With `--printshellcmds` or `--verbose`, Snakemake's messages are printed,
too. At the end of a run, the plugin prints the summary that the report has written to
<results>/logs/report.log.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

# a line about the progress of the run is printed if there was no other line for so long
PROGRESS_S = 60
ABOUT_JOBS = {
    *(LogEvent.JOB_INFO, LogEvent.JOB_STARTED, LogEvent.JOB_FINISHED, LogEvent.JOB_ERROR),
    *(LogEvent.GROUP_INFO, LogEvent.GROUP_ERROR, LogEvent.SHELLCMD, LogEvent.WORKFLOW_STARTED),
}


def plan_file() -> Path:
    """The file in which the workflow of this process describes its plan."""
    return Path(f".snakemake/muse-{os.getpid()}.json")


class StartedJob(NamedTuple):
    """A job that has started: its rule, its slide ("" if it is not of one slide), and its other
    wildcards.
    """

    rule: str
    slide: str
    wildcards: dict[str, str]


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

    @cached_property
    def plan(self) -> dict[str, Any]:
        """What the workflow has planned (``muse_pipeline.workflow.Unfinished.announce``)."""
        from muse_pipeline.core.files import find_json

        return find_json(plan_file()) or {"results": None, "last_jobs": {}, "batches": {}}

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
        # Every failure of a job raises a RuleException, and a WorkflowError ends the run.
        if event == LogEvent.ERROR:
            return not ((self.jobs and record.exception == "RuleException") or self.has_failed)
        # such as "Select jobs to execute..."
        is_note = event is None and record.levelno <= logging.INFO
        is_of_run = self.has_planned and not self.common_settings.dryrun
        return event not in ABOUT_JOBS and not (is_note and is_of_run)

    def lines(self, record: Any) -> Iterator[str]:
        """Yield a line for every slide whose last job has finished, and for every failure."""
        event = getattr(record, "event", None)
        if event == LogEvent.JOB_INFO:
            others = dict(record.wildcards)
            slide = others.pop("slide", "")
            self.jobs[record.jobid] = StartedJob(record.rule_name, slide, others)
        elif event == LogEvent.JOB_FINISHED and (job := self.jobs.get(record.job_id)):
            if self.plan["last_jobs"].get(job.slide) == [job.rule, job.wildcards]:
                yield self.count(job.slide, self.describe_end(job.slide, job.rule))
            yield from self.describe_batch(job)
        elif event == LogEvent.JOB_ERROR and not record.indent:
            batch = list(self.describe_batch(self.jobs[record.jobid]))
            yield from batch or [self.describe_failure(record.jobid, record.log)]
            self.has_failed = True
        elif event == LogEvent.GROUP_ERROR:
            infos = reversed(record.job_error_info)
            failed = {self.jobs[info["jobid"]].slide: info for info in infos}
            for info in failed.values():
                yield self.describe_failure(info["jobid"], info["log"])
            self.has_failed = True

    def count(self, slide: str, text: str) -> str:
        """A line about the end of a slide, with the number of slides that have ended."""
        self.ended.add(slide)
        n_slides = max(len(self.plan["last_jobs"]), len(self.ended))
        return f"{slide}: {text} ({len(self.ended)} of {n_slides})"

    def describe_batch(self, job: StartedJob) -> Iterator[str]:
        """Yield a line for every slide of a batch that has ended; none if the job is of no
        batch.
        """
        for slide in self.plan["batches"].get(job.wildcards.get("batch"), ()):
            problem = self.find_problem(slide)
            yield self.count(slide, problem or self.describe_end(slide, job.rule))

    def describe_end(self, slide: str, rule: str) -> str:
        """The number of a slide's nuclei, and the time of the steps that this run has repeated."""
        from muse_pipeline.cohort.layout import SlideFiles
        from muse_pipeline.cohort.ledgers import describe_nuclei
        from muse_pipeline.core.files import read_json

        files = SlideFiles(Path(self.plan["results"], slide))
        if rule == "tile":
            return "further images written"
        ledgers = files.folder.glob("ledger/*.json")
        ours = [path for path in ledgers if path.stat().st_mtime >= self.started]
        seconds = sum(read_json(path)["seconds"] for path in ours)
        return f"{describe_nuclei(read_json(files.summary))}, {seconds:.1f} s"

    def describe_failure(self, jobid: int, logs: Sequence[str]) -> str:
        """The step of a slide that has failed, with the reason in its ledger, or the last line of
        another job's log.
        """
        job = self.jobs[jobid]
        if job.slide and (problem := self.find_problem(job.slide)):
            return self.count(job.slide, problem)
        log = Path(logs[0]) if logs else None
        lines = log.read_text(encoding="utf-8").splitlines() if log and log.is_file() else []
        name, reason = "-".join([job.rule, *job.wildcards.values()]), (lines or ["no output"])[-1]
        text = f"{name} failed: {reason}; see {log or '.snakemake/log'}"
        return self.count(job.slide, text) if job.slide else text

    def close(self) -> None:
        """Print the last lines of a run: those of its report, if it has written one."""
        log = Path(self.plan["results"] or "", "logs/report.log")
        plan_file().unlink(missing_ok=True)
        if self.jobs and not self.common_settings.dryrun:
            if log.is_file() and log.stat().st_mtime >= self.started:
                self.print(log.read_text(encoding="utf-8").rstrip())
            elif not self.has_failed:
                self.print("The requested part is done.")
        self.jobs = {}  # Python closes handlers again when it exits
        super().close()

    def find_problem(self, slide: str) -> str:
        """The step of a slide that has failed, with the reason in its ledger; "" if no step has
        recorded a failure.
        """
        from muse_pipeline.cohort.ledgers import first_problem, read_progress

        problem = first_problem(read_progress(Path(self.plan["results"] or "", slide)))
        is_failed = problem and problem.status == "failed"
        return f"{problem.step} failed: {problem.reason}" if is_failed else ""

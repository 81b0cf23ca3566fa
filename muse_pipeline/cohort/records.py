"""Requests: the settings that each job of a slide is run with, from which every later run finds the
jobs to repeat.

The request of a job is a JSON file that is written before the job runs. The job is current if its
request contains the settings of this run, and if all its files exist and none is older than the
request or than a file that the job reads. `muse run` repeats the jobs that are not current. So does
Snakemake, which compares the same times, because the rules have requests as inputs.

If a run is stopped before a job begins, the results still belong to the request before, which is
kept next to the new one: they are current again for a run with the earlier settings.
"""

import json
import math
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from muse_pipeline.cohort.layout import SlideFiles
from muse_pipeline.cohort.ledgers import failed_steps
from muse_pipeline.core.errors import OutputError
from muse_pipeline.core.files import find_json, remove, write_json
from muse_pipeline.core.text import count_noun, some_of
from muse_pipeline.slides.remote import is_url

# Phrases that replace the values of settings where a reader could not interpret the values.
PHRASES = {
    "slide": "slide files at another location",
    "slide files": "changed slide files",
    **{name: f"other settings of {name}" for name in ("training", "pretraining", "proposals")},
}


@dataclass(frozen=True)
class Job:
    """A job of a slide; its files are named relative to the slide's folder."""

    rule: str  # rule of the workflow that runs it
    settings: Mapping[str, Any]  # all settings on which the results depend, keyed by name
    reads: Sequence[str] = ()  # files of other jobs that it reads
    writes: Sequence[str] = ()  # files and folders that it writes
    # files in ``writes`` that are deleted when no other job needs them
    temporary: Sequence[str] = ()
    steps: Sequence[str] = ()  # names of the ledgers of its steps; by default its own name
    # glob patterns of files that are removed before it runs; by default ``writes``
    removes: Sequence[str] = ()
    wildcards: Mapping[str, str] = field(default_factory=dict)  # of the rule, besides the slide
    # file in ``writes`` with the status of the job, which is repeated if this is "failed"
    outcome: str = ""

    @property
    def name(self) -> str:
        """Name of its request."""
        return "-".join([self.rule.replace("_", "-"), *self.wildcards.values()])

    @property
    def kept(self) -> list[str]:
        """The files that must exist once the job is finished."""
        return [name for name in self.writes if name not in self.temporary]

    @property
    def ledgers(self) -> Sequence[str]:
        """Names of the ledgers of its steps."""
        return self.steps or [self.name]


@dataclass(eq=False)
class Records:
    """The requests of a slide's jobs, each after those whose files it reads, and the state of their
    results.
    """

    folder: Path
    jobs: Sequence[Job]

    def request(self, job: Job) -> Path:
        """Path of the last request of a job."""
        return SlideFiles(self.folder).request(job.name)

    def _request_before(self, job: Job) -> Path:
        return self.request(job).with_suffix(".before.json")

    def find_request(self, job: Job) -> Path | None:
        """The request with the settings of this run to which results may belong; None if there is
        none, or if the job was killed, so that Snakemake finds a new request and repeats the job.
        """
        last, before = self.request(job), self._request_before(job)
        outcome = find_json(self.folder / job.outcome) if job.outcome else None
        if (outcome or {}).get("status") == "failed" or self._was_killed(job):
            return None
        if compare(find_json(last), job.settings) == {}:
            return last
        is_again = compare(find_json(before), job.settings) == {} and self._is_untouched(job)
        return before if is_again else None

    def write_requests(self) -> None:
        """Write the requests that this run changes."""
        for job in self.jobs:
            current = self.find_request(job)
            last = self.request(job)
            before = self._request_before(job)
            if current == before:
                before.replace(last)
            elif current is None:
                if last.exists() and not (before.exists() and self._is_untouched(job)):
                    (
                        last.replace(before)
                        if self._is_complete(job)
                        else before.unlink(missing_ok=True)
                    )
                write_json(last, job.settings)

    def is_current(self, job: Job) -> bool:
        """True if the results of a job are complete and were made with the settings of this run."""
        request = self.find_request(job)
        if request is None:
            return False
        times = [time for name in job.reads if (time := self._time(name)) is not None]
        return self._is_complete(job, max([request.stat().st_mtime_ns, *times]))

    def _was_killed(self, job: Job) -> bool:
        """True if the last step of a job was killed, even after its last file: its ledger is empty
        until it ends.
        """
        try:
            return not SlideFiles(self.folder).ledger(job.ledgers[-1]).stat().st_size
        except OSError:
            return False

    @cached_property
    def outdated(self) -> list[Job]:
        """The jobs to run: those that are not current or read files that are made again, or that
        make missing files.
        """
        chosen = {job.name for job in self.jobs if not self.is_current(job)}
        n_before = -1
        while len(chosen) > n_before:
            n_before = len(chosen)
            repeated = [job for job in self.jobs if job.name in chosen]
            rewritten = {name for job in repeated for name in job.writes}
            missing = {name for job in repeated for name in job.reads if self._time(name) is None}
            chosen |= {
                job.name
                for job in self.jobs
                if rewritten & set(job.reads) or missing & set(job.writes)
            }
        return [job for job in self.jobs if job.name in chosen]

    def begin(self) -> list[Job]:
        """Remove what outdated jobs wrote earlier, write their requests, and return these jobs."""
        outdated = self.outdated
        self.withdraw(outdated)
        for step in {step for job in outdated for step in job.ledgers}:
            SlideFiles(self.folder).ledger(step).unlink(missing_ok=True)
        self.write_requests()
        return outdated

    def withdraw(self, jobs: Iterable[Job]) -> None:
        """Remove the results of jobs."""
        for path in {path for job in jobs for path in self.find_results(job)}:
            try:
                remove(path)
            except OSError as error:
                raise OutputError(
                    f"{path}: cannot be removed ({error.strerror}); give another --output"
                ) from error

    def withdraw_failed(self) -> None:
        """After a step of the slide failed, remove the results that jobs which did not run should
        have replaced.
        """
        if failed := failed_steps(self.folder):
            # so that the next run fetches a corrected original
            remove(SlideFiles(self.folder).fetched)
            missing = {name for job in self.jobs for name in job.kept if self._time(name) is None}
            waiting = [job for job in self.jobs if not failed & set(job.ledgers)]
            self.withdraw(
                [job for job in waiting if missing & set(job.reads) or not self.is_current(job)]
            )

    def find_results(self, job: Job) -> set[Path]:
        """Paths of the files that a job has written in an earlier run, and that its next run
        replaces.
        """
        return {path for pattern in job.removes or job.writes for path in self.folder.glob(pattern)}

    def remove_unrequested(self, others: Iterable[Job]) -> None:
        """Remove what no requested job explains: failed steps, and results of ``others`` with
        different settings.
        """
        failed = failed_steps(self.folder)
        for job in others:
            if compare(find_json(self.request(job)), job.settings) or failed & set(job.ledgers):
                self.withdraw([job])
                self.request(job).unlink(missing_ok=True)
        for step in failed - {step for job in self.jobs for step in job.ledgers}:
            SlideFiles(self.folder).ledger(step).unlink(missing_ok=True)

    def changes(self) -> list[str]:
        """Phrases for what has changed since the results of outdated jobs were made."""
        phrases = {}
        for job in self.outdated:
            before = self._request_before(job)
            made_with = find_json(
                before if before.exists() and self._is_untouched(job) else self.request(job)
            )
            changed = compare(made_with, job.settings)
            if changed is None and any(self._time(name) for name in job.writes):
                changed = {"": "settings that are not recorded"}
            phrases |= dict.fromkeys(changed.values() if changed else self._explain(job))
        return list(phrases)

    def _explain(self, job: Job) -> Iterator[str]:
        """Phrases for the files because of which a job is not current although its settings have
        not changed.
        """
        yield from (
            f"{Path(name).name} is missing" for name in job.kept if self._time(name) is None
        )
        rewritten = {name for other in self.outdated for name in other.writes}
        oldest = min(
            (time for name in job.writes if (time := self._time(name)) is not None),
            default=math.inf,
        )
        newer = (
            name for name in job.reads if name not in rewritten and (self._time(name) or 0) > oldest
        )
        yield from (f"{Path(name).name} is newer than the results made from it" for name in newer)

    def is_unfinished(self, job: Job) -> bool:
        """True if a job with the settings of this run was stopped before its end."""
        is_stopped = self._times(job) is None or self._was_killed(job)
        return is_stopped and compare(find_json(self.request(job)), job.settings) == {}

    def _is_complete(self, job: Job, since_ns: int | None = None) -> bool:
        """True if all files of a job exist and none is older than ``since_ns``, by default the time
        of its request.
        """
        times = self._times(job)
        since_ns = self.request(job).stat().st_mtime_ns if since_ns is None else since_ns
        return times is not None and min(times, default=since_ns) >= since_ns

    def _is_untouched(self, job: Job) -> bool:
        """True if all files of a job exist and are older than its last request: no job has begun
        since.
        """
        times = self._times(job)
        requested_ns = self._time(f"logs/requests/{job.name}.json")
        return times is not None and max(times, default=0) < (requested_ns or 0)

    def _times(self, job: Job) -> list[int] | None:
        """The times of all files of a job that exist; None if a file that must exist is missing."""
        times = {name: self._time(name) for name in job.writes}
        if None in map(times.get, job.kept):
            return None
        return [time for time in times.values() if time is not None]

    def _time(self, name: str) -> int | None:
        """Modification time of a file as Snakemake compares it, in ns; None if the file is
        missing.
        """
        path = self.folder / name
        try:
            state = path.stat()
            stamp = path / ".snakemake_timestamp"  # the time of a folder
            return (
                stamp.stat() if stat.S_ISDIR(state.st_mode) and stamp.exists() else state
            ).st_mtime_ns
        except OSError:
            return None


UNFINISHED = "unfinished"  # in place of changes: an earlier run was stopped before the end


def compare(before: Any, now: Mapping[str, Any]) -> dict[str, str] | None:
    """Phrases for settings that differ from those in a request, keyed by name, such as "csv false
    -> true".

    None if ``before`` is not the content of a request.
    """
    if not isinstance(before, dict):
        return None
    return {
        name: PHRASES.get(name) or f"{name} {_word(before.get(name))} -> {_word(value)}"
        for name, value in now.items()
        if before.get(name) != value
        and (before.get(name) or value)  # a setting that earlier versions lack is off
        and not (name == "slide" and _is_same_file(before.get(name), value))
    }


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _is_same_file(before: Any, now: str) -> bool:
    """True if the earlier path of a slide leads to the same file, for example through a link."""
    return (
        isinstance(before, str)
        and not is_url(now)
        and Path(before).resolve() == Path(now).resolve()
    )


def describe_changes(changes: Mapping[str, Sequence[str]]) -> list[str]:
    """Describe in lines of text which results a run replaces: every change with its slides; empty
    if there is none.

    ``changes`` has the phrases for every slide whose results are replaced, keyed by slide_id.
    """
    slides_of = {}
    for slide_id, phrases in changes.items():
        for change in phrases:
            slides_of.setdefault(change, []).append(slide_id)
    unfinished = slides_of.pop(UNFINISHED, [])
    continued = [f"This run continues {some_of(unfinished)}."] if unfinished else []
    if not slides_of:
        return continued
    n_replaced = len(changes) - len(unfinished)
    return [
        *continued,
        f"This run replaces the finished results of {count_noun(n_replaced, 'slide')}:",
        *(
            f"  {change}: {count_noun(len(names), 'slide')} ({some_of(names)})"
            for change, names in slides_of.items()
        ),
        "To keep them, stop the run and give another output folder.",
    ]

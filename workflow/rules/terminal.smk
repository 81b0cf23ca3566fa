"""The terminal output of a run: the results that it replaces, and a line for every slide that is done or has failed.

Snakemake's messages about jobs are in .snakemake/log, and the output of steps is in <results>/{slide}/logs. With
`--printshellcmds` or `--verbose`, Snakemake's messages are printed, too.
"""

import logging
from collections import Counter, defaultdict

from snakemake.logging import logger
from snakemake_interface_logger_plugins.common import LogEvent

from muse_pipeline.cohort.ledgers import describe_nuclei, find_failure

PROGRESS_S = 60
NO_REASON = "was killed or could not write (out of memory, time or disk space?)"
FINISHED = []  # slides that have nuclei of an earlier run
ABOUT_JOBS = "Select jobs to execute", "Removing temporary output", "--keep-incomplete mode is set"


class TerminalFilter(logging.Filter):
    """Prints a line per slide in place of Snakemake's messages about its jobs, and only failures of other jobs."""

    def __init__(self):
        self.job_of_id, self.jobs_of_slide = {}, defaultdict(list)
        self.n_left, self.ended = Counter(), set()
        self.has_shown_stats, self.printed_at = False, time.monotonic()
        self.shows = {
            **dict.fromkeys([LogEvent.WORKFLOW_STARTED, LogEvent.JOB_INFO, LogEvent.JOB_STARTED], lambda record: False),
            LogEvent.GROUP_INFO: lambda record: False,
            LogEvent.RUN_INFO: self.is_first_table,
            LogEvent.PROGRESS: lambda record: time.monotonic() - self.printed_at > PROGRESS_S,
            LogEvent.JOB_FINISHED: self.finish,
            LogEvent.JOB_ERROR: self.fail,
            LogEvent.GROUP_ERROR: self.fail_group,
            LogEvent.ERROR: lambda record: not (self.job_of_id and record.exception == "RuleException"),
        }

    def filter(self, record):
        """True if Snakemake is to print its message."""
        shows = self.shows.get(getattr(record, "event", None))
        try:
            shown = shows(record) if shows else not str(record.msg).startswith(ABOUT_JOBS)
        except Exception:  # a version of Snakemake with different messages, which are then printed
            shown = True
        self.printed_at = time.monotonic() if shown else self.printed_at
        return shown

    def start(self):
        """Collect the jobs of every slide when the run starts."""
        for job in slide_jobs():
            self.job_of_id[job.jobid] = job
            self.jobs_of_slide[job.wildcards.slide].append(job)
        self.n_left.update({slide: len(jobs) for slide, jobs in self.jobs_of_slide.items()})

    def is_first_table(self, record):
        """True for the first table of jobs; a dry run prints it twice."""
        was_shown, self.has_shown_stats = self.has_shown_stats, True
        return not was_shown

    def finish(self, record):
        """Print a slide's line if this was its last job."""
        if job := self.job_of_id.get(record.job_id):
            slide = job.wildcards.slide
            self.n_left[slide] -= 1
            if not self.n_left[slide]:
                self.print_slide(slide, describe_finished(self.jobs_of_slide[slide]))
        return False

    def fail(self, record):
        """Print why a job failed; a job in a group is reported with its group."""
        job = self.job_of_id.get(record.jobid)
        if job and not record.indent:
            self.print_failure([job], record.rule_msg)
        return not job

    def fail_group(self, record):
        """Print why a group of jobs failed."""
        jobs = [job for info in record.job_error_info if (job := self.job_of_id.get(info["jobid"]))]
        if jobs:
            self.print_failure(jobs)
        return not jobs

    def print_failure(self, jobs, message=None):
        """Print the line of a failed slide, with the first reason that its jobs recorded."""
        step, reason = find_failure(ledgers_of(jobs)) or (jobs[0].rule.name, message or NO_REASON)
        self.print_slide(jobs[0].wildcards.slide, f"{step} failed: {reason}")

    def print_slide(self, slide, text):
        """Print a slide's line, with the number of slides that have ended."""
        self.ended.add(slide)
        print(f"{slide}: {text} ({len(self.ended)} of {len(self.n_left)})", flush=True)
        self.printed_at = time.monotonic()


def slide_jobs():
    """The slides' jobs that have to run."""
    jobs = filter(workflow.dag.needrun, workflow.dag.jobs)  # because `needrun_jobs` is empty at the end of a dry run
    return [job for job in jobs if not job.is_group() and "slide" in job.wildcards.keys()]


def ledgers_of(jobs):
    """Paths of the ledgers of a slide's jobs, in the order of its steps."""
    slide = jobs[0].wildcards.slide
    names = {job.rule.name.replace("_", "-") for job in jobs}
    steps = [step for job in PLAN.jobs(slide) if {job.name, job.name.partition("-")[0]} & names for step in job.ledgers]
    return [Path(PLAN.folder(slide), f"ledger/{step}.json") for step in steps]


def describe_finished(jobs):
    """Text for a finished slide: the number of its nuclei and the time of its jobs."""
    if not any(job.rule.name == "nuclei" for job in jobs):
        return f"{', '.join(sorted({job.rule.name for job in jobs}))} done"
    summary = Path(OUTPUT, jobs[0].wildcards.slide, "summary.json")
    found = describe_nuclei(json.loads(summary.read_text(encoding="utf-8")))
    seconds = sum(json.loads(ledger.read_text(encoding="utf-8"))["seconds"] for ledger in ledgers_of(jobs))
    return f"{found}, {seconds:.1f} s"


def has_results(slide):
    """True if a slide has nuclei from an earlier run."""
    return Path(OUTPUT, slide, "nuclei.provenance.json").is_file()


def print_replaced():
    """Print which results the run replaces, and why."""
    if lines := describe_changes(REPLACED):
        print(*lines, sep="\n", flush=True)


def require_cores():
    """Reject `--jobs` on this machine, where it would remove the limit on cores."""
    if workflow.local_exec and workflow.resource_settings.nodes is not None:
        n = workflow.resource_settings.nodes
        sys.exit(f"--jobs {n}: does not limit the cores used on this machine; give `--cores {n}` instead")


def lift_rate_limit():
    """Lift the limit on jobs per second on this machine, for which Snakemake plans again every second after each job."""
    if workflow.local_exec:
        workflow.scheduler.job_rate_limiter = None


TERMINAL = TerminalFilter()
if workflow.is_main_process and not (workflow.output_settings.printshellcmds or workflow.output_settings.verbose):
    for handler in logger.handlers:
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
            handler.addFilter(TERMINAL)
if workflow.output_settings.dryrun:
    atexit.register(print_replaced)

"""The terminal output of a run: the results that it replaces, and a line for every slide that is done or has failed.

Snakemake's messages about jobs are in .snakemake/log, and the output of steps is in <results>/{slide}/logs. With
`--printshellcmds` or `--verbose`, Snakemake's messages are printed, too.
"""

import logging
from collections import Counter, defaultdict

from snakemake.logging import logger
from snakemake_interface_logger_plugins.common import LogEvent

PROGRESS_S = 60
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
        noted = [failure for job in jobs if (failure := outcome.find_failure(ledger_entries(job)))]
        step, reason = noted[0] if noted else (jobs[0].rule.name, message or outcome.NO_REASON)
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


# The steps of jobs that have several; any other job has a single ledger, which is one of its logs.
STEPS_OF_JOBS = {
    "image": ["inspect", "tissue", f"tile-{STORE}"],
    "nuclei": ["stitch", *dict.fromkeys(output.step for output in WRITTEN_WITH_NUCLEI if not output.by_stitch)],
}


def ledger_entries(job):
    """The ledger entries of a job's steps."""
    folder = Path(PLAN.folder(job.wildcards.slide), "ledger")
    own = [ledger] if (ledger := getattr(job.log, "ledger", None)) else []
    steps = STEPS_OF_JOBS.get(job.rule.name, [])
    return outcome.read_entries([*(folder / f"{step}.json" for step in steps), *map(Path, own)])


def describe_finished(jobs):
    """Text for a finished slide: the number of its nuclei and the time of its jobs."""
    if not any(job.rule.name == "nuclei" for job in jobs):
        return f"{', '.join(sorted({job.rule.name for job in jobs}))} done"
    summary = Path(OUTPUT, jobs[0].wildcards.slide, "summary.json")
    found = outcome.describe_nuclei(json.loads(summary.read_text(encoding="utf-8")))
    return f"{found}, {sum(entry['seconds'] for job in jobs for entry in ledger_entries(job)):.1f} s"


def describe_replaced():
    """Text about the finished results that the run replaces, and why; empty if it replaces none."""
    again = defaultdict(list)
    for job in slide_jobs():
        again[job.wildcards.slide].append(job)
    again = {slide: jobs for slide, jobs in again.items() if "nuclei" in {job.rule.name for job in jobs}}
    replaced = [slide for slide in SLIDES if slide in again and has_results(slide)]
    return "\n".join(
        describe_changes({slide: list(CHANGES[slide]) or rerun_reasons(again[slide]) for slide in replaced})
    )


def rerun_reasons(jobs):
    """The reasons why Snakemake reruns jobs of a slide although no settings have changed."""
    reasons = [(job.rule.name, workflow.dag.reason(job)) for job in jobs]
    missing = [file for _, reason in reasons for file in reason.missing_output if not file.flags.get("temp")]
    newer = [file for _, reason in reasons for file in reason.updated_input]
    found = {f"{Path(file).name} is missing" for file in missing}
    found |= {f"{Path(file).name} is newer than the results made from it" for file in newer}
    found |= {f"changed inputs or rule of {name}" for name, reason in reasons if reason.is_provenance_triggered()}
    return sorted(found) or ["requested again, or made with a model that is made again"]


def has_results(slide):
    """True if a slide has nuclei from an earlier run."""
    return Path(OUTPUT, slide, "nuclei.provenance.json").is_file()


def print_replaced():
    """Print which results the run replaces, and why."""
    if workflow.dag and (lines := describe_replaced()):
        print(lines, flush=True)


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
